"""Looking for leaks in built feature rows: the proof of times, and features that are too good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.feature_build import Built

# A flight's own departure delay tells its late arrival with 0.90; the best honest feature of it with 0.64.
TOO_GOOD = 0.85
# The standard error of an AUC over this many rows is some 0.002: enough to tell which side it is on.
_MOST_ROWS = 50_000
_LEVELS = 64
# Columns of so many rows that are read in one go.
_AT_A_TIME = 50


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


def check_times(built: Built) -> Checked:
    """Prove that no row holds what was not known when it is predicted.

    A query of its own over the finished rows, which shares nothing with the join: each used fact's own event
    and knowledge time, carried along beside its features, and the row's own ``row_known_at`` are at or before
    the prediction time, and no fact is older than its view's ``max_age``.

    :raises DataError: one is not; names the feature, the row and the times.
    """
    checks = _checks(built)
    views = [view.name for view in built.features.views]
    before = pl.col("label_known") <= pl.col(built.time) if built.wanted.labels else pl.lit(False)
    rows, labels_before, *found = built.sums(
        [
            pl.len().alias("rows"),
            before.sum().alias("labels_before"),
            *(check.violated.sum().alias(f"violated-{number}") for number, check in enumerate(checks)),
            *(pl.col(f"e{index}").count() for index in range(len(views))),
        ]
    )
    for check, violations in zip(checks, found, strict=False):
        if violations:
            raise _leak(built, check, violations)
    facts = dict(zip(views, found[len(checks) :], strict=True))
    return Checked(
        sum(facts.values()), {view: 1 - count / rows for view, count in facts.items()}, labels_before
    )


def too_good(built: Built) -> dict[str, float]:
    """Features that alone tell a 0/1 label with an AUC above 0.85, and that AUC; most know the future.

    Each feature is cut into at most 64 levels (text: its values), nulls being a level of their own. A level's
    score is the share of label 1 in it, counted on the other half of the rows, so that a feature with a level
    for every row (a tail number) earns nothing by remembering. Looks at 50,000 rows at most, evenly spread.
    """
    columns = built.feature_columns()
    every = math.ceil(built.count / _MOST_ROWS)
    sample = built.frame().gather_every(every)
    labels = sample.select(pl.col("label").cast(pl.Float64)).collect(engine="streaming")["label"].to_numpy()
    if not np.isin(labels, (0, 1)).all() or len(np.unique(labels)) < 2:
        return {}
    found: dict[str, float] = {}
    names = list(columns)
    for some in (names[at : at + _AT_A_TIME] for at in range(0, len(names), _AT_A_TIME)):
        values = sample.select(columns[name] for name in some).collect(engine="streaming")
        aucs = {name: single_feature_auc(values[columns[name]], labels) for name in some}
        found |= {feature: auc for feature, auc in aucs.items() if auc > TOO_GOOD}
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
    levels = values.rank("dense").cast(pl.Int64)
    if values.dtype.is_numeric() and values.n_unique() > _LEVELS:
        # Equal values stay in one level.
        levels = (values.rank("min").cast(pl.Int64) - 1) * _LEVELS // values.count() + 1
    return levels.fill_null(0).to_numpy()


def _auc(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    # Mann-Whitney: the rank sum of the ones, ties at their mean rank.
    ranks = pl.Series(scores).rank("average").to_numpy()
    ones = labels.sum()
    zeros = len(labels) - ones
    return float((ranks[labels == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))


class _Check(NamedTuple):
    """What must not be, of which feature, and the columns of the times to show."""

    what: str
    violated: pl.Expr
    times: dict[str, str]


def _checks(built: Built) -> list[_Check]:
    time = pl.col(built.time)
    checks = []
    if (column := built.features.row_known_at) is not None:
        inside = built.rows.names[column]
        late = pl.col(inside).is_null() | (pl.col(inside) > time)
        features = ", ".join(map(repr, built.features.row_features)) or "its columns"
        checks.append(_Check(f"row feature {features}", late, {repr(column): inside}))
    for index, view in enumerate(built.features.views):
        event, known = pl.col(f"e{index}"), pl.col(f"k{index}")
        violated = (event > time) | (known > time)
        if view.max_age_seconds is not None:
            violated |= event < time - pl.duration(seconds=view.max_age_seconds)
        times = {"event time": f"e{index}", "knowledge time": f"k{index}"}
        checks.append(
            _Check(f"feature {', '.join(map(repr, view.columns))}", violated.fill_null(False), times)
        )
    return checks


def _leak(built: Built, check: _Check, violations: int) -> DataError:
    key = dict(zip(built.features.key, built.rows.inside(built.features.key), strict=True))
    first = built.frame().filter(check.violated).head(1).collect().row(0, named=True)
    row = ", ".join(f"{name}={first[inside]!r}" for name, inside in key.items())
    times = " and ".join(
        f"{name} {'null' if first[inside] is None else f'{first[inside]} UTC'}"
        for name, inside in check.times.items()
    )
    return DataError(
        f"{check.what} is not known when it is used: row {row} has prediction time {first[built.time]} UTC "
        f"and the value has {times}; {violations:,} of {built.count:,} rows are like it",
        todo="use only what is known at the prediction time; what becomes known later belongs in a view with "
        "its own knowledge time",
    )
