"""The point-in-time join on Spark: the same choice of facts as :mod:`airflow_ml_provider.steps.point_in_time`.

Facts and rows of an entity are put into one order by time, a fact at the moment from which it can be used
(``max(event, knowledge)``) and before the rows of that moment. What a row gets is the greatest fact so far, by
event time, then by knowledge time: a running maximum, in one shuffle, that never compares a row with all facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from airflow_ml_provider.steps.spark_inputs import compared

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_TIE = "tie"


@dataclass(frozen=True)
class SparkFacts:
    """One view's facts, none without a time or an entity: ``b0..``, ``event``, ``known``, ``f0..`` (features).

    :param by: the rows' columns that ``b0..`` must equal.
    :param features: how many features there are.
    :param max_age_seconds: an older fact is not used.
    """

    frame: DataFrame
    by: tuple[str, ...]
    features: int
    max_age_seconds: int | None = None

    @property
    def entity(self) -> list[str]:
        """The columns of the entity."""
        return [f"b{number}" for number in range(len(self.by))]

    @property
    def values(self) -> list[str]:
        """The columns of the features."""
        return [f"f{number}" for number in range(self.features)]


def join(rows: DataFrame, time: str, facts: Sequence[SparkFacts]) -> DataFrame:
    """The rows with the facts that each may use.

    View ``i`` has its features as ``v{i}_0..`` and the used fact's times as ``e{i}`` and ``k{i}``, all null where
    no fact may be used.

    :param time: column of the rows: the prediction time.
    """
    return reduce(
        lambda joined, view: _with_view(joined, time, view[0], view[1]), enumerate(_with_ties(facts)), rows
    )


def _with_view(rows: DataFrame, time: str, index: int, view: SparkFacts) -> DataFrame:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    usable = view.frame
    fact = F.struct("event", "known", _TIE, *view.values)
    theirs = usable.select(
        *(compared(F.col(name), usable.schema[name].dataType).alias(name) for name in view.entity),
        F.greatest("event", "known").alias("at"),
        F.lit(False).alias("is_row"),
        F.lit(None).cast(rows.schema).alias("row"),
        fact.alias("fact"),
    )
    ours = rows.select(
        *(
            compared(F.col(column), rows.schema[column].dataType).alias(name)
            for name, column in zip(view.entity, view.by, strict=True)
        ),
        F.col(time).alias("at"),
        F.lit(True).alias("is_row"),
        F.struct(*rows.columns).alias("row"),
        F.lit(None).cast(theirs.schema["fact"].dataType).alias("fact"),
    )
    # A null entity is a group of its own here, and there are no facts in it.
    until_now = (
        Window.partitionBy(*view.entity)
        .orderBy("at", "is_row")
        .rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    chosen = ours.unionByName(theirs).withColumn("used", F.max("fact").over(until_now)).filter("is_row")
    taken = {name: f"v{index}_{number}" for number, name in enumerate(view.values)}
    taken |= {"event": f"e{index}", "known": f"k{index}"}
    used = {name: F.col(f"used.{name}") for name in taken}
    if view.max_age_seconds is not None:
        young = F.col("used.event") >= F.col("at") - F.expr(f"INTERVAL {view.max_age_seconds} SECOND")
        used = {name: F.when(young, column) for name, column in used.items()}
    return chosen.select("row.*", *(used[name].alias(inside) for name, inside in taken.items()))


def _with_ties(views: Sequence[SparkFacts]) -> list[SparkFacts]:
    """The facts with what decides between those that agree in entity and both times, and so contradict each other.

    It is the hash by which the single-machine engine chooses, by the same library; computed for these alone.
    """
    from pyspark.sql import functions as F

    several = [
        view.frame.groupBy(*view.entity, "event", "known").count().filter("count > 1").drop("count")
        for view in views
    ]
    # One job for all views; there are seldom any.
    first = [keys.limit(1).select(F.lit(index).alias("view")) for index, keys in enumerate(several)]
    tied = (
        {row[0] for row in reduce(lambda one, other: one.unionByName(other), first).collect()}
        if first
        else ()
    )
    return [
        replace(view, frame=_hashed(view, keys) if index in tied else _untied(view.frame))
        for index, (view, keys) in enumerate(zip(views, several, strict=True))
    ]


def _hashed(view: SparkFacts, several: DataFrame) -> DataFrame:
    """Facts of which some contradict each other."""
    same = [*view.entity, "event", "known"]
    facts = view.frame.select(*same, *view.values)
    alone = _untied(facts.join(several, same, "left_anti"))
    contradicting = facts.join(several, same, "left_semi").distinct()
    return alone.unionByName(contradicting.mapInArrow(_Hash(view.features), alone.schema))


def _untied(facts: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    return facts.withColumn(_TIE, F.lit(0).cast("bigint"))


@dataclass(frozen=True)
class _Hash:
    """Runs in an executor: facts with DuckDB's hash of their features, moved into the range of a signed number."""

    features: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        features = ", ".join(f"f{number}" for number in range(self.features))
        query = f"SELECT *, CAST(hash({features})::HUGEINT - {2**63} AS BIGINT) AS {_TIE} FROM facts"  # noqa: S608
        with duckdb.connect() as connection:
            for batch in batches:
                facts = pa.Table.from_batches([batch])
                connection.register("facts", facts)
                yield from connection.sql(query).to_arrow_table().to_batches()
