"""Profiles: what the columns of a table looked like, small enough to keep with a model.

A profile is a JSON document. The reference profile of a model holds, for every feature, the bins that its
training rows fall into and how many did; later rows are counted into the same bins and compared
(:mod:`airflow_ml_provider.steps.drift`)::

    {"format": 1, "rows": 5,
     "columns": {
       "distance": {"kind": "numeric", "edges": [100.0, 500.0], "counts": [2, 1, 1], "nulls": 1,
                    "minimum": 80.0, "maximum": 2500.0},
       "carrier": {"kind": "categorical", "categories": ["UA", "AA"], "counts": [3, 1], "other": 1,
                   "nulls": 0}}}

Bin ``i`` of a numeric column holds ``edges[i-1] < x <= edges[i]``; the first and the last are open, so
that every number has a bin, infinities too. NaN counts as null. A value that is frequent by itself has a
bin of its own, and a constant has a bin on either side of it, so that leaving it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypedDict

import polars as pl

from airflow_ml_provider.contract.errors import DataError, did_you_mean

FORMAT = 1
BINS = 10
MOST_CATEGORIES = 50
# Cut points and the choice of categories come from this many rows, evenly spread; the counts from all.
_SAMPLE_ROWS = 200_000
_BATCH_ROWS = 100_000


class ColumnProfile(TypedDict, total=False):
    """One column; which keys there are depends on ``kind``, see the module's example."""

    kind: Literal["numeric", "categorical"]
    counts: list[int]
    nulls: int
    edges: list[float]
    minimum: float | None
    maximum: float | None
    categories: list[str]
    other: int


class Profile(TypedDict):
    """Columns by name, and the number of rows they were counted from."""

    format: int
    rows: int
    columns: dict[str, ColumnProfile]


def build_profile(frame: pl.LazyFrame, columns: Sequence[str]) -> Profile:
    """The profile of some columns, with bins made for them.

    Numeric columns get up to ten bins of about equal counts (between deciles), text and booleans their 50
    most frequent values. Memory is bounded by a sample of 200,000 rows and a batch; with no more rows than
    the sample the frame is read once, otherwise twice. Equal rows in equal order give an equal profile.

    :raises DataError: a column is missing, or neither a number, a boolean nor text.
    """
    numeric = _are_numeric(frame, columns)
    frame = frame.select(columns)
    rows = frame.select(pl.len()).collect(engine="streaming").item()
    step = max(1, math.ceil(rows / _SAMPLE_ROWS))
    sample = frame.gather_every(step).collect(engine="streaming")
    empty: dict[str, ColumnProfile] = {
        name: _numeric_bins(sample[name]) if numeric[name] else _categories(sample[name]) for name in columns
    }
    batches = _batches(frame) if step > 1 else sample.iter_slices(_BATCH_ROWS)
    return _count(empty, batches)


def apply_profile(profile: Profile, frame: pl.LazyFrame) -> Profile:
    """The profile of other rows in the bins of this one, from one pass over the frame, batch by batch.

    :raises DataError: a column of the profile is missing in the frame or is of another kind there.
    """
    numeric = _are_numeric(frame, list(profile["columns"]))
    for name, column in profile["columns"].items():
        if numeric[name] != (column["kind"] == "numeric"):
            found = "numeric" if numeric[name] else "categorical"
            raise DataError(
                f"column {name!r} is {found} ({frame.collect_schema()[name]}) and was {column['kind']} in the profile",
                todo="the feature's type changed since the model was trained: train a new version",
            )
    return _count(profile["columns"], _batches(frame.select(list(profile["columns"]))))


def bin_labels(column: ColumnProfile) -> list[str]:
    """A name for each of the column's counts, in order: ``"≤ 100"``, ``"100 – 500"``, ``"= 0"``, ``"> 500"``."""
    if column["kind"] == "categorical":
        return list(column["categories"])
    edges = [-math.inf, *column["edges"], math.inf]
    return [_bin_label(low, high) for low, high in zip(edges, edges[1:], strict=False)]


