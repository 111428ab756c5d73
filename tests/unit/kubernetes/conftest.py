"""Steps as pods: the provider's real code over real HTTP against a cluster whose pods are local processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Image
from on_cluster import IMAGE, NAMESPACE, World
from servers import airflow_home_of_its_own, forget_deployment

# Before the test modules import Airflow.
airflow_home_of_its_own()
# Between two looks at a failing API; a test has no time for the default.
os.environ["AIRFLOW__WORKERS__API_RETRY_WAIT_MIN"] = "0.1"
os.environ["AIRFLOW__WORKERS__API_RETRY_WAIT_MAX"] = "0.3"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """An empty cluster with the namespace ``ml`` and an image of this environment."""
    with Cluster(tmp_path / "cluster") as found:
        found.namespace(NAMESPACE)
        found.images[IMAGE] = Image(python=sys.executable)
        yield found


@pytest.fixture
def world(cluster: Cluster, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A deployment whose Kubernetes connection leads to the cluster."""
    forget_deployment(monkeypatch)
    monkeypatch.setenv("AIRFLOW__ML__STORE", store)
    connection = {
        "conn_type": "kubernetes",
        "extra": {"kube_config_path": str(cluster.kubeconfig), "namespace": NAMESPACE},
    }
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
    return World(cluster, store, tmp_path)
