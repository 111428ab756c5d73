"""What a pod has that no field of KubernetesCompute says: by its template."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_ml_provider import Model, Table
from airflow_ml_provider.compute import KubernetesCompute
from airflow_ml_provider.operators import TrainOperator

WRITABLE = KubernetesCompute(
    image="registry.example.com/ml/airflow-ml-steps:7",
    namespace="ml",
    pod_template={
        "spec": {
            "securityContext": {"fsGroup": 50000},
            "terminationGracePeriodSeconds": 120,
            "containers": [{"name": "step", "securityContext": {"readOnlyRootFilesystem": False}}],
        }
    },
)

with DAG("on_a_security_policy"):
    TrainOperator(
        task_id="train",
        function="flights.model:train",
        table=Table("rows"),
        model=Model("delays"),
        compute=WRITABLE,
    )
