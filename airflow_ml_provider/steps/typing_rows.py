"""Raw rows to typed rows: one rule a type, whatever the file's format, and a reason for each row that fails.

Text becomes

* ``int64``: digits with a sign, also with a fraction of zeros (``517.0``, as tools write an integer column
  that has missing values);
* ``float64``: decimal or scientific, ``nan``, ``inf``;
* ``boolean``: true/false, t/f, yes/no, 1/0, in any case;
* ``date``: ``YYYY-MM-DD``;
* ``timestamp``: ISO 8601, kept to the microsecond; without an offset it is taken as UTC.

Blanks around a value count only in text columns. Parquet's own types are converted where nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.schema import Column, Schema
from airflow_ml_provider.steps.reading import RawBatch
from airflow_ml_provider.steps.records import BadRow, Offsets
from airflow_ml_provider.steps.timestamps import whole_timestamps
from airflow_ml_provider.steps.unpacking import UNPUBLISHED

TYPES: dict[str, pl.DataType] = {
    "string": pl.String(),
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us", "UTC"),
}
_A = {
    "string": "text",
    "int64": "an int64",
    "float64": "a float64",
    "boolean": "a boolean",
    "date": "a date (YYYY-MM-DD)",
    "timestamp": "a timestamp (ISO 8601)",
}
_ISO = "%Y-%m-%dT%H:%M:%S%.f%#z"
_ISO_SHORTER = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_MOST_SHOWN = 100


@dataclass(frozen=True)
class TypedBatch:
    """Rows by their declared types.

    :param good: rows that are as declared, and ``lines`` theirs.
    :param bad: what is wrong with the others; the last of them, as many as ``bad_frame`` has rows, could be
        split into columns and are held there, with the cells at fault as null.
    """

    good: pl.DataFrame
    lines: Offsets
    bad: Sequence[BadRow]
    bad_frame: pl.DataFrame


@dataclass(frozen=True)
class _Fault:
    """Rows whose value in a column is not as declared, by position, and why."""

    column: str
    rows: Sequence[int]
    reasons: Sequence[str]


def empty_frame(schema: Schema) -> pl.DataFrame:
    """No rows, with the declared columns and types."""
    return pl.DataFrame(schema={column.name: TYPES[column.type] for column in schema.columns})


def type_rows(name: str, batch: RawBatch, schema: Schema) -> TypedBatch:
    """Type a batch, and part the good rows from the bad.

    :param name: the file, for messages.
    :raises DataError: a Parquet column is of a type that has nothing in common with the declared one.
    """
    raw = _comparable(batch.frame, schema)
    text = [column for column in schema.columns if raw[column.name].dtype == pl.String]
    whole = {
        column.name: typed_at_once
        for column in text
        if column.type == "timestamp" and (typed_at_once := _whole_timestamps(raw[column.name])) is not None
    }
    frame = raw.with_columns(
        whole.get(column.name, _QUICK[column.type](pl.col(column.name)).alias(column.name)) for column in text
    )
    found: list[tuple[Column, str, pl.Series]] = []
    finished: list[pl.Series] = []
    for column in schema.columns:
        given, typed = raw[column.name], frame[column.name]
        typed = _thoroughly(given, typed, column) if column in text else _converted(name, given, column)
        finished.append(typed)
        found += [(column, what, rows) for what, rows in _wrong(given, typed, column)]
    frame = pl.DataFrame(finished)
    faults = _faults(found, raw, batch)
    if not faults:
        return TypedBatch(frame, batch.lines, batch.bad, frame.clear())
    return _parted(frame, batch, faults)


def _comparable(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    changes = []
    for column in schema.columns:
        kind, value = frame.schema[column.name], pl.col(column.name)
        if kind in (pl.Categorical, pl.Enum):
            changes.append(value.cast(pl.String))
        elif kind.is_float() and column.type == "int64":
            # Tools that know no missing integers write them so.
            changes.append(value.fill_nan(None))
    return frame.with_columns(changes) if changes else frame


def _whole_timestamps(text: pl.Series) -> pl.Series | None:
    typed = whole_timestamps(text.to_arrow(compat_level=pl.CompatLevel.oldest()))
    return None if typed is None else pl.Series(text.name, typed)


def _quick_timestamp(text: pl.Expr) -> pl.Expr:
    return text.str.to_datetime(_ISO, time_unit="us", time_zone="UTC", strict=False)


def _quick_boolean(text: pl.Expr) -> pl.Expr:
    low = text.str.strip_chars().str.to_lowercase()
    true, false = low.is_in(["true", "t", "yes", "1"]), low.is_in(["false", "f", "no", "0"])
    return pl.when(true).then(True).when(false).then(False)


# What most values look like; the rest is looked at again by `_thoroughly`, which takes longer.
_QUICK: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "string": lambda text: text,
    "int64": lambda text: text.cast(pl.Int64, strict=False),
    "float64": lambda text: text.cast(pl.Float64, strict=False),
    "boolean": _quick_boolean,
    "date": lambda text: text.str.to_date("%Y-%m-%d", strict=False),
    "timestamp": _quick_timestamp,
}


def _thoroughly(text: pl.Series, typed: pl.Series, column: Column) -> pl.Series:
    """The typed values; where one is null and its text is not, the other ways to write it are tried."""
    if typed.null_count() == text.null_count():
        return typed
    again = pl.arg_where(typed.is_null() & text.is_not_null(), eager=True)
    left = text.gather(again).str.strip_chars().rename(column.name).to_frame()
    value = pl.col(column.name)
    tries = [_QUICK[column.type](value)]
    if column.type == "int64":
        tries.append(value.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False))
    elif column.type == "timestamp":
        spaced = value.str.replace("[Tt]", " ")
        tries.append(_quick_timestamp(value.str.replace("[t ]", "T")))
        tries += [
            spaced.str.to_datetime(iso, time_unit="us", time_zone="UTC", strict=False) for iso in _ISO_SHORTER
        ]
    return typed.scatter(again, left.select(pl.coalesce(tries)).to_series())


def _converted(name: str, values: pl.Series, column: Column) -> pl.Series:
    """A Parquet column as the declared type; null where that would lose something."""
    target, kind = TYPES[column.type], values.dtype
    if isinstance(kind, pl.Datetime) and column.type == "timestamp":
        utc = values.dt.convert_time_zone("UTC") if kind.time_zone else values.dt.replace_time_zone("UTC")
        return utc.dt.cast_time_unit("us")
    if kind == target:
        return values
    try:
        typed = values.cast(target, strict=False)
        if column.type == "string":
            return typed
        same = typed.cast(kind, strict=False) == values
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"column {column.name!r} of {name} is {kind}, which cannot become {column.type}",
            kept=UNPUBLISHED,
            todo="declare the column as the type it has",
        ) from error
    return typed if same.all() else typed.set(~same.fill_null(False), None)


def _wrong(given: pl.Series, typed: pl.Series, column: Column) -> list[tuple[str, pl.Series]]:
    """What is wrong with values of a column, and in which rows; with a missing one, nothing is said."""
    found = []
    if typed.null_count() != given.null_count():
        found.append((f"is not {_A[column.type]}", (typed.is_null() & given.is_not_null()).arg_true()))
    if not column.nullable and given.null_count():
        found.append(("", given.is_null().arg_true()))
    if column.minimum is not None and (low := typed < column.minimum).any():
        found.append((f"is below the minimum {column.minimum:g}", low.arg_true()))
    if column.maximum is not None and (high := typed > column.maximum).any():
        found.append((f"is above the maximum {column.maximum:g}", high.arg_true()))
    return found


def _faults(
    found: Sequence[tuple[Column, str, pl.Series]], raw: pl.DataFrame, batch: RawBatch
) -> list[_Fault]:
    """The same with the values as they stand in the file."""
    faults = []
    for column, what, rows in found:
        places = rows.to_list()
        if not what:
            reason = f"{column.name}: missing, and declared as not nullable"
            faults.append(_Fault(column.name, places, [reason] * len(places)))
            continue
        shown = batch.text(places) if batch.text else raw[rows]
        reasons = [
            f"{column.name}: '{value[:_MOST_SHOWN]}' {what}" for value in shown[column.name].cast(pl.String)
        ]
        faults.append(_Fault(column.name, places, reasons))
    return faults


def _parted(frame: pl.DataFrame, batch: RawBatch, faults: Sequence[_Fault]) -> TypedBatch:
    reasons: dict[int, list[tuple[str, str]]] = {}
    for fault in faults:
        for row, reason in zip(fault.rows, fault.reasons, strict=True):
            reasons.setdefault(row, []).append((fault.column, reason))
    rows = sorted(reasons)
    bad = [
        BadRow(
            int(batch.lines[row]),
            ", ".join(dict.fromkeys(column for column, _ in reasons[row])),
            "; ".join(reason for _, reason in reasons[row]),
            text,
        )
        for row, text in zip(rows, batch.raw(rows), strict=True)
    ]
    wrong = np.zeros(frame.height, bool)
    wrong[rows] = True
    place = {row: number for number, row in enumerate(rows)}
    bad_frame = frame[rows]
    for fault in faults:
        at_fault = pl.Series([place[row] for row in fault.rows], dtype=pl.UInt32)
        bad_frame = bad_frame.with_columns(bad_frame[fault.column].scatter(at_fault, None))
    return TypedBatch(frame.filter(~wrong), batch.lines[~wrong], [*batch.bad, *bad], bad_frame)
