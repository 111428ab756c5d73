"""Profiles: what the columns of a table looked like, small enough to keep with a model.

A profile is a JSON document. The reference profile of a model holds, for every feature, the bins that its
training rows fall into and how many did; later rows are counted into the same bins and compared
(:mod:`airflow_ml_provider.steps.drift`)::

    {"format": 1, "rows": 5,
     "columns": {
       "distance": {"kind": "numeric", "edges": [79.9, 500.0, 2500.0], "counts": [0, 3, 1, 0], "nulls": 1,
                    "usual": {"partitions": 120, "median": 0.01, "p95": 0.08, "maximum": 0.19}},
       "carrier": {"kind": "categorical", "categories": ["UA", "AA"], "counts": [3, 1], "other": 1,
                   "nulls": 0}}}

Bin ``i`` of a numeric column holds ``edges[i-1] < x <= edges[i]``. The first and the last are open and hold
what the reference never saw: less than its minimum, more than its maximum, infinities. In between are
deciles; a value that is frequent by itself has a bin of its own. NaN counts as null.

``usual`` says how far single partitions (days) of the reference lie from the rest of it, see
:func:`airflow_ml_provider.steps.drift.usual_drift`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import DataError, did_you_mean
from airflow_ml_provider.steps import bin_counts
from airflow_ml_provider.steps.drift import Usual, usual_drift

if TYPE_CHECKING:
    from airflow_ml_provider.steps.bin_counts import Counts

FORMAT = 1
BINS = 10
MOST_CATEGORIES = 50
# Cut points and the choice of categories come from this many rows, evenly spread; the counts from all.
_SAMPLE_ROWS = 200_000
_BATCH_ROWS = 100_000
# More partitions than these, evenly spread, say nothing more about what is usual.
_MOST_PARTITIONS = 400


# Partition to column to counts: those of the bins, of rows in no named category, and of nulls.
Tally = dict[str, dict[str, list[int]]]


class ColumnProfile(TypedDict):
    """One column; which keys there are depends on ``kind``, see the module's example."""

    kind: Literal["numeric", "categorical"]
    counts: list[int]
    nulls: int
    edges: NotRequired[list[float]]
    categories: NotRequired[list[str]]
    other: NotRequired[int]
    usual: NotRequired[Usual]


class Profile(TypedDict):
    """Columns by name, and the number of rows they were counted from."""

    format: int
    rows: int
    columns: dict[str, ColumnProfile]


def build_profile(frame: pl.LazyFrame, columns: Sequence[str], by: str | None = None) -> Profile:
    """The profile of some columns, with bins made for them.

    Numeric columns get up to ten bins of about equal counts (between deciles) and one on either side of
    all values, text its 50 most frequent values; booleans count as 0 and 1, as models get them. Memory is
    bounded by a sample of 200,000 rows and a batch; with no more rows than the sample the frame is read
    once, otherwise twice. Equal rows in equal order give an equal profile.

    :param by: the partition column. Given, the profile also says how far single partitions usually lie
        from the whole, without which a day cannot be told to be unusual.
    :raises DataError: a column is missing, or neither a number, a boolean nor text.
    """
    numeric = _are_numeric(frame, columns)
    if by is not None and by not in frame.collect_schema():
        raise DataError(
            f"there is no partition column {by!r} to take a profile by",
            todo=did_you_mean(by, frame.collect_schema().names()),
        )
    frame = frame.select(list(dict.fromkeys([*columns, *([by] if by else [])])))
    rows = frame.select(pl.len()).collect(engine="streaming").item()
    step = max(1, math.ceil(rows / _SAMPLE_ROWS))
    sample = frame.gather_every(step).collect(engine="streaming")
    bins = {
        name: _numeric_bins(sample[name]) if numeric[name] else _categories(sample[name]) for name in columns
    }
    chosen = _evenly(frame.select(pl.col(by).unique()).collect()[by]) if by else []
    counted = bin_counts.count(
        bins, _batches(frame) if step > 1 else sample.iter_slices(_BATCH_ROWS), by, chosen
    )
    profile = _profile(bins, counted.rows, counted.total)
    if by:
        for name, column in profile["columns"].items():
            parts = [part[name].tolist() for part in counted.partitions.values()]
            column["usual"] = usual_drift(counted.total[name].tolist(), parts)
    return profile


def apply_profile(profile: Profile, frame: pl.LazyFrame) -> Profile:
    """The profile of other rows in the bins of this one, from one pass over the frame, batch by batch.

    :raises DataError: a column of the profile is missing in the frame or is of another kind there.
    """
    bins = profile["columns"]
    _check_kinds(bins, frame)
    counted = bin_counts.count(bins, _batches(frame.select(list(bins))))
    return _profile(bins, counted.rows, counted.total)


def apply_profile_by(
    profile: Profile,
    frame: pl.LazyFrame,
    by: str,
    values: Iterable[str],
    advance: Callable[[int], object] = lambda rows: None,
) -> dict[str, Profile]:
    """:func:`apply_profile` for each of these partitions, still in one pass; none is left out.

    :param advance: told of so many more rows that are counted.
    """
    wanted = list(values)
    return profiles_of(profile, tally_by(profile, frame, by, wanted, advance), wanted)


def tally_by(
    profile: Profile,
    frame: pl.LazyFrame,
    by: str,
    values: Iterable[str],
    advance: Callable[[int], object] = lambda rows: None,
) -> Tally:
    """The counts of :func:`apply_profile_by` alone: those of some rows and of others add up to those of all."""
    bins = profile["columns"]
    _check_kinds(bins, frame)
    batches = _batches(frame.select(list(dict.fromkeys([*bins, by]))))
    counted = bin_counts.count(bins, batches, by, values, advance).partitions
    return {
        value: {name: counts.tolist() for name, counts in columns.items()}
        for value, columns in counted.items()
    }


