"""Builds feature rows: rows, labels and facts as files, then one point-in-time join over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.features import FEATURE_HASH, LABEL_KNOWN_AT, FeatureSet, Label
from airflow_ml_provider.contract.partitions import Partitions
from airflow_ml_provider.steps import functions, point_in_time
from airflow_ml_provider.steps.feature_inputs import Inputs, Rows, write_facts, write_labels, write_rows
from airflow_ml_provider.steps.point_in_time import Facts, file

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True)
class Wanted:
    """Which rows to build.

    :param only: keys, in the columns' names in the file; other rows are left out.
    :param labels: whether to add the label and leave out rows without one.
    :param known_at: labels that became known later do not count (UTC, without a zone).
    """

    partition_by: str | None
    partitions: Partitions | None
    only: pl.DataFrame | None = None
    labels: bool = False
    known_at: datetime | None = None


@dataclass(frozen=True)
class Built:
    """The rows with their features, as a Parquet file ordered by partition and key.

    Its columns are those of ``rows``, with labels ``label`` and ``label_known``, and a view's as
    :func:`.point_in_time.join` names them.

    :param asked: how many rows there were before those without a label were left out.
    :param timeless: view name to how many facts had no event or no knowledge time.
    """

    features: FeatureSet
    wanted: Wanted
    path: Path
    rows: Rows
    count: int
    asked: int
    timeless: dict[str, int]

    @property
    def order(self) -> tuple[str, ...]:
        """The columns that the rows are ordered by: partition and key."""
        partition = (self.wanted.partition_by,) if self.wanted.partition_by else ()
        return self.rows.inside(tuple(dict.fromkeys((*partition, *self.features.key))))

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

    def published(self, feature_hash: str) -> pl.LazyFrame:
        """The rows as they are published: the user's column names, timestamps in UTC."""
        partition = (self.wanted.partition_by,) if self.wanted.partition_by else ()
        head = dict.fromkeys((*self.features.key, self.features.prediction_time, *partition))
        columns = {name: self.rows.names[name] for name in head} | self.feature_columns()
        columns |= {name: self.rows.names[name] for name in self.features.keep}
        if self.wanted.labels and self.features.label:
            columns |= {self.features.label.name: "label", LABEL_KNOWN_AT: "label_known"}
        frame = pl.scan_parquet(self.path)
        schema = frame.collect_schema()
        return frame.select(
            *(
                (pl.col(inside).dt.replace_time_zone("UTC") if schema[inside] == pl.Datetime else pl.col(inside))
                .alias(name) for name, inside in columns.items()
            ),
            pl.lit(feature_hash).alias(FEATURE_HASH),
        )  # fmt: skip


