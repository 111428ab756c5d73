"""Typed rows to the rows of a table: the user's function, and the partition of each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from airflow_ml_provider.contract.errors import DataError, UserCodeError
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import functions

# Numbers the rows of a source through the user's function, which may filter and sort.
ROW = "_source_row"


class Transform:
    """Applies the user's function to batches of typed rows.

    It is called once a batch, so it must treat each row by itself. It gets the declared columns and
    ``_source_row``; when it leaves that column out, it must give one row for each row, in the same order.

    :param function: gets a frame and gives one, of any known kind; None for rows published as typed.
    """

    def __init__(self, function: Callable[..., Any] | None, target: Table) -> None:
        self._function = function
        self._target = target
        self._schema: pl.Schema | None = None

    def __call__(self, frame: pl.DataFrame, rows: pl.Series) -> pl.DataFrame:
        """The rows to publish and ``_source_row``; the partition column is text.

        :raises UserFunctionError: the function raised.
        :raises UserCodeError: it gave other columns for one batch than for another, or lost rows' numbers.
        :raises DataError: there is no partition column in the result.
        """
        numbered = frame.with_columns(rows.alias(ROW))
        result = numbered if self._function is None else self._apply(self._function, numbered)
        column = self._target.partition_by
        if column is not None:
            if column not in result.columns:
                raise DataError(
                    f"the rows for table {self._target.name!r} have no partition column {column!r}; "
                    f"they have {', '.join(name for name in result.columns if name != ROW)}",
                    todo=f"add {column!r} in transform=, or declare another partition column for the table",
                )
            result = result.with_columns(pl.col(column).cast(pl.String))
        return self._same_columns(result)

    def partitions(self, frame: pl.DataFrame, rows: pl.Series) -> dict[int, str]:
        """The partitions of rows, as far as they can be told; for bad rows, whose bad cells are null."""
        column = self._target.partition_by
        if column is None or not frame.height:
            return {}
        try:
            result = self(frame, rows).select(ROW, column).drop_nulls()
        except Exception:
            # Whatever the function makes of a row that it was never meant to see, it tells no partition.
            return {}
        return dict(zip(result[ROW], result[column], strict=True))

    def _apply(self, function: Callable[..., Any], numbered: pl.DataFrame) -> pl.DataFrame:
        # It has one table to ask for, by whatever name.
        name = next(iter(functions.parameters_of(function)), "rows")
        with functions.blame(function):
            result = functions.call_for_frame(function, frames={name: numbered.lazy()}).collect()
        if ROW in result.columns:
            return result
        if result.height != numbered.height:
            raise UserCodeError(
                f"{functions.name_of(function)} gave {result.height} rows for {numbered.height} and left out "
                f"the column {ROW!r}, so it cannot be told which",
                todo="use with_columns and filter, or keep that column when you select",
            )
        return result.with_columns(numbered[ROW])

    def _same_columns(self, result: pl.DataFrame) -> pl.DataFrame:
        if self._schema is None:
            self._schema = result.schema
        if result.schema == self._schema:
            return result
        try:
            return result.select(self._schema.names()).cast(dict(self._schema))  # type: ignore[arg-type]
        except pl.exceptions.PolarsError as error:
            name = functions.name_of(self._function) if self._function else "the source"
            raise UserCodeError(
                f"{name} gives other columns for one batch of rows than for another: {error}",
                todo="give the same columns and types whatever the values are",
            ) from error
