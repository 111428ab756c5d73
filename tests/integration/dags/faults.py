"""DAGs whose steps wait in the middle, so that a test can kill them there; only on the first try."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_ml_provider import Column, Schema, Table
from airflow_ml_provider.operators import IngestOperator

SCHEMA = Schema((Column("ds"), Column("x", "int64", nullable=False)))

for victim in ("undisturbed", "step", "worker"):
    with DAG(
        f"killed_{victim}",
        schedule=None,
        default_args={"retries": 3, "retry_delay": timedelta(seconds=1)},
        tags=["faults"],
    ):
        IngestOperator(
            task_id="ingest",
            source=f"{{{{ var.value.flights_raw }}}}/../faults/{victim}",
            schema=SCHEMA,
            transform=f"slowly:{victim}",
            partitions="2013-01-01..2013-01-03",
            publish=Table(f"killed_{victim}"),
            max_bad_rows=100,
        )
