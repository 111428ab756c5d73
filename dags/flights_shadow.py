"""### A challenger beside the champion, on live flights

Scores a day with the champion and the challenger in one pass: the champion's score is the prediction, the
challenger's is kept beside it in the column `shadow`, published in the same commit. Then both are compared on the
flights of the last days whose outcome is known by now, by the same gates as before a promotion.

Run `flights_predict` for a day first: it builds the features.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronPartitionTimetable, Param

from airflow_ml_provider import Champion, Gate, Table
from airflow_ml_provider.operators import EvaluateOperator, PredictOperator

CHALLENGER = "flight_delays@challenger"
DAY = "{{ params.day or dag_run.partition_key or '' }}"
# The last two weeks up to the day; a flight whose outcome is not known yet does not count.
LIVE_DAYS = f"{{{{ macros.ds_add(params.day or dag_run.partition_key, -13) }}}}..{DAY}"

with DAG(
    "flights_shadow",
    schedule=CronPartitionTimetable("0 7 * * *", timezone="UTC", key_format="%Y-%m-%d"),
    params={
        "day": Param(
            "",
            type="string",
            pattern=r"^(\d{4}-\d\d-\d\d)?$",
            title="Day",
            description_md="A day (`2013-06-01`). Empty: the partition key of the run.",
        )
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    doc_md=__doc__,
    tags=["flights", "ml"],
):
    scored = PredictOperator(
        task_id="predict",
        model=Champion("flight_delays"),
        challengers=[CHALLENGER],
        table=Table("flights_to_predict"),
        partitions=DAY,
        publish=Table("flight_shadow"),
        explain=5,
    )
    EvaluateOperator(
        task_id="compare",
        candidate=CHALLENGER,
        predictions=scored.output,
        rows=Table("flights_to_predict"),
        tables=[Table("flights")],
        partitions=LIVE_DAYS,
        gates=[
            Gate("roc_auc", worse_by_at_most=0.005, minimum_rows=1000),
            Gate("roc_auc", harm_limit=0.0, slice_by="origin"),
        ],
        slices=["origin", "carrier"],
    )
