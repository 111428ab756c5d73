"""The demo with every step in the cluster: the same DAG files, another default compute and store."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from places import RealCluster

from airflow_ml_provider.contract.store import Store
from demo import Demo
from deployment import DEFAULT_DAGS_FOLDER, Deployment, copy_raw_data
from deployment_processes import DeploymentRecord, free_port


@pytest.mark.timeout(2400)
def test_the_flights_pipeline_runs_in_the_cluster(place: RealCluster, tmp_path: Path) -> None:
    store = Store(place.environment["AIRFLOW__ML__STORE"])
    copy_raw_data(tmp_path / "raw")
    for path in (tmp_path / "raw").iterdir():
        store.write(f"raw/{path.name}", path.read_bytes())
    with tempfile.TemporaryDirectory(prefix="deployment-", ignore_cleanup_errors=True) as folder:
        home, port = Path(folder), free_port(None, [])
        DeploymentRecord(settings="", ports={"mlflow": port}).write(home / "deployment.json")
        fields = {
            "image": place.image, "namespace": place.namespace, "secrets": ["ml-store"],
            "service_account": "ml-step", "image_pull_policy": "IfNotPresent",
        }  # fmt: skip
        environment = {
            **place.environment,
            "AIRFLOW__ML__COMPUTE": "kubernetes",
            "AIRFLOW__ML__KUBERNETES": json.dumps(fields),
            "AIRFLOW_VAR_FLIGHTS_RAW": f"{store.uri}/raw",
            "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps(
                {"conn_type": "mlflow", "host": f"http://{place.host}", "port": port}
            ),
        }
        with Deployment(
            home, DEFAULT_DAGS_FOLDER, environment, mlflow_host=place.host, say=print
        ) as deployment:
            demo = Demo(deployment, patience=900)
            demo.play()
            print("\n".join(demo.summary()))
    monitored = demo.outputs[("flights_monitor.monitor", "2013-06-07")]
    assert monitored["verdict"]["drifted"]
    assert monitored["place"]["namespace"] == place.namespace
    assert demo.outputs[("flights_ingest.flights", "")]["place"]["pod"]
    place.until(lambda: not place.leftovers())
