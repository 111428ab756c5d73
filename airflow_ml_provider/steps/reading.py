"""Rows of raw files as they come: text or Parquet's own types, in batches, with the line of each row.

A reader gives work, not batches: parsing a batch is independent of all others, so it can be done in another
thread while the next bytes are read. The batches of a file are the same whatever does the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_ml_provider.contract.errors import DataError, did_you_mean
from airflow_ml_provider.contract.schema import Schema
from airflow_ml_provider.steps.records import BadRow, Offsets
from airflow_ml_provider.steps.unpacking import UNPUBLISHED, Member

_PARQUET_ROWS = 1 << 16
# A row group is a batch if it is not larger than so many, and not of more bytes.
_GROUP_BATCHES = 4
_GROUP_BYTES = 32 << 20
_PLAIN = (pl.String, pl.Boolean)


@dataclass(frozen=True)
class RawBatch:
    """Some rows of a file, untyped.

    :param frame: the declared columns, as they come; missing values are null.
    :param lines: the line of each row.
    :param bad: rows that could not be split into columns.
    :param raw: gives the text of rows, by their position in the frame.
    :param text: gives rows anew with every value as text, where the reader has typed some; None where the
        values are as they stand in the file.
    """

    frame: pl.DataFrame
    lines: Offsets
    bad: Sequence[BadRow]
    raw: Callable[[Sequence[int]], list[str]]
    text: Callable[[Sequence[int]], pl.DataFrame] | None = None


Work = Callable[[], RawBatch]


def work_of(member: Member, schema: Schema, delimiter: str) -> Iterator[Work]:
    """The rows of a file, as work that gives them batch by batch.

    :raises DataError: a declared column is missing, or the file is empty or damaged; names both. Raised
        while iterating or by the work.
    """
    if member.format == "csv":
        from airflow_ml_provider.steps.reading_csv import work_of_csv

        return work_of_csv(member, schema, delimiter)
    if member.format == "jsonl":
        from airflow_ml_provider.steps.reading_jsonl import work_of_jsonl

        return work_of_jsonl(member, schema)
    return _work_of_parquet(member, schema)


def check_columns(name: str, found: Sequence[str], schema: Schema, hint: str = "") -> None:
    """Refuse a file that lacks a declared column or has it twice."""
    for column in schema.columns:
        count = found.count(column.name)
        if count == 0:
            raise DataError(
                f"{name} has no column {column.name!r}; it has {', '.join(found[:50])}",
                kept=UNPUBLISHED,
                todo=hint or did_you_mean(column.name, list(found)),
            )
        if count > 1:
            raise DataError(f"{name} has {count} columns named {column.name!r}", kept=UNPUBLISHED)


def _work_of_parquet(member: Member, schema: Schema) -> Iterator[Work]:
    columns = [column.name for column in schema.columns]
    with _undamaged(member.name):
        file = pq.ParquetFile(member.stream)
        check_columns(member.name, file.schema_arrow.names, schema)
        if (rows := _frame_of_parquet(member, file, columns)) is not None:
            yield from _work_of_groups(member, file.metadata, rows)
            return
        first = 1
        for batch in file.iter_batches(_PARQUET_ROWS, columns=columns):
            yield _parquet_work(pa.Table.from_batches([batch]).select(columns), first)
            first += batch.num_rows


@contextmanager
def _undamaged(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        # The operating system's errors have a number, those of a remote store a cause: not the file's fault.
        if isinstance(error, OSError) and (error.errno is not None or error.__cause__ is not None):
            raise
        raise DataError(
            f"{name} is truncated or damaged: {error}",
            kept=UNPUBLISHED,
            todo="fetch the file again from where it came",
        ) from error


def _frame_of_parquet(member: Member, file: pq.ParquetFile, columns: Sequence[str]) -> pl.LazyFrame | None:
    """The rows as Polars reads them: in half the time, but only from a path, and a whole row group at a time.

    None where that is not to be had, or where columns would be of other types than Arrow has them.
    """
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    large = any(
        group.num_rows > _GROUP_BATCHES * _PARQUET_ROWS or group.total_byte_size > _GROUP_BYTES
        for group in groups
    )
    if member.path is None or large:
        return None
    try:
        rows = pl.scan_parquet(str(member.path), glob=False, hive_partitioning=False).select(columns)
        found = rows.collect_schema()
    except pl.exceptions.PolarsError:
        return None
    arrow = pl.DataFrame(file.schema_arrow.empty_table().select(columns)).schema
    plain = all(kind.is_numeric() or kind.is_temporal() or kind in _PLAIN for kind in found.values())
    return rows if plain and found == arrow else None


def _work_of_groups(member: Member, metadata: pq.FileMetaData, rows: pl.LazyFrame) -> Iterator[Work]:
    size = sum(
        metadata.row_group(group).column(column).total_compressed_size
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    )
    first = 0
    for number in range(metadata.num_row_groups):
        if count := metadata.row_group(number).num_rows:
            yield _group_work(member, rows.slice(first, count), first + 1)
            first += count
            member.seen(size * count // metadata.num_rows)


def _group_work(member: Member, rows: pl.LazyFrame, first: int) -> Work:
    def work() -> RawBatch:
        with _undamaged(member.name):
            return _parquet_batch(rows.collect(), first)

    return work


def _parquet_work(rows: pa.Table, first: int) -> Work:
    return lambda: _parquet_batch(pl.DataFrame(rows), first)


def _parquet_batch(frame: pl.DataFrame, first: int) -> RawBatch:
    def raw(positions: Sequence[int]) -> list[str]:
        return [json.dumps(row, default=str) for row in frame[list(positions)].to_dicts()]

    return RawBatch(frame, np.arange(first, first + frame.height), (), raw)
