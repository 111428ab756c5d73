"""One real deployment for all integration tests: PostgreSQL, MLflow and Airflow with the ready DAGs."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Image

from airflow_api import AirflowApi
from demo import Demo
from deployment import Deployment
from deployment_processes import DeploymentRecord, free_port

REPOSITORY = Path(__file__).parents[2]
# The password of the mlflow connection; no document, log or database may ever repeat it.
PLANTED = "planted-secret-7f3a"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Kubernetes whose pods are processes, for DAGs whose steps are pods."""
    home = tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True)
    with home as folder, Cluster(Path(folder)) as found:
        found.namespace("ml")
        found.images["mlsteps:dev"] = Image(python=sys.executable)
        yield found


@pytest.fixture(scope="session")
def deployment(cluster: Cluster) -> Iterator[Deployment]:
    """A running deployment, ended afterwards."""
    # Not below pytest's own folder, which pytest closes to the user that PostgreSQL has when run by root.
    with tempfile.TemporaryDirectory(prefix="deployment-", ignore_cleanup_errors=True) as folder:
        yield from _deployment(Path(folder), cluster)


def _deployment(home: Path, cluster: Cluster) -> Iterator[Deployment]:
    dags = home / "dags"
    shutil.copytree(REPOSITORY / "dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(__file__).parent / "dags", dags, dirs_exist_ok=True)
    (home / "faults").mkdir()
    port = free_port(None, [])
    DeploymentRecord(settings="", ports={"mlflow": port}).write(home / "deployment.json")
    connection = {
        "conn_type": "mlflow",
        "host": "http://127.0.0.1",
        "port": port,
        "login": "someone",
        "password": PLANTED,
    }
    environment = {
        "FAULTS_FOLDER": str(home / "faults"),
        "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps(connection),
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(
            {"conn_type": "kubernetes", "extra": {"kube_config_path": str(cluster.kubeconfig)}}
        ),
        # A worker that was killed is noticed after so many seconds without a sign of life.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    }
    with Deployment(home, dags, environment, say=print) as running:
        yield running


@pytest.fixture(scope="session")
def planted_password() -> str:
    """The password of the mlflow connection."""
    return PLANTED


@pytest.fixture(scope="session")
def api(deployment: Deployment) -> AirflowApi:
    """Airflow's REST API."""
    return AirflowApi(deployment.airflow_url)


@pytest.fixture(scope="session")
def story(deployment: Deployment) -> Demo:
    """The whole demo, played once: ingest, train, backfill, monitor, retrain."""
    demo = Demo(deployment)
    demo.play()
    return demo
