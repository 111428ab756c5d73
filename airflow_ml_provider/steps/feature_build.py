"""Builds feature rows: rows, labels and facts as files, then one point-in-time join over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.features import FEATURE_HASH, LABEL_KNOWN_AT, FeatureSet, Label
from airflow_ml_provider.contract.partitions import Partitions
from airflow_ml_provider.steps import functions, point_in_time
from airflow_ml_provider.steps.feature_inputs import Inputs, Rows, write_facts, write_rows
from airflow_ml_provider.steps.feature_labels import refuse_repeats, with_labels
from airflow_ml_provider.steps.laid_files import scan
from airflow_ml_provider.steps.out_of_core import repeats, sort
from airflow_ml_provider.steps.point_in_time import Facts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True)
class Wanted:
    """Which rows to build.

    :param only: keys, in the columns' names in the file; other rows are left out.
    :param labels: whether to add the label and leave out rows without one.
    :param known_at: labels that matured later do not count (UTC, without a zone).
    """

    partition_by: str | None
    partitions: Partitions | None
    only: pl.DataFrame | None = None
    labels: bool = False
    known_at: datetime | None = None


@dataclass(frozen=True)
class Built:
    """The rows with their features, as files that stand side by side, ordered by partition and key.

    :param files: the rows, with labels ``label`` and ``label_known``; then a file for each view, with columns
        as :func:`.point_in_time.join` names them.
    :param rows: the columns' names in the first.
    :param asked: how many rows there were before those without a label were left out.
    :param timeless: view name to how many facts had no event or no knowledge time.
    """

    features: FeatureSet
    wanted: Wanted
    files: tuple[Path, ...]
    rows: Rows
    count: int
    asked: int
    timeless: dict[str, int]

    def frame(self) -> pl.LazyFrame:
        """The rows, in their order."""
        return pl.concat([scan(path) for path in self.files], how="horizontal")

    def sums(self, counted: list[pl.Expr]) -> tuple[int, ...]:
        """Sums over all rows.

        :param counted: sums of something of each row, of which each part of the rows can have its own.
        """
        return self.frame().select(counted).collect(engine="streaming").row(0)

    @property
    def time(self) -> str:
        """The prediction time's column in the file."""
        return self.rows.names[self.features.prediction_time]

    def feature_columns(self) -> dict[str, str]:
        """Feature to its column in the file."""
        columns = {feature: self.rows.names[feature] for feature in self.features.row_features}
        for index, view in enumerate(self.features.views):
            columns |= {name: f"v{index}_{number}" for number, name in enumerate(view.columns)}
        return columns

    def published_columns(self) -> dict[str, str]:
        """Published column to its column in the file, in order; without the feature hash."""
        partition = (self.wanted.partition_by,) if self.wanted.partition_by else ()
        head = dict.fromkeys((*self.features.key, self.features.prediction_time, *partition))
        columns = {name: self.rows.names[name] for name in head} | self.feature_columns()
        columns |= {name: self.rows.names[name] for name in self.features.keep}
        if self.wanted.labels and self.features.label:
            columns |= {self.features.label.name: "label", LABEL_KNOWN_AT: "label_known"}
        return columns

    def published(self, feature_hash: str) -> pl.LazyFrame:
        """The rows as they are published: the user's column names, timestamps in UTC."""
        frame = self.frame()
        times = {inside for inside, kind in frame.collect_schema().items() if kind == pl.Datetime}

        def column(inside: str) -> pl.Expr:
            return pl.col(inside).dt.replace_time_zone("UTC") if inside in times else pl.col(inside)

        named = [column(inside).alias(name) for name, inside in self.published_columns().items()]
        # One text for all rows: as the code of one, it is neither copied nor hashed a row.
        mark = pl.lit(feature_hash, dtype=pl.Enum([feature_hash]))
        return frame.select(*named, mark.alias(FEATURE_HASH))


