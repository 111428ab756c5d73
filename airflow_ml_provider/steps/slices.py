"""Slices: the groups of rows that a column, or a user's function, parts the rows into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, UserCodeError, did_you_mean
from airflow_ml_provider.steps import functions

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from airflow_ml_provider.steps.context import StepContext

_MOST_GROUPS = 1_000


def columns(wanted: Sequence[str], there: Sequence[str], where: str) -> list[str]:
    """What to slice by, each once: columns, and functions as ``"package.module:function"``.

    :param there: the columns that the rows have.
    :raises ConfigError: the rows have no such column.
    """
    for name in wanted:
        if ":" not in name and name not in there:
            raise ConfigError(
                f"there is no column {name!r} to slice by in {where}",
                todo=f"{did_you_mean(name, [*there])} A FeatureSet's keep= adds columns; a function is "
                'written "package.module:function"',
            )
    return list(dict.fromkeys(wanted))


def by_functions(step: StepContext, wanted: Sequence[str], rows: pl.LazyFrame) -> dict[str, pl.Series]:
    """What the functions among the slices say of each row: one text a row, in the rows' order."""
    return {
        name: slice_texts(functions.user_code(step, name), name, rows, step.scratch)
        for name in wanted
        if ":" in name
    }


def slice_texts(function: Any, name: str, rows: pl.LazyFrame, scratch: Path | None = None) -> pl.Series:
    """Call a function that gives one text a row.

    :raises UserCodeError: it gives something else.
    """
    given = functions.call(function, frames={"rows": rows}, scratch=scratch)
    found = _as_series(given, name)
    count = int(rows.select(pl.len()).collect(engine="streaming").item())
    if len(found) != count:
        raise UserCodeError(
            f"{name} gave {len(found):,} texts for {count:,} rows",
            todo="give one text for each row, in the rows' order",
        )
    return texts(found).alias(name)


def groups(name: str, values: pl.Series) -> Iterator[tuple[str | None, NDArray[np.intp]]]:
    """The groups of rows by their value, the largest first: the value as text, and the rows' places.

    :raises ConfigError: there are too many.
    """
    places = pl.DataFrame({"value": texts(values)}).with_row_index("place").group_by("value").agg("place")
    if places.height > _MOST_GROUPS:
        raise ConfigError(
            f"column {name!r} has {places.height:,} different values; a slice has at most {_MOST_GROUPS:,}",
            todo="slice by a column of groups, such as a rounded number, or by a function",
        )
    parted = zip(places["value"].to_list(), places["place"], strict=True)
    found = [(value, np.sort(own.to_numpy()).astype(np.intp)) for value, own in parted]
    yield from sorted(found, key=lambda each: (-len(each[1]), each[0] or "", each[0] is None))


def _as_series(given: Any, name: str) -> pl.Series:
    if isinstance(given, pl.LazyFrame):
        given = given.collect(engine="streaming")
    if isinstance(given, pl.DataFrame) and given.width == 1:
        given = given.to_series()
    if isinstance(given, pl.Series):
        return given
    try:
        if type(given).__module__.partition(".")[0] == "pandas":
            given = given.astype(object).where(given.notna(), None).tolist()
        if isinstance(given, (str, pl.DataFrame)):
            raise TypeError("one series was expected")
        return pl.Series([None if value is None else str(value) for value in given], dtype=pl.String)
    except (AttributeError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise UserCodeError(
            f"{name} gave {type(given).__name__}, which is no text for each row: {error}",
            todo="return a series, an array or a list of texts, one a row",
        ) from error


def texts(values: pl.Series) -> pl.Series:
    """Values as the names of their groups."""
    if values.dtype.is_float():
        # Whole numbers and booleans are floats here, as the model gets them.
        whole = values.cast(pl.Int64, strict=False)
        values = whole if (whole.cast(values.dtype) == values).all() else values
    return values.cast(pl.String)
