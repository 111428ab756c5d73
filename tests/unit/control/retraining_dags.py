"""The DAGs that docs/retraining.md shows: customers whose leaving is known thirty days later."""

from __future__ import annotations

from airflow.sdk import DAG, AssetOrTimeSchedule, CronPartitionTimetable, CronTriggerTimetable, Param

from airflow_ml_provider import Label, Model, Table
from airflow_ml_provider.assets import retrain_asset
from airflow_ml_provider.contract.retraining import Retrain
from airflow_ml_provider.operators import MonitorOperator, TrainOperator


def churned(customers: object) -> object:
    """Which customers have left."""
    return customers


LABEL = Label("churned", churned, matures_after="30d")

SCHEDULE = AssetOrTimeSchedule(
    timetable=CronTriggerTimetable("0 6 1 * *", timezone="UTC"),
    assets=[retrain_asset("churn")],
)

with DAG(
    "churn_monitor", schedule=CronPartitionTimetable("0 8 * * *", timezone="UTC", key_format="%Y-%m-%d")
) as monitoring:
    MonitorOperator(
        task_id="monitor",
        model=Model("churn"),
        predictions=Table("churn_predictions"),
        rows=Table("customers_to_predict"),
        tables=[Table("customers")],
        partitions="{{ dag_run.partition_key }}",
        publish=Table("churn_monitoring"),
        revisit="45d",
        retrain=Retrain(performance_loss=0.02, new_rows=0.2, at_most_every="7d"),
    )

with DAG("churn_train", schedule=SCHEDULE, params={"reason": Param("", type="string")}) as training:
    TrainOperator(
        task_id="train", function="churn:train", table=Table("churn_training"), model=Model("churn")
    )