def profiles_of(profile: Profile, tally: Tally, values: Iterable[str]) -> dict[str, Profile]:
    """The profile of each of these partitions, from its counts."""
    bins = profile["columns"]
    profiles = {}
    for value in values:
        found = tally.get(value)
        counts = (
            bin_counts.zeros(bins)
            if found is None
            else {name: np.array(found[name], np.int64) for name in bins}
        )
        rows = int(next(iter(counts.values())).sum()) if counts else 0
        profiles[value] = _profile(bins, rows, counts)
    return profiles


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """The sum of counts of parts of the rows."""
    whole: Tally = {}
    for tally in tallies:
        for value, columns in tally.items():
            to = whole.setdefault(value, {})
            for name, counts in columns.items():
                to[name] = [a + b for a, b in zip(to.get(name) or [0] * len(counts), counts, strict=True)]
    return whole


def bin_labels(column: ColumnProfile) -> list[str]:
    """A name for each of the column's counts, in order: ``< 80``, ``80 – 500``, ``= 500``, ``> 500``."""
    if column["kind"] == "categorical":
        return list(column["categories"])
    return [_bin_label(low, high) for low, high in pairwise([-math.inf, *column["edges"], math.inf])]


def _bin_label(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "all"
    if math.nextafter(low, math.inf) == high:
        return f"= {_number(high)}"
    if math.isinf(low):
        return f"{'<' if _rounded_up(high) != high else '≤'} {_number(high)}"
    return f"> {_number(low)}" if math.isinf(high) else f"{_number(low)} – {_number(high)}"


def _number(edge: float) -> str:
    edge = _rounded_up(edge)
    return f"{edge:,.0f}" if 1000 <= abs(edge) < 1e15 else f"{edge:.3g}"


def _rounded_up(edge: float) -> float:
    """The number that an edge lies just below; the edge itself where it is a plain number."""
    above = math.nextafter(edge, math.inf) + 0.0
    return above if len(repr(above)) < len(repr(edge)) else edge


def _are_numeric(frame: pl.LazyFrame, columns: Iterable[str]) -> dict[str, bool]:
    schema = frame.collect_schema()
    kinds: dict[str, bool] = {}
    for name in columns:
        dtype = schema.get(name)
        if dtype is None:
            raise DataError(
                f"there is no column {name!r} to take a profile of", todo=did_you_mean(name, schema.names())
            )
        if dtype.is_numeric() or dtype in (pl.Boolean, pl.Null):
            kinds[name] = True
        elif dtype in (pl.String, pl.Categorical, pl.Enum):
            kinds[name] = False
        else:
            raise DataError(
                f"column {name!r} is of type {dtype}; a profile is taken of numbers, booleans and text",
                todo="turn it into a number where the rows are made (a time into an hour or an age, say)",
            )
    return kinds


def _check_kinds(bins: Mapping[str, ColumnProfile], frame: pl.LazyFrame) -> None:
    schema = frame.collect_schema()
    for name, numeric in _are_numeric(frame, bins).items():
        # A column of nothing but nulls has no type of its own.
        if numeric != (bins[name]["kind"] == "numeric") and schema[name] != pl.Null:
            found = f"{'numeric' if numeric else 'categorical'} ({schema[name]})"
            raise DataError(
                f"column {name!r} is {found} and was {bins[name]['kind']} in the profile",
                todo="the feature's type changed since the model was trained: train a new version",
            )


def _numeric_bins(sample: pl.Series) -> ColumnProfile:
    values = sample.cast(pl.Float64).drop_nulls()
    values = values.filter(values.is_finite()).sort()
    if values.is_empty():
        return {"kind": "numeric", "edges": [], "counts": [], "nulls": 0}
    lowest, highest = values[0], values[-1]
    deciles = [values.quantile(part / BINS, interpolation="lower") for part in range(1, BINS)]
    frequent = [value for value in deciles if (values == value).sum() * BINS >= len(values)]
    edges = {highest, *deciles, *(math.nextafter(value, -math.inf) for value in (lowest, *frequent))}
    return {"kind": "numeric", "edges": sorted(edge + 0.0 for edge in edges), "counts": [], "nulls": 0}


def _categories(sample: pl.Series) -> ColumnProfile:
    values = sample.cast(pl.String).drop_nulls()
    frequent = values.alias("value").value_counts(name="n").sort(["n", "value"], descending=[True, False])
    names = frequent["value"].head(MOST_CATEGORIES).to_list()
    return {"kind": "categorical", "categories": names, "counts": [], "nulls": 0}


def _batches(frame: pl.LazyFrame) -> Iterable[pl.DataFrame]:
    return frame.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True)


def _evenly(values: pl.Series) -> list[str]:
    step = max(1, math.ceil(len(values) / _MOST_PARTITIONS))
    return values.cast(pl.String).drop_nulls().sort().gather_every(step).to_list()


def _profile(bins: Mapping[str, ColumnProfile], rows: int, counts: Mapping[str, Counts]) -> Profile:
    columns: dict[str, ColumnProfile] = {}
    for name, column in bins.items():
        *named, other, nulls = counts[name].tolist()
        if column["kind"] == "numeric":
            columns[name] = {
                "kind": "numeric",
                "edges": list(column["edges"]),
                "counts": named,
                "nulls": nulls,
            }
        else:
            columns[name] = {
                "kind": "categorical", "categories": list(column["categories"]), "counts": named,
                "other": other, "nulls": nulls,
            }  # fmt: skip
    return {"format": FORMAT, "rows": rows, "columns": columns}
