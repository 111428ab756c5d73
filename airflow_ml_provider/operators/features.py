"""Features, joined as they were known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.assets import table_asset
from airflow_ml_provider.contract.arguments import FeaturesArguments
from airflow_ml_provider.operators.base import StepOperator
from airflow_ml_provider.operators.references import publishable

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.operators.pins import Pins


class FeaturesOperator(StepOperator):
    """Builds feature rows from pinned tables, point in time on two clocks, and proves that nothing leaks.

    A retry and a clear reuse the rows while tables, code and partitions are the same, and otherwise replace
    exactly the same partitions.

    :param features: ``"package.module:NAME"`` of a FeatureSet. (templated)
    :param tables: the tables its functions read: Tables, names, or upstream steps' ``.output``. (templated)
    :param publish: the table of feature rows.
    :param partitions: which partitions to build. (templated)
    :param labels: True for rows to train on, with their labels; False for rows to predict.
    :param known_at: use only labels known at this moment (ISO 8601); all that exist when empty. (templated)
    :param suite: a Great Expectations suite that the rows must pass before anybody sees them. (templated)
    """

    verb = "features"
    template_fields: Sequence[str] = ("features", "tables", "publish", "partitions", "known_at", "suite")
    ui_color = "#fff8e1"

    def __init__(
        self,
        *,
        features: str,
        tables: Sequence[Table | str | Any],
        publish: Table | str,
        partitions: str = "",
        labels: bool = True,
        known_at: str = "",
        suite: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.features = features
        self.tables = tables
        self.publish = publishable(publish, wanted_by=f"task {self.task_id!r}")
        self.partitions = partitions
        self.labels = labels
        self.known_at = known_at
        self.suite = suite
        self.add_outlet(table_asset(self.publish))

    def arguments(self, pins: Pins, context: Context) -> FeaturesArguments:
        """The step's arguments, with the tables pinned."""
        return FeaturesArguments(
            features=self.features,
            tables=pins.tables(self.tables),
            publish=self.publish,
            partitions=str(self.partitions),
            labels=self.labels,
            known_at=str(self.known_at),
            suite=self.suite,
        )

    def entry_points(self) -> Iterable[str | None]:
        """The feature set and the suite."""
        return (self.features, self.suite)
