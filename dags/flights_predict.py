"""### A day's predictions

Builds the features of the day's flights as they are known two hours before departure, scores them with the
champion and publishes the table `flight_predictions`. Running a day again replaces exactly that day.

Backfill it: *Trigger -> Backfill* in the UI, or
`airflow backfill create --dag-id flights_predict --from-date 2013-06-01 --to-date 2013-06-10`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronPartitionTimetable, Param

from airflow_ml_provider import Model, Table
from airflow_ml_provider.operators import FeaturesOperator, PredictOperator

DAY = "{{ params.day or dag_run.partition_key or '' }}"

with DAG(
    "flights_predict",
    schedule=CronPartitionTimetable("0 6 * * *", timezone="UTC", key_format="%Y-%m-%d"),
    params={
        "day": Param(
            "",
            type="string",
            pattern=r"^(\d{4}-\d\d-\d\d(\.\.\d{4}-\d\d-\d\d)?)?$",
            title="Day",
            description_md="A day (`2013-06-01`) or a range. Empty: the partition key of the run.",
        )
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    doc_md=__doc__,
    tags=["flights", "ml"],
):
    rows = FeaturesOperator(
        task_id="features",
        features="flights.features:LATE_ARRIVAL",
        tables=[Table("flights"), Table("weather"), Table("planes")],
        labels=False,
        partitions=DAY,
        publish=Table("flights_to_predict"),
    )
    PredictOperator(
        task_id="predict",
        model=Model("flight_delays"),
        table=rows.output,
        partitions=DAY,
        publish=Table("flight_predictions"),
    )
