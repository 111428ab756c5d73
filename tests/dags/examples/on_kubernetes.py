"""Steps as pods: as the deployment has them, with more memory, and on a GPU."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_ml_provider import Column, Model, Schema, Table
from airflow_ml_provider.compute import KubernetesCompute
from airflow_ml_provider.operators import FeaturesOperator, IngestOperator, TrainOperator

GPU = KubernetesCompute(
    image="registry.example.com/ml/airflow-ml-steps:7",
    namespace="ml",
    service_account="ml-step",
    resources={"cpu": 4, "memory": "32Gi", "nvidia.com/gpu": 1, "ephemeral-storage": "50Gi"},
    node_selector={"pool": "gpu"},
    tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    volumes={"/cache": "model-cache"},
)

with DAG("on_kubernetes", schedule="@weekly"):
    raw = IngestOperator(
        task_id="ingest",
        source="s3://raw/flights/{{ ds }}.csv",
        schema=Schema((Column("flight", "string"), Column("airline", "string"))),
        transform="flights.ingest:with_airline_names",
        publish=Table("flights", partition_by=None),
        connections=["warehouse"],
    )
    rows = FeaturesOperator(
        task_id="features",
        features="flights.features:LATE_ARRIVAL",
        partitions="2013-01-01..2013-04-30",
        tables=[raw.output, Table("weather"), Table("planes")],
        publish=Table("delays_training"),
        compute={"resources": {"memory": "16Gi"}, "memory_growth": 1.5},
    )
    fitted = TrainOperator(
        task_id="train",
        function="flights.network:train",
        table=rows.output,
        model=Model("delays"),
        compute=GPU,
        retries=2,
    )
