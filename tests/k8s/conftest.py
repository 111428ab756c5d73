"""What only a real cluster shows; collected by `make test-k8s`."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from places import RealCluster

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


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
