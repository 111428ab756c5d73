"""Labels on Spark: given by the user's function, matched with the rows where they have matured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.errors import DataError, UserCodeError
from airflow_ml_provider.steps import functions, maturity
from airflow_ml_provider.steps.feature_labels import none_matured, refuse_repeats
from airflow_ml_provider.steps.out_of_core import Repeats
from airflow_ml_provider.steps.spark_inputs import compared, moment, same_kind

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from airflow_ml_provider.contract.features import Label
    from airflow_ml_provider.steps.feature_inputs import Rows
    from airflow_ml_provider.steps.spark_aside import Aside, Laid
    from airflow_ml_provider.steps.spark_inputs import SparkInputs


@dataclass(frozen=True)
class Labels:
    """The labels that the user's function gives, each key of the rows at most once.

    :param laid: ``k0..`` (key), ``label`` and the times that the function gives.
    :param rows_key: the rows' columns that ``k0..`` must equal.
    """

    label: Label
    laid: Laid
    rows_key: tuple[str, ...]

    @classmethod
    def of(
        cls, label: Label, key: Sequence[str], inputs: SparkInputs, rows: Rows, laid: Laid, aside: Aside
    ) -> Labels:
        """Computed and checked.

        :param laid: the rows.
        :raises UserCodeError: the label function raised, or does not give what is declared.
        :raises DataError: it gives two labels for a key.
        """
        found = cls(label, _laid(label, key, inputs, rows, laid, aside), rows.inside(key))
        theirs, ours = found.laid.frame.alias("l"), laid.frame.alias("r")
        mine = theirs.join(ours, found._same(laid), "left_semi")
        refuse_repeats(
            repeats(mine, found._inside), key, f"labels that {functions.name_of(label.function)} gives"
        )
        return found

    @property
    def _inside(self) -> list[str]:
        return [f"k{number}" for number in range(len(self.rows_key))]

    def _same(self, laid: Laid) -> Column:
        from pyspark.sql import functions as F

        kinds = {column: laid.frame.schema[column].dataType for column in self.rows_key}
        pairs = zip(self.rows_key, self._inside, strict=True)
        return reduce(
            and_,
            (
                compared(F.col(f"r.{mine}"), kinds[mine]) == compared(F.col(f"l.{theirs}"), kinds[mine])
                for mine, theirs in pairs
            ),
        )

    def join(self, laid: Laid, *, predicted: str, until: datetime | None) -> DataFrame:
        """The rows whose label has matured, with ``label`` and when it matured, ``label_known``.

        :param laid: the rows.
        :param predicted: their column of the prediction time.
        :param until: labels that matured later do not count.
        """
        from pyspark.sql import functions as F

        matured = maturity.as_sql(self.label, predicted=f"r.{predicted}", known="l.known")
        joined = laid.frame.alias("r").join(self.laid.frame.alias("l"), self._same(laid))
        found = joined.select("r.*", "l.label", F.expr(matured).alias("label_known"))
        found = found.filter(F.col("label").isNotNull() & F.col("label_known").isNotNull())
        return found if until is None else found.filter(F.col("label_known") <= moment(until))

    def none_matured(self, laid: Laid, *, predicted: str, until: datetime | None) -> DataError:
        """Why not one label of the rows has."""
        mine = laid.lazy().select(
            *(pl.col(column).alias(name) for column, name in zip(self.rows_key, self._inside, strict=True)),
            pl.col(predicted).alias("predicted"),
        )
        return none_matured(self.label, self.laid.lazy().join(mine, on=self._inside), until)


def repeats(frame: DataFrame, key: Sequence[str]) -> Repeats | None:
    """Keys that occur more than once in a frame, None when each is there once."""
    from pyspark.sql import functions as F

    repeated = frame.groupBy(*key).agg(F.count("*").alias("n")).filter("n > 1")
    first = repeated.orderBy(*key).first()
    if first is None:
        return None
    told = repeated.agg(F.count("*"), F.sum("n")).first()
    assert told is not None
    *values, times = first
    return Repeats(tuple(values), times, told[0], told[1])


def _laid(
    label: Label, key: Sequence[str], inputs: SparkInputs, rows: Rows, laid: Laid, aside: Aside
) -> Laid:
    from pyspark.sql import types as T

    given = inputs.call(label.function)
    given.check([*key, label.name, *label.times])
    kind = given.kind(label.name)
    if not isinstance(kind, (T.NumericType, T.BooleanType, T.NullType)):
        raise UserCodeError(
            f"the label {label.name!r} of {given.name} is of type {kind.simpleString()}, not a number or a boolean",
            todo="give 0/1 or a boolean for classification, a number for regression",
        )
    for column in key:
        same_kind(given, column, laid.frame.schema[rows.names[column]].dataType)
    value = given.stored(label.name)
    frame = given.frame.select(
        *(given.stored(column).alias(f"k{number}") for number, column in enumerate(key)),
        (value.cast("tinyint") if isinstance(kind, T.BooleanType) else value).alias("label"),
        *(given.time(column).alias("known") for column in label.times),
    )
    return aside.lay(frame, "labels", who=label.function)
