"""CSV: RFC 4180 with a header, any one-character delimiter, UTF-8.

The parser types what it can type exactly as :mod:`~..typing_rows` would, and the rest comes as text. Where it
cannot type a whole column of a block, that column comes as text in the rest of the file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.schema import Schema
from airflow_ml_provider.steps.reading import RawBatch, Work, check_columns
from airflow_ml_provider.steps.records import (
    BadRow,
    Block,
    blocks,
    has_lone_return,
    is_utf8,
    not_utf8,
    readable,
)
from airflow_ml_provider.steps.timestamps import whole_timestamps
from airflow_ml_provider.steps.unpacking import UNPUBLISHED, Member, empty

# Timestamps are not among them: the parser takes some that have no seconds.
_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
}
_RARE = 2_000
_REFUSED = re.compile(r"In CSV column #(\d+): .*CSV conversion error")


class _Columns:
    """The declared columns of one file: their place in it, and as which types the parser is to read them.

    :param places: column to place, counted from 0.
    :param width: how many columns the file has.
    """

    def __init__(self, schema: Schema, places: Mapping[str, int], width: int) -> None:
        self._timestamps = [each.name for each in schema.columns if each.type == "timestamp"]
        # By position: columns that are not declared may have the same name, or none.
        self.places = {str(place): name for name, place in places.items()}
        self.width = width
        self.null_values = list(schema.null_values)
        self._types = {str(places[each.name]): _TYPES.get(each.type, pa.string()) for each in schema.columns}

    def as_text(self) -> dict[str, pa.DataType]:
        """Every column as text, by its place."""
        return dict.fromkeys(self.places, pa.string())

    def types(self, data: bytes) -> dict[str, pa.DataType]:
        """The types to read a block as, by place; text where the parser's own rules would tell."""
        types = dict(self._types)
        # It takes 0x1F for a number, and nan(1) for one that is missing.
        hexadecimal = pa.int64() in types.values() and _has_hexadecimal(data)
        noted = b"(" in data and re.search(rb"(?i)nan\(", data) is not None
        for place, kind in types.items():
            if (hexadecimal and kind == pa.int64()) or (noted and kind == pa.float64()):
                types[place] = pa.string()
        return types

    def typed(self, table: pa.Table) -> pa.Table:
        """A block with its timestamps, where they can be had at once."""
        for name in self._timestamps:
            place = table.column_names.index(name)
            if (typed := whole_timestamps(table.column(place))) is not None:
                table = table.set_column(place, name, typed)
        return table

    def refuse(self, error: pa.ArrowInvalid) -> bool:
        """Read the column that an error is about as text from now on; whether it is about a value's type."""
        if found := _REFUSED.search(str(error)):
            self._types[found[1]] = pa.string()
        return found is not None


def work_of_csv(member: Member, schema: Schema, delimiter: str) -> Iterator[Work]:
    """The rows of a CSV file, every value as text; see :func:`~..reading.work_of`."""
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise ConfigError(
            f"{delimiter!r} cannot be a delimiter", todo='use one ASCII character, such as ";" or a tab'
        )
    columns: _Columns | None = None
    for block in blocks(member.stream, member.name, delimiter.encode()):
        if columns is None:
            header, block = _take_header(member.name, block, delimiter)
            check_columns(member.name, header, schema, _delimiter_hint(header))
            places = {column.name: header.index(column.name) for column in schema.columns}
            columns = _Columns(schema, places, len(header))
        yield _work(member.name, block, columns)
    if columns is None:
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
    ends = None if block.ends is None else block.ends[block.ends > end] - end
    return names, Block(block.data[end:], next_line, block.delimiter, ends=ends)


def _delimiter_hint(header: Sequence[str]) -> str:
    if len(header) == 1:
        for delimiter in (";", "\t", "|", ","):
            if delimiter in header[0]:
                return f"is the delimiter {delimiter!r}? Give delimiter={delimiter!r}"
    return ""


