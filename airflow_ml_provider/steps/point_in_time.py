# ruff: noqa: S608 - what becomes SQL is paths of scratch files and column names from this package, never a user's
"""The point-in-time join on two clocks, out of core.

A row with prediction time ``t`` gets, of the facts about its entity with event time <= t and knowledge
time <= t, the one with the newest event time; among those, the one that became known last.

How one ASOF join does that: a fact can be used from ``effective = max(event, knowledge)`` on. In effective
order, a fact that is older than one before it (by event time) can never be chosen again, so it is dropped:
what remains has event times that rise with ``effective``, and the last one at or before ``t`` is the newest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.steps.out_of_core import parquet, write

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True)
class Facts:
    """A Parquet file of one view's facts: ``b0..`` (entity), ``event``, ``known``, ``f0..`` (features).

    :param by: the rows' columns that ``b0..`` must equal.
    :param features: how many features there are.
    :param max_age_seconds: an older fact is not used.
    """

    path: Path
    by: tuple[str, ...]
    features: int
    max_age_seconds: int | None = None


def join(
    connection: DuckDBPyConnection, rows: Path, time: str, facts: Sequence[Facts], folder: Path
) -> tuple[Path, ...]:
    """Write the facts that each row may use: a Parquet file a view, with a line for each row in their order.

    View ``i`` has its features as ``v{i}_0..`` and the used fact's times as ``e{i}`` and ``k{i}``, all null
    where no fact may be used; and ``n{i}``, the row's number in the file of rows. The views are joined one
    after another, with no more of the rows than their entity and time: memory is that of one narrow join.

    :param rows: a Parquet file, as :func:`~.out_of_core.sort` writes it.
    :param time: column of the rows: the prediction time.
    """
    count = pl.scan_parquet(rows).select(pl.len()).collect().item()
    paths = []
    for index, view in enumerate(facts):
        path = folder / f"view-{index}.parquet"
        entity = ", ".join(dict.fromkeys(view.by))
        numbered = f"SELECT file_row_number AS n, {time}, {entity} FROM {parquet(rows, numbered=True)}"
        same_entity = " AND ".join(f"r.{mine} = w.b{theirs}" for theirs, mine in enumerate(view.by))
        query = (
            f"SELECT r.n AS n{index}, {', '.join(_chosen(index, view, time))} FROM ({numbered}) r "
            f"ASOF LEFT JOIN ({_usable(view)}) w ON {same_entity} AND r.{time} >= w.effective ORDER BY r.n"
        )
        write(connection, query, path)
        check_order(path, f"n{index}", count)
        paths.append(path)
    return tuple(paths)


def check_order(path: Path, number: str, count: int) -> None:
    """Whether a view's file has a line for each row, in the rows' order: they are put side by side.

    :raises InfrastructureError: it has not.
    """
    in_order = (pl.col(number) == pl.int_range(pl.len())).all()
    found = pl.scan_parquet(path).select(pl.len().alias("count"), in_order.alias("in order"))
    if found.collect(engine="streaming").row(0) != (count, True):
        raise InfrastructureError(
            f"{path.name} does not have one line for each of {count:,} rows in their order"
        )


def _usable(view: Facts) -> str:
    entity = ", ".join(f"b{number}" for number in range(len(view.by)))
    features = ", ".join(f"f{number}" for number in range(view.features))
    # Facts that agree in entity and both times contradict each other; the hash makes the choice the same
    # on every run and for any order of the file.
    return f"""
        SELECT * EXCLUDE (newest, following) FROM (
            SELECT *, max(event) OVER w AS newest, lead(effective) OVER w AS following
            FROM (
                SELECT *, greatest(event, known) AS effective FROM {parquet(view.path)}
                WHERE event IS NOT NULL AND known IS NOT NULL
            )
            WINDOW w AS (
                PARTITION BY {entity} ORDER BY effective, event, known, hash({features})
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            )
        ) WHERE event = newest AND following IS DISTINCT FROM effective"""


def _chosen(index: int, view: Facts, time: str) -> list[str]:
    taken = {f"f{number}": f"v{index}_{number}" for number in range(view.features)}
    taken |= {"event": f"e{index}", "known": f"k{index}"}
    if view.max_age_seconds is None:
        return [f"w.{column} AS {name}" for column, name in taken.items()]
    young = f"w.event >= r.{time} - to_seconds({view.max_age_seconds})"
    return [f"CASE WHEN {young} THEN w.{column} END AS {name}" for column, name in taken.items()]
