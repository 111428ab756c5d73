"""### Is the model still looking at the world it was trained on?

Compares a day's features and scores with the champion's reference profile, and its scores with what really
happened once the flights have landed (cancelled flights never do). A day is judged again when more of its labels
arrive. When the model has drifted, got worse or could learn from much new data, it asks for a retraining, at most
once a week: an asset event that `flights_train` is scheduled on.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronPartitionTimetable, Param

from airflow_ml_provider import Model, Retrain, Table
from airflow_ml_provider.operators import MonitorOperator

DAY = "{{ params.day or dag_run.partition_key or '' }}"

with DAG(
    "flights_monitor",
    schedule=CronPartitionTimetable("0 8 * * *", timezone="UTC", key_format="%Y-%m-%d"),
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
    MonitorOperator(
        task_id="monitor",
        model=Model("flight_delays"),
        predictions=Table("flight_predictions"),
        rows=Table("flights_to_predict"),
        tables=[Table("flights")],
        partitions=DAY,
        publish=Table("flights_monitoring"),
        revisit="14d",
        # Within a day flights are harder to tell apart than over a month, so a day may be this much worse.
        retrain=Retrain(drift=True, performance_loss=0.1, new_rows=0.5, at_most_every="7d"),
    )
