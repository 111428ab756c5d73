"""### From raw files to tables

Reads the raw files of New York's flights, types and checks every row, and publishes the tables `flights`,
`weather` (a partition a day) and `planes`.

* Scheduled: one day a run, its partition key. Backfill any range from the UI, the CLI or the API.
* By hand: fill in **Days** with a day or a range; a range is one publication.

Ingesting the same bytes again changes nothing; corrected files replace exactly their days. Bad rows are in
the tables `flights_quarantine` and `weather_quarantine`, each with its file, line and reason.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronPartitionTimetable, Param

from airflow_ml_provider import Table
from airflow_ml_provider.operators import IngestOperator

DAYS = "{{ params.days or dag_run.partition_key or '' }}"
RAW = "{{ var.value.flights_raw }}"

with DAG(
    "flights_ingest",
    schedule=CronPartitionTimetable("0 5 * * *", timezone="UTC", key_format="%Y-%m-%d"),
    params={
        "days": Param(
            "",
            type="string",
            pattern=r"^(\d{4}-\d\d-\d\d(\.\.\d{4}-\d\d-\d\d)?)?$",
            title="Days",
            description_md="A day (`2013-06-01`) or a range (`2013-01-01..2013-06-30`). "
            "Empty: the partition key of the run.",
        )
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    doc_md=__doc__,
    tags=["flights", "ml"],
):
    IngestOperator(
        task_id="flights",
        source=f"{RAW}/flights.csv.zip",
        schema="flights.schemas:FLIGHTS",
        transform="flights.ingest:by_departure_day",
        suite="flights.expectations:flights",
        partitions=DAYS,
        publish=Table("flights"),
    )
    IngestOperator(
        task_id="weather",
        source=f"{RAW}/weather.csv",
        schema="flights.schemas:WEATHER",
        transform="flights.ingest:by_observation_day",
        suite="flights.expectations:weather",
        partitions=DAYS,
        publish=Table("weather"),
        max_bad_rows=10,
    )
    IngestOperator(
        task_id="planes",
        source=f"{RAW}/planes.csv",
        schema="flights.schemas:PLANES",
        publish=Table("planes", partition_by=None),
    )
