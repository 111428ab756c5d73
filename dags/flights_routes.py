"""### A model for each route

Trains one model for each of the routes from New York that have enough flights, and registers them as one model,
`flight_delays_by_route`: each flight is scored by its route's model, and one of a rare route by a model of all
flights. From there on it is judged and promoted like any other.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from airflow_ml_provider import Gate, Model, Table
from airflow_ml_provider.operators import EvaluateOperator, PromoteOperator, TrainOperator

with DAG(
    "flights_routes",
    schedule=None,
    params={
        "train": Param("2013-01-01..2013-04-30", type="string", title="Train on", description="Days."),
        "evaluate": Param("2013-05-01..2013-05-31", type="string", title="Judge on", description="Days."),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    doc_md=__doc__,
    tags=["flights", "ml"],
):
    fitted = TrainOperator(
        task_id="train",
        function="flights.model:train",
        table=Table("flights_training"),
        partitions="{{ params.train }}",
        over=("origin", "dest"),
        minimum_rows=100,
        fallback="all",
        hyperparameters={"num_leaves": 7, "rounds": 50, "min_data_in_leaf": 20},
        items_per_index=8,
        model=Model("flight_delays_by_route"),
        publish=Table("route_models", partition_by=None),
    )
    verdict = EvaluateOperator(
        task_id="evaluate",
        candidate=fitted.output,
        table=Table("flights_training"),
        partitions="{{ params.evaluate }}",
        gates=[Gate("roc_auc", at_least=0.65), Gate("roc_auc", worse_by_at_most=0.005)],
        slices=["origin", "dest"],
    )
    PromoteOperator(task_id="promote", verdict=verdict.output)
