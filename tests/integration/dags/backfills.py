"""One pipeline whose DAGs are scheduled in the three ways there are, for the backfill planner; none starts itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset, CronPartitionTimetable, Param, task

from airflow_ml_provider import Column, Schema, Table
from airflow_ml_provider.assets import table_asset
from airflow_ml_provider.operators import FeaturesOperator, IngestOperator

SCHEMA = Schema((Column("ds"), Column("x", "int64", nullable=False)))
DAYS = {"start_date": datetime(2013, 1, 1, tzinfo=UTC), "end_date": datetime(2013, 2, 1, tzinfo=UTC)}
RETRIES = {"retries": 1, "retry_delay": timedelta(seconds=1)}
RAW = "{{ var.value.flights_raw }}/../faults/backfill"

with DAG("backfill_daily", schedule="@daily", catchup=False, default_args=RETRIES, **DAYS):
    IngestOperator(
        task_id="rows",
        source=f"{RAW}/{{{{ ds }}}}.csv",
        schema=SCHEMA,
        transform="backfillwork:undisturbed",
        partitions="{{ ds }}",
        publish=Table("backfill_rows"),
    )

with DAG("backfill_downstream", schedule=[table_asset("backfill_rows")]):

    @task
    def told() -> None:
        print("rows have changed")

    told()

with DAG(
    "backfill_partitioned",
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", key_format="%Y-%m-%d"),
    catchup=False,
    default_args=RETRIES,
    **DAYS,
):
    FeaturesOperator(
        task_id="features",
        features="backfillwork:SET",
        tables=[Table("backfill_rows")],
        labels=False,
        partitions="{{ dag_run.partition_key }}",
        publish=Table("backfill_features"),
    )

with DAG(
    "backfill_by_asset",
    schedule=[Asset("nobody_updates_this")],
    params={"day": Param("", type="string")},
    default_args=RETRIES,
):
    IngestOperator(
        task_id="rows",
        source=f"{RAW}/{{{{ params.day }}}}.csv",
        schema=SCHEMA,
        partitions="{{ params.day }}",
        publish=Table("backfill_by_asset"),
    )
