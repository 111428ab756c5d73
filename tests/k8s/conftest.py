"""What only a real cluster shows; collected by `make test-k8s`."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import RealCluster
from servers import airflow_home_of_its_own

# Before the test modules import Airflow.
airflow_home_of_its_own()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without an image there is no cluster to run on."""
    return None if config.getoption("image") else True


@pytest.fixture
def place(real_cluster: RealCluster, monkeypatch: pytest.MonkeyPatch) -> RealCluster:
    """The cluster, with a store of its own for each test."""
    real_cluster.new_store()
    for name, value in real_cluster.environment.items():
        monkeypatch.setenv(name, value)
    return real_cluster
