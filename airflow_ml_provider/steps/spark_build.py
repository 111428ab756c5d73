"""Builds feature rows on Spark: what :mod:`airflow_ml_provider.steps.feature_build` does, by executors.

Rows, labels and facts are laid down as files beside the store's tables, as the single-machine engine lays them
down in its scratch folder: what was proved is what is published, whatever a function gives when it runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from airflow_ml_provider.contract.errors import UserCodeError, did_you_mean
from airflow_ml_provider.contract.features import FEATURE_HASH, FeatureSet
from airflow_ml_provider.steps import functions
from airflow_ml_provider.steps.feature_build import Built, Wanted, labelled, refuse_missing
from airflow_ml_provider.steps.feature_inputs import Rows
from airflow_ml_provider.steps.feature_labels import refuse_repeats
from airflow_ml_provider.steps.spark_inputs import SparkInputs, moment, same_kind, within
from airflow_ml_provider.steps.spark_join import SparkFacts, join
from airflow_ml_provider.steps.spark_labels import Labels, repeats

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from airflow_ml_provider.contract.features import FeatureView
    from airflow_ml_provider.steps.spark_aside import Aside, Laid


@dataclass(frozen=True)
class SparkBuilt(Built):
    """Feature rows that lie in files of the store.

    :param laid: the rows, with what each view gave them beside, ordered by partition and key.
    """

    laid: Laid

    def frame(self) -> pl.LazyFrame:
        """The rows, in their order; for looking at some of them or at a few columns."""
        return self.laid.lazy()

    def sums(self, counted: list[pl.Expr]) -> tuple[int, ...]:
        """Sums over all rows, taken by the executors in the engine that did not join them."""
        names = [f"s{number}" for number in range(len(counted))]
        sums = _Sums(tuple(one.alias(name) for one, name in zip(counted, names, strict=True)))
        parts = self.laid.frame.mapInArrow(sums, ", ".join(f"{name} bigint" for name in names)).groupBy()
        found = parts.sum(*names).first()
        return tuple(int(value or 0) for value in found) if found else (0,) * len(names)

    def published_frame(self, feature_hash: str) -> DataFrame:
        """:meth:`published`, by the executors: the user's column names, timestamps in UTC."""
        from pyspark.sql import functions as F
        from pyspark.sql import types as T

        frame = self.laid.frame
        times = {column.name for column in frame.schema if isinstance(column.dataType, T.TimestampNTZType)}
        columns = [
            (F.col(inside).cast("timestamp") if inside in times else F.col(inside)).alias(name)
            for name, inside in self.published_columns().items()
        ]
        # In the order of the files that they lie in, which is that of partition and key.
        return frame.select(*columns, F.lit(feature_hash).alias(FEATURE_HASH))


