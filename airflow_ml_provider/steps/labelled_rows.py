"""Feature rows with labels, checked and in one form: what a model is trained and judged on."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.features import LABEL_KNOWN_AT
from airflow_ml_provider.steps.feature_rows import FeatureRows
from airflow_ml_provider.steps.models import Inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.models import ScoringModel
    from airflow_ml_provider.steps.pinned_tables import PinnedTable


class LabelledRows:
    """The rows of some partitions that have a label, in the order of their key.

    Features are 64-bit floats or text, as every model gets them; the label is 0 or 1. What becomes known
    with the label (when it did, say) is left out.

    :param purpose: what for, in messages.
    :raises DataError: there are no such rows; says what is missing.
    """

    # The rows of ``frame``, where they are in memory already.
    held: pl.DataFrame | None = None

    def __init__(self, step: StepContext, table: PinnedTable, partitions: str, *, purpose: str) -> None:
        self.table = table
        self.partitions = partitions
        self.rows = FeatureRows.open(step, table, step.partitions(partitions))
        self.where = f"table {table.name!r}, version {table.version}"
        self.where += f", partitions {partitions}" if partitions else ""
        if not self.rows.rows:
            raise DataError(f"there are no rows in {self.where} to {purpose}")
        if self.rows.label is None:
            raise DataError(
                f"the rows of {self.where} were built without labels, so there is nothing to {purpose}",
                todo="build them with labels: FeaturesOperator(labels=True) and a FeatureSet with a label",
            )
        self.label: str = self.rows.label
        self.count, self.positives = self._counted(step, purpose)
        labelled = self.rows.sorted().filter(pl.col(self.label).is_not_null())
        self.inputs = Inputs.of(self.rows.features, labelled.collect_schema())
        known = (self.partition_by, self.rows.prediction_time, *self.rows.key, *self.rows.keep)
        self.others = [name for name in dict.fromkeys(known) if name and name not in self.rows.features]
        label = pl.col(self.label).cast(pl.Int8)
        self.frame: pl.LazyFrame = labelled.select(*self.others, *self.inputs.expressions(), label)

    def keep_scored(self, step: StepContext, models: Sequence[ScoringModel]) -> None:
        """Leave out the rows that one of some models gives no score, as a family may; says how many.

        :raises DataError: none is left.
        """
        for model in models:
            if not model.flavor.nulls(model.native):
                continue
            self.frame = model.native.known(self.frame)
            counts = self.frame.select(pl.len(), pl.col(self.label).cast(pl.Int64).sum())
            count, positives = counts.collect(engine="streaming").row(0)
            if not count:
                raise DataError(f"model {model.name} scores none of the {self.count:,} rows of {self.where}")
            if count < self.count:
                step.warn(
                    f"model {model.name} leaves {self.count - count:,} of {self.count:,} rows without a score"
                )
            self.count, self.positives = count, positives

    @property
    def partition_by(self) -> str | None:
        """The partition column."""
        return self.table.partition_by

    @property
    def single_class(self) -> int | None:
        """The only label that there is; None if there are both."""
        return None if 0 < self.positives < self.count else int(self.positives > 0)

    @cached_property
    def known_until(self) -> str:
        """When the last of what is in the rows became known, ISO 8601, UTC; empty if they have no such times.

        A row's features are known at its prediction time, its label later.
        """
        names = [name for name in (self.rows.prediction_time, LABEL_KNOWN_AT) if name in self.table.columns]
        times = self.rows.lazy().filter(pl.col(self.label).is_not_null()).select(pl.col(names).max())
        found = [time for time in times.collect(engine="streaming").row(0) if isinstance(time, datetime)]
        if not found:
            return ""
        last = max(
            time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC) for time in found
        )
        return last.isoformat()

    def _counted(self, step: StepContext, purpose: str) -> tuple[int, int]:
        label = pl.col(self.label)
        nulls, positives, negatives = (
            self.rows.lazy()
            .select(
                label.null_count().alias("nulls"),
                (label.cast(pl.Float64) == 1).sum().alias("positives"),
                (label.cast(pl.Float64) == 0).sum().alias("negatives"),
            )
            .collect(engine="streaming")
            .row(0)
        )
        rows = self.rows.rows
        if nulls == rows:
            raise DataError(
                f"the label {self.label!r} is null in all {rows:,} rows of {self.where}, so there is nothing "
                f"to {purpose}",
                todo="check the label function, and that the labels of these partitions are known by now",
            )
        if strange := rows - nulls - positives - negatives:
            raise DataError(
                f"the label {self.label!r} is neither 0 nor 1 in {strange:,} rows of {self.where}",
                todo="let the label function give 0 and 1, or false and true",
            )
        if nulls:
            step.log.info("%s of %s rows have no label and are left out", f"{nulls:,}", f"{rows:,}")
        return rows - nulls, positives
