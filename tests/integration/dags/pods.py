"""DAGs whose steps are pods, one for each thing that may happen to a task."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_ml_provider import Column, Schema, Table
from airflow_ml_provider.compute import KubernetesCompute
from airflow_ml_provider.operators import IngestOperator

SCHEMA = Schema((Column("ds"), Column("x", "int64", nullable=False)))
PODS = KubernetesCompute(image="mlsteps:dev", namespace="ml")

for name, function, deferrable, timeout in (
    ("quick", "quickly", True, None),
    ("killed", "slowly", False, None),
    ("cleared", "quickly", True, None),
    ("failed", "forever", True, None),
    ("deleted", "forever", True, None),
    ("late", "forever", True, timedelta(seconds=15)),
):
    with DAG(f"pod_{name}", schedule=None, tags=["pods"]):
        IngestOperator(
            task_id="rows",
            source="{{ var.value.flights_raw }}/../faults/pods",
            schema=SCHEMA,
            transform=f"podwork:{function}",
            publish=Table(f"pod_{name}", partition_by=None),
            compute=PODS.but({"deferrable": deferrable}),
            execution_timeout=timeout,
            retries=2 if name in ("killed", "cleared") else 0,
            retry_delay=timedelta(seconds=1),
        )