def build(
    features: FeatureSet,
    inputs: Inputs,
    wanted: Wanted,
    connection: DuckDBPyConnection,
    folder: Path,
    say: Callable[[str], None],
    advance: Callable[[int], object] = lambda _: None,
) -> Built | None:
    """Build rows into a folder; None when there are none to build.

    :param say: told what has been done, for a person who waits.
    :param advance: told, again and again, how many more rows have been joined with a view.
    :raises UserCodeError: a function raised, or does not give what is declared.
    :raises DataError: keys are null or not unique, a prediction time is null, or no label is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = write_rows(
        features,
        inputs,
        partition_by=wanted.partition_by,
        partitions=wanted.partitions,
        only=wanted.only,
        to=folder / "rows.arrow",
    )
    asked, first, last = _check_rows(connection, features, rows, wanted.partition_by)
    if asked == 0:
        return None
    say(f"rows: {asked:,}, predicted from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC")
    chosen, count = rows.path, asked
    if wanted.labels:
        label = labelled(features)
        chosen, count = with_labels(
            connection,
            label,
            features.key,
            inputs,
            rows,
            predicted=rows.names[features.prediction_time],
            until=wanted.known_at,
            folder=folder,
        )
        say(f"labels: matured for {count:,} of {asked:,} rows ({count / asked:.1%})")
    timeless: dict[str, int] = {}

    def each() -> Iterator[Facts]:
        for index, view in enumerate(features.views):
            path = folder / f"facts-{index}.arrow"
            facts = write_facts(view, inputs, rows, first=first, last=last, to=path)
            total, without_time = _count_facts(facts)
            if without_time:
                timeless[view.name] = without_time
            say(f"view {view.name}: {total:,} facts")
            yield facts
            # Neither memory nor a disk holds the facts of all views at once.
            del facts
            path.unlink(missing_ok=True)

    spine = sort(connection, chosen, rows.order, to=folder / "spine.arrow")
    joined = point_in_time.join(
        connection, spine, rows.names[features.prediction_time], each(), folder, advance=advance
    )
    say(f"joined {len(joined)} views as they were known")
    return Built(features, wanted, (spine, *joined), rows, count, asked, timeless)


def labelled(features: FeatureSet) -> Label:
    """The label of a set that is to be built with labels.

    :raises ConfigError: the set declares none.
    """
    if features.label is None:
        raise ConfigError(
            "the feature set declares no label, and rows with labels were asked for",
            todo="give the FeatureSet a label=Label(...), or ask for labels=False",
        )
    return features.label


def _check_rows(
    connection: DuckDBPyConnection, features: FeatureSet, rows: Rows, partition_by: str | None
) -> tuple[int, datetime, datetime]:
    needed = dict.fromkeys(features.key, "key") | {features.prediction_time: "prediction time"}
    if partition_by:
        needed.setdefault(partition_by, "partition")
    time = pl.col(rows.names[features.prediction_time])
    nulls = [pl.col(inside).null_count() for inside in rows.inside(list(needed))]
    looked = [pl.len().alias("rows"), time.min().alias("first"), time.max().alias("last"), *nulls]
    count, first, last, *missing = scan(rows.path).select(looked).collect(engine="streaming").row(0)
    refuse_missing(features, needed, missing, count)
    refuse_repeats(
        repeats(connection, rows.path, rows.inside(features.key)),
        features.key,
        f"rows that {functions.name_of(features.rows)} gives",
    )
    return count, first, last


def refuse_missing(
    features: FeatureSet, needed: Mapping[str, str], missing: Sequence[int], count: int
) -> None:
    """
    :param needed: column to what it is.
    :param missing: how many of the rows do not have it.
    :raises DataError: there are rows without a key, a prediction time or a partition.
    """
    for (column, what), without in zip(needed.items(), missing, strict=True):
        if without:
            raise DataError(
                f"{without:,} of {count:,} rows that {functions.name_of(features.rows)} gives have no {what}: "
                f"{column!r} is null",
                todo="fill it, or leave these rows out",
            )


def _count_facts(facts: Facts) -> tuple[int, int]:
    without_time = (pl.col("event").is_null() | pl.col("known").is_null()).sum()
    total, timeless = (
        facts.frame().select(pl.len(), without_time.alias("timeless")).collect(engine="streaming").row(0)
    )
    return total, timeless
