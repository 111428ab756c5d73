"""What the user's feature functions give on Spark, checked against the declaration and laid down as Parquet.

The counterpart of :mod:`airflow_ml_provider.steps.feature_inputs`, column for column: the same internal names, the
same few types, times in UTC without a zone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.errors import UserCodeError, did_you_mean
from airflow_ml_provider.steps import functions, spark_session

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import DataType

    from airflow_ml_provider.contract.partitions import Partitions


@dataclass(frozen=True)
class SparkInputs:
    """The tables that functions may ask for."""

    spark: SparkSession
    frames: Mapping[str, DataFrame]

    def call(self, function: Callable[..., Any], **values: Any) -> SparkGiven:
        """Call a user's function for a frame.

        :raises UserCodeError: it gives something else.
        """
        from pyspark.sql import DataFrame

        frame = functions.call(function, frames=self.frames, values=values)
        spark_session.set_up(self.spark)
        if not isinstance(frame, DataFrame):
            raise UserCodeError(
                f"{functions.name_of(function)} gave {type(frame).__name__}, not a Spark DataFrame",
                todo="a function that asks for Spark frames gives one: pyspark.sql.DataFrame",
            )
        return SparkGiven(frame, function)


@dataclass(frozen=True)
class SparkGiven:
    """A frame that a user's function gave."""

    frame: DataFrame
    function: Callable[..., Any]

    @property
    def name(self) -> str:
        """The function, as the user wrote it."""
        return functions.name_of(self.function)

    def kind(self, column: str) -> DataType:
        """A column's type."""
        return self.frame.schema[column].dataType

    def check(self, columns: Sequence[str], why: str = "which the feature set declares") -> None:
        """
        :raises UserCodeError: a column that is needed is not there.
        """
        for column in columns:
            if column not in self.frame.columns:
                raise UserCodeError(
                    f"{self.name} gives no column {column!r}, {why}",
                    todo=did_you_mean(column, self.frame.columns),
                )
            if self.frame.columns.count(column) > 1:
                raise UserCodeError(
                    f"{self.name} gives several columns {column!r}, as a join does whose sides both have it",
                    todo="join on the column's name, or drop one of them",
                )

    def stored(self, column: str) -> Column:
        """A column in a type that files and tables hold.

        :raises UserCodeError: it is of another (an array, a struct, an interval).
        """
        from pyspark.sql import functions as F
        from pyspark.sql import types as T

        kind, value = self.kind(column), named(column)
        if isinstance(kind, (T.TimestampType, T.TimestampNTZType)):
            return self.time(column)
        if isinstance(kind, (T.DecimalType, T.NullType)):
            return value.cast("double")
        if isinstance(kind, (T.FloatType, T.DoubleType)):
            # "Not a number" identifies nothing, like null; as a feature it is as good as missing.
            return F.when(~F.isnan(value), value)
        if isinstance(kind, (T.CharType, T.VarcharType)):
            return value.cast("string")
        if isinstance(kind, (T.IntegralType, T.BooleanType, T.StringType, T.DateType)):
            return value
        raise UserCodeError(
            f"column {column!r} of {self.name} is of type {kind.simpleString()}, which no feature row can hold",
            todo="give numbers, booleans, text, dates or timestamps",
        )

    def feature(self, column: str) -> Column:
        """A feature column: a number, a boolean or text."""
        from pyspark.sql import types as T

        kind = self.kind(column)
        if isinstance(kind, (T.TimestampType, T.TimestampNTZType, T.DateType, T.DayTimeIntervalType)):
            raise UserCodeError(
                f"feature {column!r} of {self.name} is of type {kind.simpleString()}, not a number, a boolean or "
                "text",
                todo="make a number of it, such as the hours since it",
            )
        return self.stored(column)

    def time(self, column: str) -> Column:
        """A timestamp in UTC; one without a zone is taken as UTC. Spark's have microseconds, as ours."""
        from pyspark.sql import types as T

        kind = self.kind(column)
        if not isinstance(kind, (T.TimestampType, T.TimestampNTZType)):
            raise UserCodeError(
                f"column {column!r} of {self.name} is of type {kind.simpleString()}, not a timestamp",
                todo='make one of it: .cast("timestamp") of a date or of text',
            )
        return named(column).cast("timestamp_ntz")

    def partition(self, column: str) -> Column:
        """The partition column: text."""
        from pyspark.sql import types as T

        kind = self.kind(column)
        if isinstance(kind, (T.StringType, T.CharType, T.VarcharType, T.DateType)):
            return named(column).cast("string")
        raise UserCodeError(
            f"the partition column {column!r} of {self.name} is of type {kind.simpleString()}, not text or a date",
            todo='give the text of the partition: F.date_format(..., "yyyy-MM-dd")',
        )


def named(column: str) -> Column:
    """A column by its name, whatever is in it: dots are no fields of a struct."""
    from pyspark.sql import functions as F

    return F.col(f"`{column.replace('`', '``')}`")


def moment(at: datetime) -> Column:
    """A moment in UTC, without a zone."""
    from pyspark.sql import functions as F

    return F.expr(f"TIMESTAMP_NTZ '{at.isoformat(sep=' ')}'")


def within(column: Column, partitions: Partitions) -> Column:
    """Whether a row is of some partitions."""
    if partitions.is_range:
        return column.between(partitions.values[0], partitions.values[-1])
    return column.isin(list(partitions.values))


def same_kind(given: SparkGiven, column: str, rows: DataType) -> None:
    """
    :raises UserCodeError: a column that is to equal one of the rows is of another kind.
    """
    mine = given.frame.select(given.stored(column)).schema[0].dataType
    if _kind(mine) != _kind(rows):
        raise UserCodeError(
            f"column {column!r} of {given.name} is of type {mine.simpleString()} and that of the rows is "
            f"{rows.simpleString()}: no value of the one equals a value of the other",
            todo=f"cast {column!r} to the same type in both functions",
        )


def compared(column: Column, kind: DataType) -> Column:
    """A column of the rows or of what is joined to them, in the type in which the two are compared."""
    return column.cast(widest) if (widest := _WIDEST.get(_kind(kind))) else column


_WIDEST = {"whole number": "bigint", "float": "double"}


def _kind(dtype: DataType) -> str:
    from pyspark.sql import types as T

    if isinstance(dtype, T.IntegralType):
        return "whole number"
    return "float" if isinstance(dtype, (T.FloatType, T.DoubleType)) else dtype.simpleString()
