"""The rows of a table that an item asks for: where the item's keys that are columns have its values."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.fleets import show
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.steps.labelled_rows import LabelledRows
from airflow_ml_provider.steps.pinned_tables import PinnedTable

if TYPE_CHECKING:
    from airflow_ml_provider.contract.fleets import Item
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.fleet_layout import Layout


@dataclass(frozen=True, eq=False)
class SelectedTable(PinnedTable):
    """A table of which only some rows are seen; others are left out while the files are read.

    :param where: column to value.
    """

    where: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, table: PinnedTable, where: Mapping[str, Any]) -> SelectedTable:
        """The rows of a table where columns have these values."""
        return cls(table.table, table.uri, table.delta, table.only, where)

    def lazy(self, partitions: Partitions | None = None) -> pl.LazyFrame:
        """The rows; nothing is read before they are collected."""
        frame = super().lazy(partitions)
        schema = frame.collect_schema()
        return frame.filter(*(_equals(name, schema[name], value) for name, value in self.where.items()))


class ItemRows:
    """The rows of one item after the other, from one table.

    Items that ask for the same rows mostly follow each other: these are read once, to local disk.

    :param scratch: a folder for the rows of the last item.
    :param partitions: of the table; empty for all of it.
    :param layout: where those of many items have been laid down.
    """

    def __init__(
        self,
        step: StepContext,
        table: PinnedTable,
        partitions: str,
        scratch: Path,
        layout: Layout | None = None,
    ) -> None:
        self.table = table
        self.layout = layout
        self._step = step
        self._partitions = partitions
        self._columns = frozenset(table.columns)
        self._folder = scratch / "rows"
        self._held = ""
        self._labelled: LabelledRows | None = None

    def split(self, item: Item) -> tuple[Item, Item]:
        """An item's keys that select rows, and those that are parameters."""
        return (
            {name: value for name, value in item.items() if name in self._columns},
            {name: value for name, value in item.items() if name not in self._columns},
        )

    def frame(self, where: Item) -> pl.LazyFrame | pl.DataFrame:
        """The rows where columns have these values.

        :raises DataError: there are none.
        """
        laid_down = self.layout.frame(where) if self.layout is not None and where else None
        if laid_down is not None:
            return laid_down
        parts = self._step.partitions(self._partitions)
        if not where:
            return self.table.lazy(parts)
        path = self._folder / "rows.parquet"
        if self._held != document_digest(where):
            self._forget()
            SelectedTable.of(self.table, where).lazy(parts).sink_parquet(path)
            if not pl.scan_parquet(path).select(pl.len()).collect().item():
                raise DataError(
                    f"there are no rows with {show(where)} in table {self.table.name!r}, version "
                    f"{self.table.version}" + (f", partitions {self._partitions}" if parts else "")
                )
            self._held = document_digest(where)
        return pl.scan_parquet(path)

    def labelled(self, where: Item) -> LabelledRows:
        """The same of a table of feature rows, as a model is trained on them.

        :raises DataError: there are none, or none with a label, or all have the same.
        """
        laid_down = self.layout.labelled_rows(where) if self.layout is not None and where else None
        if laid_down is not None:
            return self._of_two_classes(laid_down, where)
        held = document_digest(where)
        if self._labelled is None or self._held != held:
            self._forget()
            table = SelectedTable.of(self.table, where) if where else self.table
            rows = LabelledRows(self._step, table, self._partitions, purpose="train on")
            self._of_two_classes(rows, where)
            path = self._folder / "labelled.parquet"
            rows.frame.sink_parquet(path)
            rows.frame = pl.scan_parquet(path)
            self._labelled, self._held = rows, held
        return self._labelled

    @staticmethod
    def _of_two_classes(rows: LabelledRows, where: Item) -> LabelledRows:
        if rows.single_class is not None:
            raise DataError(
                f"the label {rows.label!r} is {rows.single_class} in all {rows.count:,} labelled rows of "
                f"{rows.where}{f' with {show(where)}' if where else ''}: there is nothing to tell apart"
            )
        return rows

    def _forget(self) -> None:
        self._held, self._labelled = "", None
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)


def _equals(name: str, dtype: pl.DataType, value: Any) -> pl.Expr:
    """A column equal to a JSON value, in the column's own type so that the file's statistics are used."""
    column = pl.col(name)
    if value is None:
        return column.is_null()
    if dtype in (pl.String, pl.Categorical, pl.Enum) and isinstance(value, str):
        return column == pl.lit(value)
    if dtype == pl.Boolean and isinstance(value, bool):
        return column == pl.lit(value)
    if dtype.is_numeric() and isinstance(value, (int, float)) and not isinstance(value, bool):
        if dtype.is_integer() and isinstance(value, float) and math.isfinite(value) and value.is_integer():
            value = int(value)
        return column == pl.lit(value)
    if isinstance(value, str) and dtype.is_temporal():
        try:
            moment = date.fromisoformat(value) if dtype == pl.Date else datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            return column == pl.lit(moment).cast(dtype)
    raise DataError(
        f"an item has {name}={value!r}, and the table's column {name!r} is {dtype}: they cannot be equal",
        todo="give the value in the column's type, or the parameter another name",
    )
