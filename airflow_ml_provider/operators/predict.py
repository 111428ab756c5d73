"""Scores from a champion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.assets import table_asset
from airflow_ml_provider.contract.arguments import PredictArguments
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.operators.base import StepOperator
from airflow_ml_provider.operators.references import publishable

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.models import Model
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.operators.pins import Pins


class PredictOperator(StepOperator):
    """Scores pinned feature rows with a model, in bounded memory, and publishes the predictions at once.

    The model's alias is resolved when the task starts. A retry, a clear and a backfill replace exactly their
    partitions, and reuse them while rows and model are the same.

    :param model: a Model, ``"name@alias"``, ``"name/version"``, or a train step's ``.output``. (templated)
    :param table: feature rows: a Table, its name, or an upstream step's ``.output``. (templated)
    :param publish: the table of predictions.
    :param partitions: which partitions to predict; all of them when empty. (templated)
    :param batch_rows: how many rows are in memory at a time.
    :param suite: a Great Expectations suite that predictions must pass before anybody sees them. (templated)
    """

    verb = "predict"
    looks_for_code = True
    template_fields: Sequence[str] = ("model", "table", "publish", "partitions", "suite")
    ui_color = "#e0f7fa"

    def __init__(
        self,
        *,
        model: Model | str | Any,
        table: Table | str | Any,
        publish: Table | str,
        partitions: str = "",
        batch_rows: int = 100_000,
        suite: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if batch_rows < 1:
            raise ConfigError(f"batch_rows is {batch_rows}", todo="use 100_000, or fewer for very wide rows")
        self.model = model
        self.table = table
        self.publish = publishable(publish, wanted_by=f"task {self.task_id!r}")
        self.partitions = partitions
        self.batch_rows = batch_rows
        self.suite = suite
        self.add_outlet(table_asset(self.publish))

    def arguments(self, pins: Pins, context: Context) -> PredictArguments:
        """The step's arguments, with model and table pinned."""
        return PredictArguments(
            model=pins.model(self.model),
            table=pins.table(self.table),
            publish=self.publish,
            partitions=str(self.partitions),
            batch_rows=self.batch_rows,
            suite=self.suite,
        )

    def entry_points(self) -> Sequence[str | None]:
        """The suite."""
        return (self.suite,)
