"""Steps in shards: the tasks that docs/scale.md shows."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_ml_provider import Column, Model, Schema, Table
from airflow_ml_provider.operators import IngestOperator, MonitorOperator, PredictOperator

TRIPS = Schema((Column("month", nullable=False), Column("fare", "float64", minimum=0)))
RAW, MONTH = "{{ var.value.trips_raw }}", "{{ dag_run.partition_key }}"

with DAG("large") as dag:
    IngestOperator(
        task_id="ingest",
        source=f"{RAW}/*.csv.gz",
        schema=TRIPS,
        partitions=MONTH,
        publish=Table("trips", partition_by="month"),
        shards=200,
        parallelism=50,
    )
    PredictOperator(
        task_id="predict",
        model=Model("trip_fares"),
        table=Table("trips_to_predict"),
        partitions=MONTH,
        publish=Table("fares", partition_by="month"),
        shards=200,
        parallelism=50,
        compute={"resources": {"cpu": 1, "memory": "2Gi"}},
    )
    MonitorOperator(
        task_id="monitor",
        model=Model("trip_fares"),
        predictions=Table("fares"),
        rows=Table("trips_to_predict"),
        partitions=MONTH,
        shards=50,
        parallelism=50,
    )
