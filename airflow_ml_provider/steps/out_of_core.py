# ruff: noqa: S608 - what becomes SQL is paths of scratch files and column names from this package, never a user's
"""DuckDB over files in the scratch folder: work on whole columns that may be larger than memory.

Columns have internal names here (``c0``, ``k0``, ...), given where the files are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import polars as pl

from airflow_ml_provider.steps import memory, row_order
from airflow_ml_provider.steps.laid_files import scan

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Polars and the caller's own memory need the other half.
_PART_OF_MEMORY = 2
# Rows of up to this part of memory are sorted in it, which takes three times as much.
_SORTED_PART = 12
_BATCH_ROWS = 100_000


class Repeats(NamedTuple):
    """Keys that occur more than once.

    :param key: the first of them.
    :param times: how often it occurs.
    :param keys: how many keys there are like it.
    :param rows: how many rows have one of these keys.
    """

    key: tuple[Any, ...]
    times: int
    keys: int
    rows: int


def connect(scratch: Path) -> DuckDBPyConnection:
    """A DuckDB that spills to the scratch folder and uses as many threads as Polars does."""
    connection = duckdb.connect()
    for setting, value in (
        ("memory_limit", f"{memory.available() // _PART_OF_MEMORY}B"),
        ("threads", pl.thread_pool_size()),
        ("temp_directory", str(scratch / "spill")),
        # One plan for any number of rows: the other compares every row with every fact.
        ("asof_loop_join_threshold", 0),
        # Everything needed is built in; nothing may be fetched from the network while a step runs.
        ("autoinstall_known_extensions", False),
    ):
        connection.execute(f"SET {setting} = ?", [value])
    return connection


def relation(connection: DuckDBPyConnection, path: Path) -> str:
    """A file that a step has laid down, as a table in SQL of this connection."""
    if path.suffix != ".arrow":
        return f"read_parquet({text(path)})"
    from pyarrow.dataset import dataset

    name = "laid_" + hashlib.sha256(str(path).encode()).hexdigest()[:16]
    connection.register(name, dataset(path, format="ipc"))
    return name


def write(connection: DuckDBPyConnection, query: str, to: Path) -> None:
    """Write the result of a query to a Parquet file, in its order."""
    connection.execute(
        f"COPY ({query}) TO {text(to)} (FORMAT parquet, COMPRESSION lz4_raw, ROW_GROUP_SIZE {_BATCH_ROWS})"
    )


def sort(connection: DuckDBPyConnection, rows: Path, by: Sequence[str], to: Path) -> Path:
    """Rows in the order of some columns; they must be unique in these for it to be the same always.

    :param to: an Arrow file.
    :returns: where they are: ``to``, one beside it, or the file itself if its rows are in this order.
    """
    if row_order.in_order(rows, by):
        return rows
    if fits(rows):
        scan(rows).collect().sort(by).write_ipc(to, compression="uncompressed")
        return to
    to = to.with_suffix(".parquet")
    write(connection, f"SELECT * FROM {relation(connection, rows)} ORDER BY {', '.join(by)}", to)
    return to


def fits(rows: Path) -> bool:
    """Whether a file is small enough to be sorted in memory."""
    return memory.held_bytes(rows) <= memory.available() // _SORTED_PART


def repeats(
    connection: DuckDBPyConnection,
    path: Path,
    key: Sequence[str],
    *,
    among: Path | None = None,
    among_key: Sequence[str] = (),
) -> Repeats | None:
    """Keys that occur more than once in a file, None when each is there once.

    :param among: look only at keys that this other file has too, in ``among_key``.
    """
    if row_order.all_different(path, key):
        return None
    source = f"{relation(connection, path)} l"
    if among is not None:
        source += f" SEMI JOIN {relation(connection, among)} r ON {_same(among_key, key)}"
    columns = ", ".join(f"l.{column}" for column in key)
    repeated = f"SELECT {columns}, count(*) AS n FROM {source} GROUP BY {columns} HAVING count(*) > 1"
    first = connection.execute(f"{repeated} ORDER BY {columns} LIMIT 1").fetchall()
    if not first:
        return None
    keys, rows = connection.execute(f"SELECT count(*), sum(n) FROM ({repeated})").fetchall()[0]
    return Repeats(first[0][:-1], first[0][-1], keys, rows)


def join_matured_labels(
    connection: DuckDBPyConnection,
    rows: Path,
    key: Sequence[str],
    labels: Path,
    label_key: Sequence[str],
    *,
    matured: str,
    until: datetime | None,
    to: Path,
) -> None:
    """Write the rows whose label has matured, with ``label`` and ``label_known``.

    :param labels: file of the ``label_key`` columns, ``label`` and its times, each key at most once.
    :param matured: SQL: when a label ``l`` of a row ``r`` matured; null for one that never does.
    :param until: labels that matured later do not count.
    """
    wanted = "label IS NOT NULL AND label_known IS NOT NULL"
    if until is not None:
        wanted += f" AND label_known <= TIMESTAMP '{until.isoformat(sep=' ')}'"
    joined = (
        f"SELECT r.*, l.label, {matured} AS label_known FROM {relation(connection, rows)} r "
        f"JOIN {relation(connection, labels)} l ON {_same(key, label_key)}"
    )
    write(connection, f"SELECT * FROM ({joined}) WHERE {wanted}", to)


def _same(rows: Sequence[str], other: Sequence[str]) -> str:
    return " AND ".join(f"r.{mine} = l.{theirs}" for mine, theirs in zip(rows, other, strict=True))


def text(path: Path) -> str:
    """A path as a text in SQL."""
    return "'" + str(path).replace("'", "''") + "'"
