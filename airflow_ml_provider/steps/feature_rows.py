"""Reading a table of feature rows: which columns are what, and that one definition made them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.features import FEATURE_HASH
from airflow_ml_provider.steps.feature_definition import Roles, read_roles

if TYPE_CHECKING:
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.pinned_tables import PinnedTable


@dataclass(frozen=True)
class FeatureRows:
    """Rows of some partitions of a table that a features step published.

    :param hash: the feature definition they were made by; empty when there are no rows.
    :param key: columns that identify a row.
    :param prediction_time: column: when the prediction is made (timestamp, UTC).
    :param features: the feature columns, in the order a model gets them.
    :param label: the label column; None when the rows were built without labels.
    :param keep: columns kept for slices and reports, never given to a model.
    :param rows: how many there are.
    """

    table: PinnedTable
    partitions: Partitions | None
    hash: str
    key: tuple[str, ...]
    prediction_time: str
    features: tuple[str, ...]
    label: str | None
    keep: tuple[str, ...]
    partition_by: str | None
    entry_point: str
    rows: int

    @classmethod
    def open(cls, step: StepContext, table: PinnedTable, partitions: Partitions | None) -> FeatureRows:
        """Look at the rows; without any, ``rows`` is 0 and the roles are empty.

        :raises DataError: no features step published this table, or its rows are of several definitions.
        """
        if FEATURE_HASH not in table.columns:
            raise DataError(
                f"table {table.name!r} is not a table of feature rows: it has no column {FEATURE_HASH!r}",
                todo="pass the output of a features step",
            )
        counts = (
            table.lazy(partitions).group_by(FEATURE_HASH).len().sort(FEATURE_HASH).collect(engine="streaming")
        )
        if counts.is_empty():
            return cls(table, partitions, "", (), "", (), None, (), table.partition_by, "", 0)
        if counts.height > 1:
            found = ", ".join(f"{mark[:12]} ({rows:,} rows)" for mark, rows in counts.iter_rows())
            where = f" in {table.partition_by}={partitions.label}" if partitions else ""
            raise DataError(
                f"table {table.name!r} has rows of {counts.height} feature definitions{where}: {found}",
                todo="build these partitions again with one definition, or name fewer partitions",
            )
        feature_hash, rows = counts.row(0)
        roles = read_roles(step.store, table.name, feature_hash)
        return cls._of(table, partitions, roles, rows)

    def lazy(self) -> pl.LazyFrame:
        """The rows, in no order that is promised."""
        return self.table.lazy(self.partitions)

    def sorted(self) -> pl.LazyFrame:
        """The rows by partition and key, the same on every reading."""
        first = (self.partition_by,) if self.partition_by else ()
        return self.lazy().sort(list(dict.fromkeys((*first, *self.key))))

    @classmethod
    def _of(cls, table: PinnedTable, partitions: Partitions | None, roles: Roles, rows: int) -> FeatureRows:
        columns = set(table.columns)
        return cls(
            table, partitions, roles.feature_hash, roles.key, roles.prediction_time, roles.features,
            label=roles.label if roles.label in columns else None,
            keep=roles.keep, partition_by=table.partition_by, entry_point=roles.entry_point, rows=rows,
        )  # fmt: skip