def build(
    features: FeatureSet,
    inputs: Inputs,
    wanted: Wanted,
    connection: DuckDBPyConnection,
    folder: Path,
    say: Callable[[str], None],
) -> Built | None:
    """Build rows into a folder; None when there are none to build.

    :param say: told what has been done, for a person who waits.
    :raises UserCodeError: a function raised, or does not give what is declared.
    :raises DataError: keys are null or not unique, a prediction time is null, or no label is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = write_rows(
        features, inputs, partition_by=wanted.partition_by, partitions=wanted.partitions, only=wanted.only,
        to=folder / "rows.parquet",
    )  # fmt: skip
    asked, first, last = _check_rows(connection, features, rows)
    if asked == 0:
        return None
    say(f"rows: {asked:,}, predicted from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC")
    spine, count = rows.path, asked
    if wanted.labels:
        spine, count = _with_labels(connection, features, inputs, rows, wanted, folder)
        say(f"labels: known for {count:,} of {asked:,} rows")
    facts: list[Facts] = []
    timeless: dict[str, int] = {}
    for index, view in enumerate(features.views):
        path = folder / f"facts-{index}.parquet"
        facts.append(write_facts(view, inputs, rows, first=first, last=last, to=path))
        total, timed = connection.execute(
            f"SELECT count(*), count(*) FILTER (event IS NOT NULL AND known IS NOT NULL) FROM {file(path)}"
        ).fetchall()[0]
        if total > timed:
            timeless[view.name] = total - timed
        say(f"view {view.name}: {timed:,} facts")
    built = Built(features, wanted, folder / "built.parquet", rows, count, asked, timeless)
    point_in_time.join(connection, spine, built.time, facts, order_by=built.order, to=built.path)
    say(f"joined {len(facts)} views as they were known")
    return built


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
    connection: DuckDBPyConnection, features: FeatureSet, rows: Rows
) -> tuple[int, datetime, datetime]:
    who = functions.name_of(features.rows)
    needed = (features.prediction_time, *features.key)
    nulls = ", ".join(f"count(*) - count({column})" for column in rows.inside(needed))
    time = rows.names[features.prediction_time]
    count, first, last, *missing = connection.execute(
        f"SELECT count(*), min({time}), max({time}), {nulls} FROM {file(rows.path)}"
    ).fetchall()[0]
    for column, without in zip(needed, missing, strict=True):
        if without:
            what = "prediction time" if column == features.prediction_time else "key"
            raise DataError(
                f"{without:,} of {count:,} rows that {who} gives have no {what}: {column!r} is null",
                todo="fill it, or leave these rows out",
            )
    _refuse_duplicates(
        connection, file(rows.path), rows.inside(features.key), features.key, f"rows that {who} gives"
    )
    return count, first, last


def _with_labels(
    connection: DuckDBPyConnection,
    features: FeatureSet,
    inputs: Inputs,
    rows: Rows,
    wanted: Wanted,
    folder: Path,
) -> tuple[Path, int]:
    label = labelled(features)
    labels = write_labels(label, features.key, inputs, rows, to=folder / "labels.parquet")
    inside = [f"k{number}" for number in range(len(features.key))]
    same = " AND ".join(
        f"r.{mine} = l.{theirs}" for mine, theirs in zip(rows.inside(features.key), inside, strict=True)
    )
    of_rows = f"(SELECT l.* FROM {file(labels)} l SEMI JOIN {file(rows.path)} r ON {same})"
    who = functions.name_of(label.function)
    _refuse_duplicates(connection, of_rows, inside, features.key, f"labels that {who} gives")
    known = "l.label IS NOT NULL AND l.known IS NOT NULL"
    if wanted.known_at is not None:
        known += f" AND l.known <= TIMESTAMP '{wanted.known_at.isoformat(sep=' ')}'"
    path = folder / "labelled.parquet"
    connection.execute(
        f"COPY (SELECT r.*, l.label, l.known AS label_known FROM {file(rows.path)} r JOIN {file(labels)} l "
        f"ON {same} WHERE {known}) TO {point_in_time.text(path)} (FORMAT parquet, COMPRESSION lz4_raw)"
    )
    count = connection.execute(f"SELECT count(*) FROM {file(path)}").fetchall()[0][0]
    if count == 0:
        _refuse_no_labels(connection, of_rows, label, wanted)
    return path, count


def _refuse_no_labels(connection: DuckDBPyConnection, labels: str, label: Label, wanted: Wanted) -> None:
    found, valued, known, newest = connection.execute(
        f"SELECT count(*), count(label), count(known) FILTER (label IS NOT NULL), min(known) FROM {labels}"
    ).fetchall()[0]
    who = functions.name_of(label.function)
    if not found:
        why = f"{who} gives no row with a key of these rows"
    elif not valued:
        why = f"the label column {label.name!r} of {who} is null in all {found:,} of them"
    elif not known:
        why = f"{label.known_at!r} of {who} is null wherever there is a label"
    else:
        why = f"the first became known at {newest} UTC, after known_at={wanted.known_at}"
    raise DataError(
        f"not one of the rows asked for has a known label: {why}",
        todo="ask for partitions whose labels have arrived, or for rows to predict (labels=False)",
    )


def _refuse_duplicates(
    connection: DuckDBPyConnection, source: str, columns: Sequence[str], names: Sequence[str], what: str
) -> None:
    grouped = ", ".join(columns)
    repeated = f"SELECT {grouped}, count(*) AS n FROM {source} GROUP BY {grouped} HAVING n > 1"
    worst = connection.execute(f"{repeated} ORDER BY {grouped} LIMIT 1").fetchall()
    if not worst:
        return
    keys, rows = connection.execute(f"SELECT count(*), sum(n) FROM ({repeated})").fetchall()[0]
    key = ", ".join(f"{name}={value!r}" for name, value in zip(names, worst[0][:-1], strict=True))
    more = f"; {keys:,} keys occur more than once, in {rows:,} rows" if keys > 1 else ""
    raise DataError(
        f"{worst[0][-1]:,} of the {what} have the key {key}{more}",
        todo="make the key unique: add the column that tells these rows apart, or leave out the repeats",
    )
