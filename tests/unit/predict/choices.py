"""Which model predicts: the tasks that docs/predict.md shows."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_ml_provider import Champion, Model, Table
from airflow_ml_provider.operators import PredictOperator

rows, predictions = Table("june_to_predict"), Table("june_scores")
DAYS = "2013-06-01..2013-06-30"

with DAG("choices") as dag:
    PredictOperator(
        task_id="now", model=Champion("june_delays"), table=rows, partitions=DAYS, publish=predictions
    )
    PredictOperator(
        task_id="each_day",
        model=Champion("june_delays", as_of="partition"),
        table=rows,
        partitions=DAYS,
        publish=predictions,
    )
    PredictOperator(
        task_id="of_a_moment",
        model=Champion("june_delays", as_of="2013-06-20T06:00:00Z"),
        table=rows,
        partitions=DAYS,
        publish=predictions,
    )
    PredictOperator(
        task_id="fixed",
        model=Model("june_delays", version=1),
        table=rows,
        partitions=DAYS,
        publish=predictions,
    )
    PredictOperator(
        task_id="beside",
        model=Champion("june_delays"),
        challengers=["june_delays@challenger", Model("june_delays", version=1)],
        explain=5,
        table=rows,
        partitions=DAYS,
        publish=predictions,
    )
    PredictOperator(
        task_id="shared",
        model=Champion("june_delays"),
        split={"champion": 0.9, "1": 0.1},
        salt="exp1",
        table=rows,
        partitions=DAYS,
        publish=predictions,
    )
