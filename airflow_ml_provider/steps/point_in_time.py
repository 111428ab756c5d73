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
    connection: DuckDBPyConnection,
    rows: Path,
    time: str,
    facts: Sequence[Facts],
    *,
    order_by: Sequence[str],
    to: Path,
) -> None:
    """Write the rows with the facts that each may use, as Parquet.

    View ``i`` adds its features as ``v{i}_0..`` and the used fact's times as ``e{i}`` and ``k{i}``; all are
    null where no fact may be used.

    :param time: column of the rows: the prediction time.
    :param order_by: the order of the result; the rows must be unique in it for the result to be the same
        on every run.
    """
    chosen = [_chosen(index, view, time) for index, view in enumerate(facts)]
    joins = "\n".join(_asof(index, view, time) for index, view in enumerate(facts))
    columns = ", ".join(["r.*", *(column for columns in chosen for column in columns)])
    order = ", ".join(f"r.{column}" for column in order_by)
    write(connection, f"SELECT {columns} FROM {parquet(rows)} r\n{joins}\nORDER BY {order}", to)


def _asof(index: int, view: Facts, time: str) -> str:
    name = f"w{index}"
    same_entity = " AND ".join(f"r.{mine} = {name}.b{theirs}" for theirs, mine in enumerate(view.by))
    return f"ASOF LEFT JOIN ({_usable(view)}) {name} ON {same_entity} AND r.{time} >= {name}.effective"


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
    name = f"w{index}"
    taken = {f"f{number}": f"v{index}_{number}" for number in range(view.features)}
    taken |= {"event": f"e{index}", "known": f"k{index}"}
    if view.max_age_seconds is None:
        return [f"{name}.{column} AS {alias}" for column, alias in taken.items()]
    young = f"{name}.event >= r.{time} - to_seconds({view.max_age_seconds})"
    return [f"CASE WHEN {young} THEN {name}.{column} END AS {alias}" for column, alias in taken.items()]
