"""What the user's feature functions give, checked against the declaration and laid down as Arrow files.

Files have internal column names (``c0``, ``b0``, ``f0``, ...) and few types: whole numbers, floats, booleans,
text, dates, and timestamps in UTC with microseconds and no zone, as DuckDB compares them best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from airflow_ml_provider.contract.errors import UserCodeError, did_you_mean
from airflow_ml_provider.contract.features import FeatureSet, FeatureView
from airflow_ml_provider.contract.partitions import Partitions
from airflow_ml_provider.steps import functions
from airflow_ml_provider.steps.laid_files import hold, lay, scan
from airflow_ml_provider.steps.point_in_time import Facts, may_be_held

# Delta Lake has no unsigned numbers, and models take no decimals.
_STORED: dict[Any, Any] = {
    pl.UInt8: pl.Int16, pl.UInt16: pl.Int32, pl.UInt32: pl.Int64, pl.UInt64: pl.Int64,
    pl.Decimal: pl.Float64, pl.Null: pl.Float64, pl.Categorical: pl.String, pl.Enum: pl.String,
}  # fmt: skip
_AS_IS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Float32, pl.Float64, pl.Boolean, pl.String, pl.Date)
_MICROSECONDS = pl.Datetime("us")


@dataclass(frozen=True)
class Inputs:
    """The tables that functions may ask for, and where one is laid down that asks for files."""

    frames: Mapping[str, pl.LazyFrame]
    scratch: Path

    def call(self, function: Callable[..., Any]) -> Given:
        """Call a user's function for a frame."""
        frame = functions.call_for_frame(function, frames=self.frames, scratch=self.scratch)
        with functions.blame(function):
            return Given(frame, dict(frame.collect_schema()), function)


@dataclass(frozen=True)
class Given:
    """A frame that a user's function gave."""

    frame: pl.LazyFrame
    schema: dict[str, pl.DataType]
    function: Callable[..., Any]

    @property
    def name(self) -> str:
        """The function, as the user wrote it."""
        return functions.name_of(self.function)

    def check(self, columns: Sequence[str], why: str = "which the feature set declares") -> None:
        """
        :raises UserCodeError: a column that is needed is not there.
        """
        for column in columns:
            if column not in self.schema:
                raise UserCodeError(
                    f"{self.name} gives no column {column!r}, {why}",
                    todo=did_you_mean(column, list(self.schema)),
                )

    def stored(self, column: str) -> pl.Expr:
        """A column in a type that files and tables hold.

        :raises UserCodeError: it is of another (a list, a struct, a duration).
        """
        kind = self.schema[column]
        if isinstance(kind, pl.Datetime):
            return self.time(column)
        base = kind.base_type()
        if base in _STORED:
            return pl.col(column).cast(_STORED[base])
        if base not in _AS_IS:
            raise UserCodeError(
                f"column {column!r} of {self.name} is of type {kind}, which no feature row can hold",
                todo="give numbers, booleans, text, dates or timestamps",
            )
        # "Not a number" identifies nothing, like null; as a feature it is as good as missing.
        return pl.col(column).fill_nan(None) if kind.is_float() else pl.col(column)

    def feature(self, column: str) -> pl.Expr:
        """A feature column: a number, a boolean or text."""
        kind = self.schema[column]
        if kind.is_temporal():
            raise UserCodeError(
                f"feature {column!r} of {self.name} is of type {kind}, not a number, a boolean or text",
                todo="make a number of it, such as the hours since it",
            )
        return self.stored(column)

    def time(self, column: str, *, up: bool = False) -> pl.Expr:
        """A timestamp in UTC, in whole microseconds; one without a zone is taken as UTC.

        :param up: round up instead, so that rounding lets no fact in before its time.
        """
        kind = self.schema[column]
        if not isinstance(kind, pl.Datetime):
            raise UserCodeError(
                f"column {column!r} of {self.name} is of type {kind}, not a timestamp",
                todo="make one of it: .cast(pl.Datetime) of a date, .str.to_datetime(time_zone=...) of text",
            )
        found = pl.col(column)
        if kind.time_zone is not None:
            found = found.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        if kind.time_unit == "ns":
            found = (found.cast(pl.Int64) + (999 if up else 0)) // 1000
        return found.cast(_MICROSECONDS)

    def write(self, path: Path, frame: pl.LazyFrame) -> Path:
        """Compute a frame made of this one into a file; what raises is the function's doing."""
        with functions.blame(self.function):
            return lay(frame, path)


