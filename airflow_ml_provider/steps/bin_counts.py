"""Rows counted into the bins of a profile, batch by batch and some batches at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from airflow_ml_provider.steps.threads import in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.profiles import ColumnProfile

    Counts = NDArray[np.int64]


@dataclass
class Counted:
    """Counts per column, as the named bins, the rows in no named category, and the nulls."""

    total: dict[str, Counts]
    rows: int = 0
    partitions: dict[str, dict[str, Counts]] = field(default_factory=dict)


def count(
    bins: Mapping[str, ColumnProfile],
    batches: Iterable[pl.DataFrame],
    by: str | None = None,
    values: Iterable[str] = (),
    advance: Callable[[int], object] = lambda rows: None,
) -> Counted:
    """Count all batches.

    :param by: the partition column, and ``values`` those of its partitions that are counted each by itself, too.
    :param advance: told of so many more rows that are counted.
    """
    counted, wanted = Counted(zeros(bins)), frozenset(values)
    # Each batch is counted by itself, some at once; sums of counts are the same in any order.
    for rows, parts in in_order(partial(_count_batch, bins, batch, by, wanted) for batch in batches):
        counted.rows += rows
        for value, counts in parts.items():
            _sum(counted.total, counts)
            if value is not None:
                _sum(counted.partitions.setdefault(value, zeros(bins)), counts)
        advance(rows)
    return counted


def _count_batch(
    bins: Mapping[str, ColumnProfile], batch: pl.DataFrame, by: str | None, wanted: Set[str]
) -> tuple[int, dict[str | None, dict[str, Counts]]]:
    """The rows of a batch, and their counts by wanted partition; under None those of all other rows."""
    found: dict[str | None, dict[str, Counts]] = {}
    for value, part in _parts(batch, by, wanted):
        _add(found.setdefault(value, zeros(bins)), bins, part)
    return batch.height, found


def _parts(
    batch: pl.DataFrame, by: str | None, wanted: Set[str]
) -> Iterator[tuple[str | None, pl.DataFrame]]:
    if by is None:
        yield None, batch
        return
    different = batch[by].unique()
    # Files hold one partition each, so most batches do.
    parts = (
        [((different[0],), batch)] if len(different) == 1 else batch.partition_by(by, as_dict=True).items()
    )
    for (value,), part in parts:
        yield (str(value) if str(value) in wanted else None), part


def _sum(counts: dict[str, Counts], more: Mapping[str, Counts]) -> None:
    for name, of_column in more.items():
        counts[name] += of_column


def zeros(bins: Mapping[str, ColumnProfile]) -> dict[str, Counts]:
    """No row counted, column by column: the bins, rows in no named category, nulls."""

    def width(column: ColumnProfile) -> int:
        return len(column["edges"]) + 3 if column["kind"] == "numeric" else len(column["categories"]) + 2

    return {name: np.zeros(width(column), np.int64) for name, column in bins.items()}


def _add(counts: dict[str, Counts], bins: Mapping[str, ColumnProfile], rows: pl.DataFrame) -> None:
    for name, column in bins.items():
        if column["kind"] == "numeric":
            counts[name] += _count_numbers(rows[name], column["edges"])
        else:
            counts[name] += _count_categories(rows[name], column["categories"])


def _count_numbers(column: pl.Series, edges: Sequence[float]) -> Counts:
    values = column.cast(pl.Float64).to_numpy()  # nulls become NaN, which is below no edge
    nulls = int(np.count_nonzero(np.isnan(values)))
    # One comparison per edge is several times faster than finding each value's bin.
    below = [int(np.count_nonzero(values <= edge)) for edge in edges]
    return np.array([*np.diff([0, *below, len(values) - nulls]), 0, nulls], np.int64)


def _count_categories(column: pl.Series, categories: Sequence[str]) -> Counts:
    found = column.cast(pl.String).drop_nulls().alias("value").value_counts(name="n")
    by_name: dict[str, int] = dict(found.iter_rows())
    named = [by_name.get(category, 0) for category in categories]
    nulls = column.null_count()
    return np.array([*named, len(column) - nulls - sum(named), nulls], np.int64)
