"""A search for the hyperparameters of a training; shown in docs/search.md."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_ml_provider import Choices, Floats, Integers, Table
from airflow_ml_provider.operators import SearchOperator

with DAG("search_delays"):
    best = SearchOperator(
        task_id="search",
        function="delay_training:train",
        table=Table("training"),
        model="late_arrival",
        search={
            "num_leaves": Integers(4, 128, log=True),
            "learning_rate": Floats(0.01, 0.5, log=True),
            "boosting": Choices(["gbdt", "dart"]),
        },
        metric="-log_loss",
        trials=40,
        pruner="median",
    )