def _bin_label(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "all"
    if math.nextafter(low, math.inf) == high:
        return f"= {high:.4g}"
    if math.isinf(low):
        return f"≤ {high:.4g}"
    return f"> {low:.4g}" if math.isinf(high) else f"{low:.4g} – {high:.4g}"


def _are_numeric(frame: pl.LazyFrame, columns: Sequence[str]) -> dict[str, bool]:
    schema = frame.collect_schema()
    kinds: dict[str, bool] = {}
    for name in columns:
        dtype = schema.get(name)
        if dtype is None:
            raise DataError(
                f"there is no column {name!r} to take a profile of", todo=did_you_mean(name, schema.names())
            )
        if dtype.is_numeric() or dtype == pl.Null:
            kinds[name] = True
        elif dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum):
            kinds[name] = False
        else:
            raise DataError(
                f"column {name!r} is of type {dtype}; a profile is taken of numbers, booleans and text",
                todo="turn it into a number where the rows are made (a time into an hour or an age, say)",
            )
    return kinds


def _numbers(column: pl.Series) -> pl.Series:
    return column.cast(pl.Float64).fill_nan(None)


def _numeric_bins(sample: pl.Series) -> ColumnProfile:
    values = _numbers(sample).drop_nulls()
    values = values.filter(values.is_finite()).sort()
    edges: set[float] = set()
    for part in range(1, BINS):
        value = values.quantile(part / BINS, interpolation="lower")
        if value is None:
            break
        edges.add(value)
        if (values == value).sum() * BINS >= len(values):
            edges.add(math.nextafter(value, -math.inf))
    return {"kind": "numeric", "edges": sorted(edges), "minimum": None, "maximum": None}


def _categories(sample: pl.Series) -> ColumnProfile:
    values = sample.cast(pl.String).drop_nulls()
    frequent = values.alias("value").value_counts(name="n").sort(["n", "value"], descending=[True, False])
    return {"kind": "categorical", "categories": frequent["value"].head(MOST_CATEGORIES).to_list()}


def _batches(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    return frame.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True)


def _count(bins: dict[str, ColumnProfile], batches: Iterable[pl.DataFrame]) -> Profile:
    rows = 0
    counters = {
        name: _NumericCounter(column) if column["kind"] == "numeric" else _CategoryCounter(column)
        for name, column in bins.items()
    }
    for batch in batches:
        rows += batch.height
        for name, counter in counters.items():
            counter.add(batch[name])
    return {"format": FORMAT, "rows": rows, "columns": {name: c.profile() for name, c in counters.items()}}


class _NumericCounter:
    def __init__(self, column: ColumnProfile) -> None:
        self._edges = column["edges"]
        self._counts = [0] * (len(self._edges) + 1)
        self._nulls = 0
        self._range = (math.inf, -math.inf)

    def add(self, column: pl.Series) -> None:
        values = _numbers(column)
        self._nulls += values.null_count()
        values = values.drop_nulls().sort()
        # Sorted once, the counts up to every edge are positions.
        upto = [*values.search_sorted(pl.Series(self._edges, dtype=pl.Float64), side="right"), len(values)]
        self._counts = [
            count + high - low for count, low, high in zip(self._counts, [0, *upto], upto, strict=False)
        ]
        finite = values.filter(values.is_finite())
        if len(finite):
            low, high = self._range
            self._range = (min(low, finite[0]), max(high, finite[-1]))

    def profile(self) -> ColumnProfile:
        low, high = self._range
        return {
            "kind": "numeric", "edges": list(self._edges), "counts": self._counts, "nulls": self._nulls,
            "minimum": low if low <= high else None, "maximum": high if low <= high else None,
        }  # fmt: skip


class _CategoryCounter:
    def __init__(self, column: ColumnProfile) -> None:
        self._categories = column["categories"]
        self._counts = dict.fromkeys(self._categories, 0)
        self._other = 0
        self._nulls = 0

    def add(self, column: pl.Series) -> None:
        self._nulls += column.null_count()
        found = column.cast(pl.String).drop_nulls().alias("value").value_counts(name="n")
        for value, count in found.iter_rows():
            if value in self._counts:
                self._counts[value] += count
            else:
                self._other += count

    def profile(self) -> ColumnProfile:
        return {
            "kind": "categorical", "categories": list(self._categories), "counts": list(self._counts.values()),
            "other": self._other, "nulls": self._nulls,
        }  # fmt: skip