@dataclass(frozen=True)
class _Sums:
    """Runs in an executor: sums of Polars expressions over the rows of a task."""

    counted: tuple[pl.Expr, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = pl.DataFrame(pl.from_arrow(batch))
            found = rows.select(self.counted).cast(pl.Int64)
            yield from found.to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches()


def as_known(features: FeatureSet, inputs: SparkInputs, at: datetime) -> SparkInputs:
    """The tables cut to what was known at a moment.

    :param at: in UTC, without a zone.
    """
    cut = dict(inputs.frames)
    for table, function in features.as_known.items():
        if table not in cut:
            raise UserCodeError(
                f"as_known has a function for table {table!r}, which this step does not read",
                todo=did_you_mean(table, list(cut)),
            )
        only = SparkInputs(inputs.spark, {table: cut[table]})
        cut[table] = only.call(function, at=at.replace(tzinfo=UTC)).frame
    return SparkInputs(inputs.spark, cut)


def build(
    features: FeatureSet, inputs: SparkInputs, wanted: Wanted, aside: Aside, say: Callable[[str], None]
) -> SparkBuilt | None:
    """Build rows into a folder of the store; None when there are none to build.

    :param say: told what has been done, for a person who waits.
    :raises UserCodeError: a function raised, or does not give what is declared.
    :raises DataError: keys are null or not unique, a prediction time is null, or no label is known.
    """
    rows, laid = _rows(features, inputs, wanted, aside)
    asked = laid.written.rows
    if asked == 0:
        return None
    time = rows.names[features.prediction_time]
    first, last = _check_rows(features, rows, laid, wanted.partition_by)
    say(f"rows: {asked:,}, predicted from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC")
    chosen, labels = laid.frame, None
    if wanted.labels:
        labels = Labels.of(labelled(features), features.key, inputs, rows, laid, aside)
        chosen = labels.join(laid, predicted=time, until=wanted.known_at)
    facts = [_facts(view, inputs, rows, laid, aside, first=first, last=last) for view in features.views]
    for view, found in zip(features.views, facts, strict=True):
        say(f"view {view.name}: {found.written.rows:,} facts")
    usable = [_usable(view, rows, found) for view, found in zip(features.views, facts, strict=True)]
    joined = aside.lay(join(chosen, time, usable).sort(*rows.order), "built")
    count = joined.written.rows
    if labels is not None:
        if not count:
            raise labels.none_matured(laid, predicted=time, until=wanted.known_at)
        say(f"labels: matured for {count:,} of {asked:,} rows ({count / asked:.1%})")
    say(f"joined {len(facts)} views as they were known")
    return SparkBuilt(features, wanted, (), rows, count, asked, _timeless(features, facts), joined)


def _rows(features: FeatureSet, inputs: SparkInputs, wanted: Wanted, aside: Aside) -> tuple[Rows, Laid]:
    given = inputs.call(features.rows)
    partition = (wanted.partition_by,) if wanted.partition_by else ()
    known_at = (features.row_known_at,) if features.row_known_at else ()
    by = [column for view in features.views for column in view.by]
    columns = list(dict.fromkeys([*partition, *features.row_columns, *features.keep, *known_at, *by]))
    given.check(partition, "by which the published table is partitioned")
    given.check(columns)
    names = {column: f"c{number}" for number, column in enumerate(columns)}
    frame = given.frame
    if wanted.partition_by and wanted.partitions is not None:
        frame = frame.filter(within(given.partition(wanted.partition_by), wanted.partitions))
    made = []
    for column, name in names.items():
        if column == wanted.partition_by:
            value = given.partition(column)
        elif column in (features.prediction_time, features.row_known_at):
            value = given.time(column)
        elif column in features.row_features:
            value = given.feature(column)
        else:
            value = given.stored(column)
        made.append(value.alias(name))
    frame = frame.select(*made)
    if wanted.only is not None:
        only = inputs.spark.createDataFrame(wanted.only.to_arrow(compat_level=pl.CompatLevel.oldest()))
        frame = frame.join(only, wanted.only.columns, "left_semi").select(*names.values())
    laid = aside.lay(frame, "rows", who=features.rows)
    order = [names[column] for column in dict.fromkeys((*partition, *features.key))]
    return Rows(Path(), names, dict(laid.lazy().collect_schema()), order), laid


def _check_rows(
    features: FeatureSet, rows: Rows, laid: Laid, partition_by: str | None
) -> tuple[datetime, datetime]:
    """The first and the last prediction time."""
    from pyspark.sql import functions as F

    needed = dict.fromkeys(features.key, "key") | {features.prediction_time: "prediction time"}
    if partition_by:
        needed.setdefault(partition_by, "partition")
    time = rows.names[features.prediction_time]
    nulls = [F.count_if(F.col(inside).isNull()) for inside in rows.inside(list(needed))]
    looked = laid.frame.select(F.count("*"), F.min(time), F.max(time), *nulls).first()
    assert looked is not None
    count, first, last, *missing = looked
    refuse_missing(features, needed, missing, count)
    refuse_repeats(
        repeats(laid.frame, rows.inside(features.key)),
        features.key,
        f"rows that {functions.name_of(features.rows)} gives",
    )
    return first, last


def _facts(
    view: FeatureView,
    inputs: SparkInputs,
    rows: Rows,
    laid: Laid,
    aside: Aside,
    *,
    first: datetime,
    last: datetime,
) -> Laid:
    """A view's facts; those that no row predicted from ``first`` to ``last`` can use are left out."""
    from pyspark.sql import functions as F

    given = inputs.call(view.function)
    given.check([*view.by, view.event_time, view.knowledge_time, *view.features])
    for column in view.by:
        same_kind(given, column, laid.frame.schema[rows.names[column]].dataType)
    frame = given.frame.select(
        *(given.stored(column).alias(f"b{number}") for number, column in enumerate(view.by)),
        given.time(view.event_time).alias("event"),
        given.time(view.knowledge_time).alias("known"),
        *(given.feature(column).alias(f"f{number}") for number, column in enumerate(view.features)),
    )
    usable = (F.col("event") <= moment(last)) & (F.col("known") <= moment(last))
    if view.max_age_seconds is not None:
        usable &= F.col("event") >= moment(first) - F.expr(f"INTERVAL {view.max_age_seconds} SECOND")
    # Facts without a time are kept, to be counted; the join leaves them out.
    return aside.lay(frame.filter(usable | _without_time()), f"facts-{view.name}", who=view.function)


def _usable(view: FeatureView, rows: Rows, facts: Laid) -> SparkFacts:
    """The facts that can be joined with rows: a null entity matches nothing."""
    found = SparkFacts(facts.frame, rows.inside(view.by), len(view.features), view.max_age_seconds)
    return replace(found, frame=facts.frame.dropna(subset=["event", "known", *found.entity]))


def _timeless(features: FeatureSet, facts: Sequence[Laid]) -> dict[str, int]:
    """View name to how many facts had no event or no knowledge time."""
    from pyspark.sql import functions as F

    if not facts:
        return {}
    counts = [
        each.frame.select(F.count_if(_without_time()).alias("n")).withColumn("view", F.lit(view.name))
        for view, each in zip(features.views, facts, strict=True)
    ]
    found = reduce(lambda one, other: one.unionByName(other), counts).collect()
    return {row["view"]: row["n"] for row in found if row["n"]}


def _without_time() -> Column:
    from pyspark.sql import functions as F

    return F.col("event").isNull() | F.col("known").isNull()
