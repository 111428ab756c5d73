"""A fleet over items of a list, and trainings over the rows of a grid; shown in docs/fleet.md."""

from __future__ import annotations

from itertools import product

from airflow.sdk import DAG

from airflow_ml_provider import Table
from airflow_ml_provider.operators import FleetOperator, TrainOperator

GRID = [{"num_leaves": leaves, "learning_rate": rate} for leaves, rate in product((4, 7, 15), (0.05, 0.1))]

with DAG("delays_by_origin"):
    delays = FleetOperator(
        task_id="delays",
        function="origins:delays",
        over=[
            {"origin": origin, "longest": miles} for origin in ("EWR", "JFK", "LGA") for miles in (500, 2000)
        ],
        table=Table("training"),
        publish=Table("delays_by_origin", partition_by=None),
        max_failed=0.05,
    )
    fitted = TrainOperator(
        task_id="fit",
        function="origins:train",
        table=Table("training"),
        over=GRID,
        items_per_index=3,
        model="late_arrival",
        best="-holdout_log_loss",
    )
