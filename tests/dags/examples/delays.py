"""Train on three months, judge on the fourth, promote if it is good: the whole of it."""

from airflow.sdk import DAG

from airflow_ml_provider import Gate, Model, Table
from airflow_ml_provider.operators import EvaluateOperator, FeaturesOperator, PromoteOperator, TrainOperator

with DAG("delays", schedule="@weekly"):
    rows = FeaturesOperator(
        task_id="features", features="flights.features:LATE_ARRIVAL", partitions="2013-01-01..2013-04-30",
        tables=[Table("flights"), Table("weather"), Table("planes")], publish=Table("delays_training"))
    fitted = TrainOperator(
        task_id="train", function="flights.model:train", partitions="2013-01-01..2013-03-31", seed=1,
        table=rows.output, model=Model("delays"), hyperparameters={"num_leaves": 31, "rounds": 100})
    verdict = EvaluateOperator(
        task_id="evaluate", candidate=fitted.output, partitions="2013-04-01..2013-04-30", slices=["origin"],
        table=rows.output, gates=[Gate("roc_auc", at_least=0.7, worse_by_at_most=0.005)])
    PromoteOperator(task_id="promote", verdict=verdict.output)