@dataclass(frozen=True)
class Rows:
    """The rows to build, as a file.

    :param names: the user's columns, and what they are called in the file.
    :param order: columns of the file by which the rows are to be ordered: partition and key.
    """

    path: Path
    names: Mapping[str, str]
    schema: Mapping[str, pl.DataType]
    order: Sequence[str]

    def inside(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The columns' names in the file."""
        return tuple(self.names[column] for column in columns)


def write_rows(
    features: FeatureSet,
    inputs: Inputs,
    *,
    partition_by: str | None,
    partitions: Partitions | None,
    only: pl.DataFrame | None,
    to: Path,
) -> Rows:
    """The rows function's rows of the asked partitions.

    :param only: keys, in internal types; other rows are left out.
    """
    given = inputs.call(features.rows)
    partition = (partition_by,) if partition_by else ()
    known_at = (features.row_known_at,) if features.row_known_at else ()
    by = [column for view in features.views for column in view.by]
    columns = list(dict.fromkeys([*partition, *features.row_columns, *features.keep, *known_at, *by]))
    given.check(partition, "by which the published table is partitioned")
    given.check(columns)
    names = {column: f"c{number}" for number, column in enumerate(columns)}
    frame = given.frame
    if partition_by and partitions is not None:
        frame = frame.filter(_within(_partition(given, partition_by), partitions))
    made = [_row_column(given, features, column, partition_by).alias(name) for column, name in names.items()]
    frame = frame.select(made)
    if only is not None:
        frame = frame.join(only.lazy(), on=only.columns, how="semi")
    given.write(to, frame)
    order = [names[column] for column in dict.fromkeys((*partition, *features.key))]
    return Rows(to, names, dict(scan(to).collect_schema()), order)


def write_facts(
    view: FeatureView, inputs: Inputs, rows: Rows, *, first: datetime, last: datetime, to: Path
) -> Facts:
    """A view's facts; those that no row predicted from ``first`` to ``last`` can use are left out."""
    given = inputs.call(view.function)
    given.check([*view.by, view.event_time, view.knowledge_time, *view.features])
    frame = given.frame.select(
        *(given.stored(column).alias(f"b{number}") for number, column in enumerate(view.by)),
        given.time(view.event_time, up=True).alias("event"),
        given.time(view.knowledge_time, up=True).alias("known"),
        *(given.feature(column).alias(f"f{number}") for number, column in enumerate(view.features)),
    )
    with functions.blame(given.function):
        schema = dict(frame.collect_schema())
    for number, column in enumerate(view.by):
        same_kind(given, column, schema[f"b{number}"], rows.schema[rows.names[column]])
    usable = (pl.col("event") <= last) & (pl.col("known") <= last)
    if view.max_age_seconds is not None:
        usable &= pl.col("event") >= pl.lit(first) - pl.duration(seconds=view.max_age_seconds)
    # Facts without a time are kept in the file, to be counted; the join leaves them out.
    timeless = pl.col("event").is_null() | pl.col("known").is_null()
    with functions.blame(given.function):
        held = hold(frame.filter(usable | timeless), to, may_be_held())
    return Facts(to, rows.inside(view.by), len(view.features), view.max_age_seconds, held)


def _row_column(given: Given, features: FeatureSet, column: str, partition_by: str | None) -> pl.Expr:
    if column == partition_by:
        return _partition(given, column)
    if column == features.prediction_time:
        return given.time(column)
    if column == features.row_known_at:
        return given.time(column, up=True)
    if column in features.row_features:
        return given.feature(column)
    return given.stored(column)


def _partition(given: Given, column: str) -> pl.Expr:
    kind = given.schema[column]
    if kind == pl.String:
        return pl.col(column)
    if kind == pl.Date or kind.base_type() in (pl.Categorical, pl.Enum):
        return pl.col(column).cast(pl.String)
    raise UserCodeError(
        f"the partition column {column!r} of {given.name} is of type {kind}, not text or a date",
        todo='give the text of the partition: pl.col(...).dt.strftime("%Y-%m-%d")',
    )


def _within(column: pl.Expr, partitions: Partitions) -> pl.Expr:
    if partitions.is_range:
        # Two comparisons prune a table's files better than a long list does.
        return column.is_between(pl.lit(partitions.values[0]), pl.lit(partitions.values[-1]))
    return column.is_in(list(partitions.values))


def same_kind(given: Given, column: str, mine: pl.DataType, rows: pl.DataType) -> None:
    """
    :raises UserCodeError: a column that is to equal one of the rows is of another kind.
    """

    def kind(dtype: pl.DataType) -> str:
        return "whole number" if dtype.is_integer() else "float" if dtype.is_float() else str(dtype)

    if kind(mine) != kind(rows):
        raise UserCodeError(
            f"column {column!r} of {given.name} is of type {mine} and that of the rows is {rows}: "
            f"no value of the one equals a value of the other",
            todo=f"cast {column!r} to the same type in both functions",
        )
