"""Rows with the key of an earlier row, found out of core."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt

from airflow_ml_provider.steps.spool import Spool

# What grouping may hold in memory; beyond it DuckDB goes to disk.
_MEMORY = "256MB"


class Duplicates(NamedTuple):
    """The rows that repeat a key, in order, and for each the first row that has it.

    Memory grows with the number of duplicates (16 bytes each), not with that of rows.
    """

    rows: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]


def find_duplicates(keys: Spool, row: str, key: Sequence[str], scratch: Path) -> Duplicates:
    """The rows with the same key as a row of a smaller number; two missing values count as the same.

    :param keys: the key columns of all rows, and the column ``row`` that numbers them.
    :param scratch: where to go when memory is short.
    """
    columns, number = ", ".join(map(_quoted, key)), _quoted(row)
    with duckdb.connect() as database:
        database.execute("SET memory_limit = $1", [_MEMORY])
        database.execute("SET temp_directory = $1", [str(scratch / "duckdb")])
        # The usual case, no duplicate at all, is told by grouping eight bytes a row.
        database.register("keys", keys.reader())
        database.execute(
            f"CREATE TABLE suspects AS SELECT hash({columns}) AS mark FROM keys"  # noqa: S608 - quoted
            " GROUP BY mark HAVING count(*) > 1"
        )
        if not database.execute("SELECT count(*) FROM suspects").fetchall()[0][0]:
            return Duplicates(np.array([], np.int64), np.array([], np.int64))
        database.register("keys", keys.reader())
        found = database.execute(
            f"SELECT {number} AS number, min({number}) OVER (PARTITION BY {columns}) AS first FROM keys"  # noqa: S608
            f" WHERE hash({columns}) IN (SELECT mark FROM suspects) QUALIFY number <> first ORDER BY number"
        ).fetchnumpy()
    return Duplicates(np.asarray(found["number"], np.int64), np.asarray(found["first"], np.int64))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
