"""The rows of all items of a fleet, read once: laid down on local disk, those of a selection next to each other.

Workers map the one file into memory and cut an item's rows out of it, without reading the table again. So a
fleet over 20,000 groups reads its table once a machine, and not once a group.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.contract.fleets import Item
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.steps.context import log
from airflow_ml_provider.steps.labelled_rows import LabelledRows

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.pinned_tables import PinnedTable

# For fewer, each is read from the table, whose files leave out what is not asked for.
LEAST_SELECTIONS = 3
_ROWS, _INDEX = "rows.arrow", "index.parquet"
_SELECTION, _POSITIVES = " selection", " positives"


@dataclass(frozen=True)
class Layout:
    """Rows as :func:`lay_down` has laid them down.

    :param folder: where.
    :param labelled: what they are, for rows that models are trained on.
    """

    folder: Path
    labelled: LabelledRows | None = None

    @cached_property
    def _rows(self) -> pl.DataFrame:
        # Mapped, not read: workers share the pages.
        with pa.memory_map(str(self.folder / _ROWS)) as source:
            table = pa.ipc.open_file(source).read_all().drop_columns(_SELECTION)
        found = pl.from_arrow(table, rechunk=False)
        assert isinstance(found, pl.DataFrame)
        return found

    @cached_property
    def _places(self) -> dict[str, tuple[int, int, int]]:
        return {
            key: (start, count, positives)
            for key, start, count, positives in pl.read_parquet(self.folder / _INDEX).iter_rows()
        }

    def frame(self, where: Item) -> pl.DataFrame | None:
        """The rows of a selection; None if they are not here."""
        found = self._places.get(document_digest(where))
        return None if found is None else self._rows.slice(found[0], found[1])

    def labelled_rows(self, where: Item) -> LabelledRows | None:
        """The same, as a model is trained on them."""
        frame = self.frame(where)
        if frame is None or self.labelled is None:
            return None
        found = copy.copy(self.labelled)
        _, found.count, found.positives = self._places[document_digest(where)]
        found.held, found.frame = frame, frame.lazy()
        return found


def read_together(
    step: StepContext, arguments: FleetArguments, items: Iterable[Item], folder: Path
) -> Path | None:
    """Lay down the rows of a fleet's items; gives the folder, or None where they are better read one by one."""
    if arguments.table is None:
        return None
    table = step.read(arguments.table)
    columns = set(table.columns)
    selected = ({name: value for name, value in item.items() if name in columns} for item in items)
    where = [each for each in selected if each]
    done = lay_down(step, table, arguments.partitions, where, folder, trains=arguments.trains)
    return folder if done else None


def lay_down(
    step: StepContext,
    table: PinnedTable,
    partitions: str,
    selections: Iterable[Item],
    folder: Path,
    *,
    trains: bool,
) -> bool:
    """Read the rows of some selections and lay them down; False where each is better read by itself.

    :param selections: values of columns.
    :param folder: a new folder.
    :param trains: whether the rows are to be those with a label, in the order of their key.
    """
    found = {document_digest(where): where for where in selections}
    columns = {tuple(sorted(where)) for where in found.values()}
    if len(found) < LEAST_SELECTIONS or len(columns) > 1:
        return False
    names = next(iter(columns))
    schema = table.lazy().collect_schema()
    if not all(_is_exact(where[name], schema[name]) for where in found.values() for name in names):
        return False
    wanted = pl.DataFrame(
        {
            **{f" {name}": [where[name] for where in found.values()] for name in names},
            _SELECTION: range(len(found)),
        },
        schema={**{f" {name}": _compared(schema[name]) for name in names}, _SELECTION: pl.Int32},
    ).lazy()
    try:
        rows, order, columns_kept = _rows(step, table, partitions, trains=trains)
    except MLError as error:
        # Whoever reads the rows of an item will say it of that item.
        log.info("the rows are read item by item: %s", error.what.partition("\n")[0])
        return False
    keys = [pl.col(name).cast(_compared(schema[name])).alias(f" {name}") for name in names]
    together = rows.with_columns(keys).join(
        wanted, on=[f" {name}" for name in names], how="inner", nulls_equal=True, maintain_order="left"
    )
    folder.mkdir(parents=True)
    laid = together.sort([_SELECTION, *order], maintain_order=True).select(_SELECTION, *columns_kept)
    laid.sink_ipc(folder / _ROWS, compression="uncompressed")
    positives = pl.last().cast(pl.Int64).sum() if trains else pl.lit(0, pl.Int64)
    counted = (
        pl.scan_ipc(folder / _ROWS)
        .select(_SELECTION, pl.last())
        .group_by(_SELECTION)
        .agg(pl.len().cast(pl.Int64).alias("count"), positives.alias(_POSITIVES))
        .sort(_SELECTION)
        .collect(engine="streaming")
    )
    digests = pl.Series("key", list(found), pl.String).gather(counted[_SELECTION])
    start = counted["count"].cum_sum() - counted["count"]
    pl.DataFrame([digests, start.alias("start"), counted["count"], counted[_POSITIVES]]).write_parquet(
        folder / _INDEX
    )
    return True


def open_layout(
    step: StepContext, table: PinnedTable, partitions: str, folder: Path, *, trains: bool
) -> Layout:
    """What :func:`lay_down` has laid down, for this process."""
    labelled = LabelledRows(step, table, partitions, purpose="train on") if trains else None
    return Layout(folder, labelled)


def _rows(
    step: StepContext, table: PinnedTable, partitions: str, *, trains: bool
) -> tuple[pl.LazyFrame, list[str], list[Any]]:
    """The rows, what they are sorted by, and the columns to keep; the label is the last of them."""
    if not trains:
        return table.lazy(step.partitions(partitions)), [], list(table.columns)
    whole = LabelledRows(step, table, partitions, purpose="train on")
    by = (whole.partition_by,) if whole.partition_by else ()
    order = list(dict.fromkeys((*by, *whole.rows.key)))
    rows = whole.rows.lazy().filter(pl.col(whole.label).is_not_null())
    # The features' form changes after the sort, as that of a single training's rows does.
    columns = [*whole.others, *whole.inputs.expressions(), pl.col(whole.label).cast(pl.Int8)]
    return rows, order, columns


def _is_exact(value: Any, dtype: pl.DataType) -> bool:
    """Whether equality says the same in a join as for :mod:`.fleet_rows`: no conversion of any kind."""
    if value is None:
        return True
    if isinstance(value, bool):
        return dtype == pl.Boolean
    if isinstance(value, int):
        return dtype.is_integer() and abs(value) < 2**31
    return isinstance(value, str) and dtype in (pl.String, pl.Categorical, pl.Enum)


def _compared(dtype: pl.DataType) -> pl.DataType:
    if dtype == pl.Boolean:
        return pl.Boolean()
    return pl.Int64() if dtype.is_integer() else pl.String()
