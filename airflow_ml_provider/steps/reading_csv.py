"""CSV: RFC 4180 with a header, any one-character delimiter, UTF-8."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.schema import Schema
from airflow_ml_provider.steps.reading import RawBatch, Work, check_columns
from airflow_ml_provider.steps.records import BadRow, Block, blocks, is_utf8, not_utf8
from airflow_ml_provider.steps.unpacking import UNPUBLISHED, Member, empty


def work_of_csv(member: Member, schema: Schema, delimiter: str) -> Iterator[Work]:
    """The rows of a CSV file, every value as text; see :func:`~..reading.work_of`."""
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise ConfigError(
            f"{delimiter!r} cannot be a delimiter", todo='use one ASCII character, such as ";" or a tab'
        )
    wanted: dict[str, str] | None = None
    width = 0
    for block in blocks(member.stream, member.name, delimiter.encode()):
        if wanted is None:
            header, block = _take_header(member.name, block, delimiter)
            check_columns(member.name, header, schema, _delimiter_hint(header))
            # By position: columns that are not declared may have the same name, or none.
            wanted = {column.name: str(header.index(column.name)) for column in schema.columns}
            width = len(header)
        yield _work(member.name, block, wanted, width)
    if wanted is None:
        raise empty(member.name)


def _take_header(name: str, block: Block, delimiter: str) -> tuple[list[str], Block]:
    records = block.records
    if block.bad or not len(records.ends):
        raise DataError(f"{name} has no header", kept=UNPUBLISHED)
    end = int(records.ends[0])
    header = block.data[int(records.starts[0]) : end]
    if not is_utf8(header):
        utf16 = header.startswith((b"\xff\xfe", b"\xfe\xff"))
        raise DataError(
            f"the header of {name} is {'UTF-16' if utf16 else not_utf8(header)}",
            kept=UNPUBLISHED,
            todo="convert the file to UTF-8 (iconv -t utf-8)",
        )
    names = next(csv.reader([header.decode()], delimiter=delimiter))
    next_line = int(records.lines[0]) + header.count(b"\n")
    return names, Block(block.data[end:], next_line, block.delimiter)


def _delimiter_hint(header: Sequence[str]) -> str:
    if len(header) == 1:
        for delimiter in (";", "\t", "|", ","):
            if delimiter in header[0]:
                return f"is the delimiter {delimiter!r}? Give delimiter={delimiter!r}"
    return ""


def _work(name: str, block: Block, wanted: dict[str, str], width: int) -> Work:
    def work() -> RawBatch:
        data, bad = block.data, list(block.bad)
        kept = lines = None
        if not is_utf8(data):
            data, kept = _without_other_encodings(block, bad)
            lines = block.records.lines[kept]
        table, invalid = _parse(name, block, data, wanted, width)
        count = table.num_rows + len(invalid)
        if lines is None:
            plain = not invalid and count == data.count(b"\n")
            lines = np.arange(block.first_line, block.first_line + count) if plain else block.records.lines
        if len(lines) != count:
            raise DataError(
                f"{name}, from line {block.first_line}: the quoting cannot be understood "
                f"({count} records were parsed where {len(lines)} were found)",
                kept=UNPUBLISHED,
            )
        # Which of the block's records each row is, as soon as some of them are no rows.
        rows = np.delete(np.arange(count), [number for number, _ in invalid])
        of_block = np.arange(count) if kept is None else kept
        bad += [
            BadRow(
                int(lines[number]),
                "",
                f"{found} fields where the header has {width}",
                block.text(int(of_block[number])),
            )
            for number, found in invalid
        ]

        def raw(positions: Sequence[int]) -> list[str]:
            return [block.text(int(of_block[rows[position]])) for position in positions]

        return RawBatch(pl.DataFrame(table), lines[rows], bad, raw)

    return work


def _without_other_encodings(block: Block, bad: list[BadRow]) -> tuple[bytes, np.ndarray]:
    records = block.records
    texts = [block.data[start:end] for start, end in zip(records.starts, records.ends, strict=True)]
    other = np.array([not is_utf8(text) for text in texts], bool)
    for number in np.flatnonzero(other).tolist():
        line = int(records.lines[number])
        bad.append(BadRow(line, "", not_utf8(texts[number]), block.text(number)))
    return block.without(other), np.flatnonzero(~other)


def _parse(
    name: str, block: Block, data: bytes, wanted: dict[str, str], width: int
) -> tuple[pa.Table, list[tuple[int, int]]]:
    """The rows, and of the others their place among all records and their number of fields."""
    invalid: list[tuple[int, int]] = []

    def handle(row: pa_csv.InvalidRow) -> str:
        invalid.append((row.number - 1, row.actual_columns))
        return "skip"

    if not data:
        return pa.table({column: pa.array([], pa.string()) for column in wanted}), invalid
    names = [str(position) for position in range(width)]
    try:
        table = pa_csv.read_csv(
            pa.py_buffer(data),
            read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
            parse_options=pa_csv.ParseOptions(
                delimiter=block.delimiter.decode(), newlines_in_values=True, invalid_row_handler=handle
            ),
            convert_options=pa_csv.ConvertOptions(
                # Everything is text until it is typed by one rule for all; it is known to be UTF-8.
                column_types={position: pa.string() for position in wanted.values()},
                include_columns=list(wanted.values()),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{name}, from line {block.first_line}, is not CSV: {error}", kept=UNPUBLISHED
        ) from error
    return table.rename_columns(list(wanted)), invalid
