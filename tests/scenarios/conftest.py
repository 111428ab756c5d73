"""One suite, every place: local processes and the API double always, a real cluster on demand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from places import Double, Local, Place, RealCluster
from servers import airflow_home_of_its_own, forget_deployment

# Before the test modules import Airflow.
airflow_home_of_its_own()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        real = metafunc.config.getoption("image")
        metafunc.parametrize("place", ["cluster"] if real else ["local", "double"], indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A deployment that has nothing yet."""
    forget_deployment(monkeypatch)
    if request.param == "local":
        found: Place = Local(tmp_path)
        yield _within(found, monkeypatch)
    elif request.param == "double":
        with Cluster(tmp_path / "cluster") as cluster:
            yield _within(Double(cluster, tmp_path), monkeypatch)
    else:
        real: RealCluster = request.getfixturevalue("real_cluster")
        real.new_store()
        yield _within(real, monkeypatch)


def _within(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    return place
