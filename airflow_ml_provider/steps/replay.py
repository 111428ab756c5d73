"""The replay: feature rows built again from the tables as they were known then must come out the same.

The join is right about the times that a view declares; whether the view's function looked at anything else
(an average over the whole table, a gap filled from the next value) no time can tell. So a few moments are
taken from the built rows' own prediction times, every table is cut to what was known at the moment, the same
functions run again, and the rows last predicted before the moment are compared, value by value.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.errors import DataError, UserCodeError, did_you_mean
from airflow_ml_provider.contract.features import FeatureSet
from airflow_ml_provider.steps import functions
from airflow_ml_provider.steps.feature_build import Built, Wanted, build
from airflow_ml_provider.steps.feature_inputs import Inputs

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_ROWS = 200
# Sums of floats over other rows may differ in their last digits.
_TOLERANCE = 1e-9


def replay(
    built: Built,
    again: Callable[[int, datetime, pl.DataFrame], Built | None],
    *,
    moments: int,
    say: Callable[[str], None],
) -> int:
    """Replay built rows at some of their prediction times; gives how many rows were compared.

    :param again: builds the rows with some keys once more, from what was known at a moment; it is told the
        number of the replay.
    :param moments: how many prediction times, evenly spread over the rows.
    :raises DataError: a feature comes out different, or a row is missing; names feature, row and values.
    """
    compared = 0
    key = list(built.rows.inside(built.features.key))
    for number in range(moments):
        at = _moment(built, (2 * number + 1) / (2 * moments))
        expected = _last_rows(built, at)
        _compare(built, expected, again(number, at, expected.select(key)), at)
        compared += expected.height
        say(f"replayed {expected.height} rows as of {at} UTC: the same")
    return compared


def here(
    built: Built, inputs: Inputs, connection: DuckDBPyConnection
) -> Callable[[int, datetime, pl.DataFrame], Built | None]:
    """Builds rows again on this machine."""

    def again(number: int, at: datetime, only: pl.DataFrame) -> Built | None:
        # The files of the replay before this one have been looked at.
        shutil.rmtree(inputs.scratch / f"replay-{number - 1}", ignore_errors=True)
        folder = inputs.scratch / f"replay-{number}"
        cut = Inputs(_cut(built.features, inputs, at, folder / "tables"), folder / "tables")
        wanted = Wanted(built.wanted.partition_by, built.wanted.partitions, only=only)
        return build(built.features, cut, wanted, connection, folder, lambda _: None)

    return again


def _moment(built: Built, quantile: float) -> datetime:
    times = built.frame().select(pl.col(built.time).quantile(quantile, "lower"))
    moment: datetime = times.collect(engine="streaming").item()
    return moment


def _last_rows(built: Built, at: datetime) -> pl.DataFrame:
    key = built.rows.inside(built.features.key)
    columns = list(dict.fromkeys([*key, *built.feature_columns().values()]))
    order = [built.time, *built.rows.order]
    before = built.frame().filter(pl.col(built.time) <= at)
    newest_first = [name == built.time for name in order]
    last = before.sort(order, descending=newest_first).head(_ROWS).select(columns)
    return last.collect(engine="streaming")


def _cut(features: FeatureSet, inputs: Inputs, at: datetime, folder: Path) -> dict[str, pl.LazyFrame]:
    cut = dict(inputs.frames)
    for table, function in features.as_known.items():
        if table not in cut:
            raise UserCodeError(
                f"as_known has a function for table {table!r}, which this step does not read",
                todo=did_you_mean(table, list(cut)),
            )
        cut[table] = functions.call_for_frame(
            function, frames={table: cut[table]}, values={"at": at.replace(tzinfo=UTC)}, scratch=folder
        )
    return cut


def _compare(built: Built, expected: pl.DataFrame, again: Built | None, at: datetime) -> None:
    key = list(built.rows.inside(built.features.key))
    found = again.frame().collect() if again else expected.clear()
    missing = expected.join(found, on=key, how="anti")
    if missing.height:
        raise DataError(
            f"{_row(built, missing)} is not there in the tables as they were known at {at} UTC, when it was "
            f"already predicted: {functions.name_of(built.features.rows)} makes it from what came later",
            todo="make rows from what is known before the prediction (the schedule, not the outcome)",
        )
    both = expected.join(found, on=key, how="left", suffix="_again", maintain_order="left")
    for feature, inside in built.feature_columns().items():
        other = both.filter(_differ(both.schema[inside], pl.col(inside), pl.col(f"{inside}_again")))
        if other.height:
            raise DataError(
                f"feature {feature!r} uses what was not known yet: for {_row(built, other)} it is "
                f"{other[inside][0]!r} when made from all the data, and {other[f'{inside}_again'][0]!r} when "
                f"made from what was known at {at} UTC; {other.height} of {expected.height} rows differ",
                todo="look in its function for what reads ahead: an aggregate over the whole table, a gap "
                "filled from later values, a window that holds outcomes which are not known yet",
            )


def _differ(kind: pl.DataType, one: pl.Expr, other: pl.Expr) -> pl.Expr:
    differ = one.ne_missing(other)
    if not kind.is_float():
        return differ
    close = (one - other).abs() <= _TOLERANCE * (1 + pl.min_horizontal(one.abs(), other.abs()))
    return differ & ~close.fill_null(False)


def _row(built: Built, rows: pl.DataFrame) -> str:
    key = zip(built.features.key, built.rows.inside(built.features.key), strict=True)
    return "row " + ", ".join(f"{name}={rows[inside][0]!r}" for name, inside in key)