def _work(name: str, block: Block, columns: _Columns) -> Work:
    def work() -> RawBatch:
        data, bad = block.data, list(block.bad)
        kept = lines = None
        if not is_utf8(data):
            data, kept = _without_other_encodings(block, bad)
            lines = block.records.lines[kept]
        table, invalid = _parse(name, block, data, columns)
        count = table.num_rows + len(invalid)
        record = block.record
        if lines is None:
            plain = not invalid and count == len(block.line_ends)
            if plain and not has_lone_return(data):
                # Every line is a record; some of them are found without all others.
                record = block.line_ends.line
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
                f"{fields} fields where the header has {columns.width}",
                readable(record(int(of_block[number]))),
            )
            for number, fields in invalid
        ]

        def raw(positions: Sequence[int]) -> list[str]:
            return [readable(record(int(of_block[rows[position]]))) for position in positions]

        def text(positions: Sequence[int]) -> pl.DataFrame:
            alone = b"".join(map(record, of_block[rows[positions]].tolist()))
            as_text, _ = _read(name, block, alone, columns, columns.as_text())
            return pl.DataFrame(as_text)

        return RawBatch(pl.DataFrame(columns.typed(table)), lines[rows], bad, raw, text)

    return work


def _without_other_encodings(block: Block, bad: list[BadRow]) -> tuple[bytes, np.ndarray]:
    records = block.records
    texts = [block.data[start:end] for start, end in zip(records.starts, records.ends, strict=True)]
    other = np.array([not is_utf8(text) for text in texts], bool)
    for number in np.flatnonzero(other).tolist():
        line = int(records.lines[number])
        bad.append(BadRow(line, "", not_utf8(texts[number]), block.text(number)))
    return block.without(other), np.flatnonzero(~other)


def _has_hexadecimal(data: bytes) -> bool:
    """Whether there is a ``0x``; many times as fast as looking for it, since zeros are many and ``x`` is rare."""
    for mark in (b"x", b"X"):
        place = data.find(mark)
        for _ in range(_RARE):
            if place < 0:
                break
            if data[place - 1 : place] == b"0":
                return True
            place = data.find(mark, place + 1)
        else:
            return _has_hexadecimal_of_many(data)
    return False


def _has_hexadecimal_of_many(data: bytes) -> bool:
    text = np.frombuffer(data, np.uint8)
    marks = np.flatnonzero((text | 0x20) == ord("x"))
    return bool((text[marks[marks > 0] - 1] == ord("0")).any())


def _parse(name: str, block: Block, data: bytes, columns: _Columns) -> tuple[pa.Table, list[tuple[int, int]]]:
    """The rows, and of the others their place among all records and their number of fields."""
    if not data:
        return pa.table({column: pa.array([], pa.string()) for column in columns.places.values()}), []
    while True:
        try:
            return _read(name, block, data, columns, columns.types(data))
        except _Refused:
            continue


class _Refused(Exception):
    """A value is not of the type that its column was to be read as; next time it is read as text."""


def _read(
    name: str, block: Block, data: bytes, columns: _Columns, types: Mapping[str, pa.DataType]
) -> tuple[pa.Table, list[tuple[int, int]]]:
    invalid: list[tuple[int, int]] = []

    def handle(row: pa_csv.InvalidRow) -> str:
        invalid.append((row.number - 1, row.actual_columns))
        return "skip"

    names = [str(position) for position in range(columns.width)]
    try:
        table = pa_csv.read_csv(
            pa.py_buffer(data),
            read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
            parse_options=pa_csv.ParseOptions(
                delimiter=block.delimiter.decode(), newlines_in_values=True, invalid_row_handler=handle
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=types,
                include_columns=list(columns.places),
                null_values=columns.null_values,
                strings_can_be_null=True,
                # It is known to be UTF-8.
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if columns.refuse(error):
            raise _Refused from error
        raise DataError(
            f"{name}, from line {block.first_line}, is not CSV: {error}", kept=UNPUBLISHED
        ) from error
    return table.rename_columns(list(columns.places.values())), invalid
