"""The variant of each row of a split, for whole batches: :mod:`..contract.assignment`, vectorised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from airflow_ml_provider.contract.assignment import DIGITS, SEPARATOR
from airflow_ml_provider.contract.errors import DataError

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray


def assign(rows: pl.DataFrame, key: Sequence[str], shares: Mapping[str, float], salt: str) -> pl.Series:
    """The variant of each row, by its key alone: whatever the batch, the order of rows and the platform.

    :param key: the key's columns, in the key's order.
    :param shares: variant to its share of the keys.
    :raises DataError: a part of the key is a fraction or a list, which has no one text.
    """
    names = sorted(shares)
    texts = rows.select(_text(rows, key).alias("key")).to_arrow()
    with _database().cursor() as database:
        database.register("texts", texts)
        scores = [
            -np.log(_drawn(database, SEPARATOR.join((salt, name, "")))) / shares[name] for name in names
        ]
    return pl.Series("variant", names).gather(pl.Series(np.argmin(scores, axis=0)))


@cache
def _database() -> duckdb.DuckDBPyConnection:
    # Most predictions are of one model, and need none of it.
    import duckdb

    # Opened once: that takes longer than a batch. On one thread rows keep their order by themselves.
    return duckdb.connect(config={"threads": 1})


def _drawn(database: duckdb.DuckDBPyConnection, prefix: str) -> NDArray[np.float64]:
    """A number between 0 and 1 for each key."""
    query = "SELECT ('0x' || left(md5($1 || key), $2))::BIGINT AS drawn FROM texts"
    found = database.execute(query, [prefix, DIGITS]).fetchnumpy()["drawn"]
    drawn: NDArray[np.float64] = (np.asarray(found, np.float64) + 0.5) / 2 ** (4 * DIGITS)
    return drawn


def _text(rows: pl.DataFrame, key: Sequence[str]) -> pl.Expr:
    return pl.concat_str([_part(name, rows.schema[name]) for name in key], separator=SEPARATOR)


def _part(name: str, dtype: pl.DataType) -> pl.Expr:
    part = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        utc = part.dt.convert_time_zone("UTC") if dtype.time_zone else part
        part = utc.dt.strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
    elif not (dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Date)):
        raise DataError(
            f"rows cannot be split by the key column {name!r}: it is {dtype}, which has no one text",
            todo="use text, integers, booleans or times as the feature set's key",
        )
    return part.cast(pl.String).fill_null("")
