"""Looking for leaks in built feature rows: the proof of times, and features that are too good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.steps import functions
from airflow_ml_provider.steps.point_in_time import file

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.feature_build import Built

TOO_GOOD = 0.90
# The standard error of an AUC over this many rows is some 0.002: enough to see one above 0.90.
_MOST_ROWS = 50_000
_LEVELS = 64


@dataclass(frozen=True)
class Checked:
    """What the proof of times looked at.

    :param facts: how many facts were used, over all rows and views.
    :param without_fact: view name to the share of rows that no fact could be used for.
    :param labels_before: rows whose label was known at their prediction time already.
    """

    facts: int
    without_fact: Mapping[str, float]
    labels_before: int


def check_times(connection: DuckDBPyConnection, built: Built) -> Checked:
    """Prove that no row holds what was not known when it is predicted.

    A query of its own over the built rows, which relies on nothing that the join has done: each used fact's
    event and knowledge time, and the row's own ``row_known_at``, are at or before the prediction time, and no
    fact is older than its view's ``max_age``.

    :raises DataError: one is not; names the feature, the row and the times.
    """
    time = built.time
    checks = _row_check(built) | _view_checks(built)
    counts = [f"count(*) FILTER ({condition})" for condition, _ in checks.values()]
    used = [f"count(e{index})" for index in range(len(built.features.views))]
    before = f"count(*) FILTER (label_known <= {time})" if built.wanted.labels else "0"
    rows, labels_before, *found = connection.execute(
        f"SELECT {', '.join(['count(*)', before, *counts, *used])} FROM {file(built.path)}"
    ).fetchall()[0]
    for (what, (condition, times)), violations in zip(checks.items(), found, strict=False):
        if violations:
            raise _leak(connection, built, what, condition, times, violations)
    facts = dict(zip((view.name for view in built.features.views), found[len(checks) :], strict=True))
    without = {name: 1 - count / rows for name, count in facts.items()}
    return Checked(sum(facts.values()), without, labels_before)


def too_good(built: Built) -> dict[str, float]:
    """Features that alone tell a 0/1 label with an AUC above 0.90, and that AUC; usually they know the future.

    Each feature is cut into at most 64 levels (text: its values), nulls being a level of their own. A level's
    score is the share of label 1 in it, counted on the other half of the rows, so that a feature with a level
    for every row (a tail number) earns nothing by remembering. Looks at 50,000 rows, evenly spread.
    """
    columns = built.feature_columns()
    every = max(built.count // _MOST_ROWS, 1)
    sample = pl.scan_parquet(built.path).gather_every(every)
    labels = sample.select(pl.col("label").cast(pl.Float64)).collect(engine="streaming")["label"].to_numpy()
    if not np.isin(labels, (0, 1)).all() or len(np.unique(labels)) < 2:
        return {}
    found = {}
    for feature, inside in columns.items():
        values = sample.select(inside).collect(engine="streaming")[inside]
        auc = single_feature_auc(values, labels)
        if auc > TOO_GOOD:
            found[feature] = auc
    return found


def single_feature_auc(values: pl.Series, labels: NDArray[Any]) -> float:
    """The AUC that a feature reaches by itself, out of sample; 0.5 when it tells nothing.

    :param values: numbers, booleans or text, nulls allowed; as long as ``labels``.
    :param labels: 0 and 1.
    """
    levels = _levels(values)
    first = np.arange(len(labels)) % 2 == 0
    scores = np.empty(len(labels))
    for mine, other in ((first, ~first), (~first, first)):
        count = np.bincount(levels[other], minlength=levels.max() + 1)
        ones = np.bincount(levels[other], weights=labels[other], minlength=levels.max() + 1)
        share = np.full(len(count), labels[other].mean() if other.any() else 0.5)
        np.divide(ones, count, out=share, where=count > 0)
        scores[mine] = share[levels[mine]]
    return _auc(scores, labels)


def _levels(values: pl.Series) -> NDArray[np.int64]:
    dense = values.rank("dense")
    if values.dtype.is_numeric() and (dense.max() or 0) > _LEVELS:
        # Equal values stay in one level.
        dense = (values.rank("min") - 1) * _LEVELS // (len(values) - values.null_count()) + 1
    return dense.fill_null(0).cast(pl.Int64).to_numpy()


def _auc(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    # Mann-Whitney: the rank sum of the ones, ties at their mean rank.
    ranks = pl.Series(scores).rank("average").to_numpy()
    ones = labels.sum()
    zeros = len(labels) - ones
    return float((ranks[labels == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _row_check(built: Built) -> dict[str, tuple[str, dict[str, str]]]:
    column = built.features.row_known_at
    if column is None:
        return {}
    inside = built.rows.names[column]
    features = ", ".join(map(repr, built.features.row_features)) or "its other columns"
    what = f"a row given by {functions.name_of(built.features.rows)}, with {features},"
    return {what: (f"{inside} > {built.time} OR {inside} IS NULL", {column: inside})}


def _view_checks(built: Built) -> dict[str, tuple[str, dict[str, str]]]:
    checks = {}
    for index, view in enumerate(built.features.views):
        condition = f"e{index} > {built.time} OR k{index} > {built.time}"
        if view.max_age_seconds is not None:
            condition += f" OR e{index} < {built.time} - to_seconds({view.max_age_seconds})"
        what = f"feature {view.columns[0]!r}" + (
            f" (and {', '.join(map(repr, view.columns[1:]))})" if view.columns[1:] else ""
        )
        checks[what] = (condition, {"event time": f"e{index}", "knowledge time": f"k{index}"})
    return checks


def _leak(
    connection: DuckDBPyConnection,
    built: Built,
    what: str,
    condition: str,
    times: Mapping[str, str],
    violations: int,
) -> DataError:
    key = built.rows.inside(built.features.key)
    first = connection.execute(
        f"SELECT {', '.join([*key, built.time, *times.values()])} FROM {file(built.path)} "
        f"WHERE {condition} ORDER BY {', '.join(built.order)} LIMIT 1"
    ).fetchall()[0]
    row = ", ".join(f"{name}={value!r}" for name, value in zip(built.features.key, first, strict=False))
    said = " and ".join(
        f"{name} {value} UTC" if value is not None else f"{name} null"
        for name, value in zip(times, first[len(key) + 1 :], strict=True)
    )
    return DataError(
        f"{what} is not known when it is used: row {row} is predicted at {first[len(key)]} UTC and holds a "
        f"value of {said}; {violations:,} of {built.count:,} rows are like it",
        todo="use only what is known at the prediction time; a column known later belongs in a view with its "
        "own knowledge time",
    )
