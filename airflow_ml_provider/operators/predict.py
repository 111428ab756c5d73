"""Scores from a champion, from several models in their shares, and from challengers beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.assets import table_asset
from airflow_ml_provider.contract.arguments import PredictArguments
from airflow_ml_provider.contract.assignment import check_split
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.models import Champion
from airflow_ml_provider.operators.references import publishable
from airflow_ml_provider.operators.selection import select, select_challengers, select_split
from airflow_ml_provider.operators.sharding import ShardedStep

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.models import Model
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.operators.pins import Pins


class PredictOperator(ShardedStep):
    """Scores pinned feature rows with a model, in bounded memory, and publishes the predictions at once.

    Which versions score is decided when the task starts, and recorded with each row. A retry, a clear and a
    backfill replace exactly their partitions, and reuse them while rows and models are the same.

    :param model: a Model, ``"name@alias"``, ``"name/version"``, a train step's ``.output``, or a Champion:
        the champion now, as of each partition, or as of a moment. (templated)
    :param table: feature rows: a Table, its name, or an upstream step's ``.output``. (templated)
    :param publish: the table of predictions.
    :param partitions: which partitions to predict; all of them when empty. (templated)
    :param batch_rows: how many rows are scored together; a few batches are in memory at a time.
    :param suite: a Great Expectations suite that predictions must pass before anybody sees them. (templated)
    :param challengers: models that score the same rows in the same pass, into the column ``shadow``; one that
        does not exist or fails is left out with a warning. (templated)
    :param split: aliases or versions of the model to the share of keys that each scores, adding up to 1:
        ``{"champion": 0.9, "challenger": 0.1}``. The same key always goes to the same variant.
    :param salt: another salt is another assignment of the keys: one for each experiment. (templated)
    :param explain: how many features' contributions to its score, in log-odds, are kept with each row in the
        column ``contributions``, the largest by size; 0 keeps none.

    ``shards`` and ``parallelism`` are those of :class:`~airflow_ml_provider.operators.sharding.ShardedStep`.
    """

    verb = "predict"
    looks_for_code = True
    template_fields: Sequence[str] = (
        "model",
        "table",
        "publish",
        "partitions",
        "suite",
        "challengers",
        "salt",
    )
    ui_color = "#e0f7fa"

    def __init__(
        self,
        *,
        model: Model | Champion | str | Any,
        table: Table | str | Any,
        publish: Table | str,
        partitions: str = "",
        batch_rows: int = 100_000,
        suite: str | None = None,
        challengers: Sequence[Any] | Model | str = (),
        split: Mapping[str, float] | None = None,
        salt: str = "",
        explain: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if batch_rows < 1:
            raise ConfigError(f"batch_rows is {batch_rows}", todo="use 100_000, or fewer for very wide rows")
        if explain < 0:
            raise ConfigError(
                f"explain is {explain}", todo="use the number of features to name, or 0 for none"
            )
        if self.shards > 1 and (suite or challengers):
            other = "suite" if suite else "challengers"
            raise ConfigError(
                f"task {self.task_id!r} has shards={self.shards} and {other}=: predictions in shards are not "
                "audited before they are published, and have no challengers beside them",
                todo="leave one of them out; a ValidateOperator can check the predictions afterwards",
            )
        if salt and not split:
            raise ConfigError("salt= has no meaning without split=", todo="leave it out, or give the shares")
        self.model = model
        self.table = table
        self.publish = publishable(publish, wanted_by=f"task {self.task_id!r}")
        self.partitions = partitions
        self.batch_rows = batch_rows
        self.suite = suite
        self.challengers = challengers
        self.split = check_split(split) if split else None
        self.salt = salt
        self.explain = explain
        self.add_outlet(table_asset(self.publish))

    def arguments(self, pins: Pins, context: Context) -> PredictArguments:
        """The step's arguments, with models and table pinned."""
        wanted = self.model
        if isinstance(wanted, Champion):
            wanted = Champion(wanted.name, self.render_template(wanted.as_of, context), wanted.alias)
        partitions, split = str(self.partitions), self.split
        chosen = select_split(pins, wanted, split) if split else select(pins, wanted, partitions)
        return PredictArguments(
            **chosen._asdict(),
            table=pins.table(self.table),
            publish=self.publish,
            partitions=partitions,
            batch_rows=self.batch_rows,
            suite=self.suite,
            challengers=select_challengers(pins, self.challengers),
            salt=str(self.salt),
            explain=self.explain,
            shards=self.shards,
            parallelism=self.parallelism,
        )

    def entry_points(self) -> Sequence[str | None]:
        """The suite."""
        return (self.suite,)
