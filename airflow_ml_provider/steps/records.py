"""Text in blocks of whole records, with the line each record begins on.

A CSV record is not a line: a quoted value may hold line ends. A quote opens a quoted value only at the start
of a field, a doubled one inside it is a quote, and any other is a character like the rest; these are the
rules of the parser that reads the blocks, so both agree on where a record ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.steps.line_ends import LineEnds
from airflow_ml_provider.steps.unpacking import UNPUBLISHED, reading

# Large enough for vectors to pay, small enough that some of them at a time are no memory to speak of.
BLOCK_BYTES = 4 << 20
# A quoted value that is not closed within this is taken to be an error of its line.
_MOST_RECORD = 16 << 20
_RAW_CHARACTERS = 2_000
_NEWLINE, _RETURN, _QUOTE = b"\n"[0], b"\r"[0], b'"'[0]

Offsets = npt.NDArray[np.int64]


class BadRow(NamedTuple):
    """A row that cannot be used, and why.

    :param line: the line it begins on, from 1; for Parquet the row, from 1.
    :param column: the columns at fault; empty when it could not be split into columns.
    :param raw: the row's text, cut at 2,000 characters.
    """

    line: int
    column: str
    reason: str
    raw: str


class Records(NamedTuple):
    """Where the records of a block begin and end, and on which lines; blank lines are none."""

    starts: Offsets
    ends: Offsets
    lines: Offsets


@dataclass(frozen=True)
class Block:
    """Whole records, the last of which ends with a line feed.

    :param first_line: the line that the block begins on, from 1.
    :param delimiter: between fields; empty where every line is a record, quotes or not.
    :param bad: records before this block that could not be told from each other.
    :param ends: where its records end, if that is known.
    """

    data: bytes
    first_line: int
    delimiter: bytes
    bad: tuple[BadRow, ...] = ()
    ends: Offsets | None = field(default=None, repr=False, compare=False)

    @cached_property
    def line_ends(self) -> LineEnds:
        """Its line feeds."""
        return LineEnds(self.data)

    @cached_property
    def records(self) -> Records:
        """Found only when needed: for the lines and the text of bad rows, and where blank lines are."""
        ends = record_ends(self.data, self.delimiter) if self.ends is None else self.ends
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)]
        text = np.frombuffer(self.data, np.uint8)
        lines = self.first_line + np.arange(len(ends))
        if has_lone_return(self.data) or len(ends) != len(self.line_ends):
            lines = self.first_line + np.searchsorted(_ends_with_returns(self.data), starts + 1)
        length = ends - starts
        blank = (length == 1) | ((length == 2) & (text[starts] == _RETURN)) if len(ends) else length == 0
        return Records(starts[~blank], ends[~blank], lines[~blank])

    def without(self, bad: npt.NDArray[np.bool_]) -> bytes:
        """The data without some of its records."""
        starts, ends = self.records.starts[~bad], self.records.ends[~bad]
        return b"".join(self.data[s:e] for s, e in zip(starts, ends, strict=True))

    def record(self, number: int) -> bytes:
        """A record, counted from 0, with its line end."""
        return self.data[self.records.starts[number] : self.records.ends[number]]

    def text(self, number: int) -> str:
        """A record as people read it; bytes that are not UTF-8 are shown as ``\\xff``."""
        return readable(self.record(number))


def readable(record: bytes) -> str:
    """The text of a record, cut."""
    # A character has at most four bytes, so this many hold all the characters that are kept.
    return record[: 4 * _RAW_CHARACTERS].decode(errors="backslashreplace").rstrip("\r\n")[:_RAW_CHARACTERS]


def is_utf8(data: bytes) -> bool:
    """Whether the bytes are text as UTF-8."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def not_utf8(record: bytes) -> str:
    """Why a record is not text."""
    try:
        record.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{record[error.start]:02x} at position {error.start + 1} of the row"
    return ""


def blocks(stream: IO[bytes], name: str, delimiter: bytes = b"") -> Iterator[Block]:
    """The blocks of a file; a byte order mark is left out.

    :raises DataError: the file is damaged, or has no line ends.
    """
    rest, line, bad = b"", 1, list[BadRow]()
    begun = last = False
    while not last:
        with reading(name):
            chunk = stream.read(BLOCK_BYTES)
        last = not chunk
        if not begun:
            chunk, begun = chunk.removeprefix(b"\xef\xbb\xbf"), True
        data = rest + chunk
        if last and data and not data.endswith(b"\n"):
            data += b"\n"
        while data:
            cut, ends = _whole_records(data, delimiter)
            if cut:
                if data[cut - 1 : cut] == b"\r":
                    block = Block(data[:cut] + b"\n", line, delimiter, tuple(bad))
                else:
                    block = Block(data[:cut], line, delimiter, tuple(bad), ends)
                # Counted before another thread asks, too.
                lines = len(_ends_with_returns(block.data)) if b"\r" in block.data else len(block.line_ends)
                yield block
                line += lines
                data, bad = data[cut:], []
            elif last or len(data) > _MOST_RECORD:
                end = data.find(b"\n") + 1
                if not end:
                    raise DataError(
                        f"{name}, line {line} is longer than {_MOST_RECORD >> 20} MiB: is this text?",
                        kept=UNPUBLISHED,
                    )
                reason = "a quoted value that begins on this line is never closed"
                bad.append(BadRow(line, "", reason, readable(data[:end])))
                data, line = data[end:], line + 1
            else:
                break
        rest = data
    if bad:
        yield Block(b"", line, delimiter, tuple(bad))


def record_ends(data: bytes, delimiter: bytes) -> Offsets:
    """Offsets behind the line end of each whole record."""
    if not delimiter or (b'"' not in data and not has_lone_return(data)):
        return _places(data, _NEWLINE) + 1
    ends = None if has_lone_return(data) else _ends_by_parity(data, delimiter)
    return _ends_by_scanning(data, delimiter) if ends is None else ends


def _whole_records(data: bytes, delimiter: bytes) -> tuple[int, Offsets | None]:
    """How many bytes are whole records, and where these end, if that had to be found out."""
    lone = has_lone_return(data) if delimiter else False
    if not delimiter or (b'"' not in data and not lone):
        return data.rfind(b"\n") + 1, None
    if not lone and (quotes := _quotes(data, delimiter)) is not None:
        end = data.rfind(b"\n") + 1
        while (before := int(np.searchsorted(quotes, end))) % 2:
            # Within a quoted value no record ends: back to before it was opened.
            end = data.rfind(b"\n", 0, int(quotes[before - 1])) + 1
        return end, None
    ends = record_ends(data, delimiter)
    return (int(ends[-1]) if len(ends) else 0), ends


def _ends_by_parity(data: bytes, delimiter: bytes) -> Offsets | None:
    """Line ends with an even number of quotes before them; None where quotes are not as RFC 4180 has them."""
    quotes = _quotes(data, delimiter)
    if quotes is None:
        return None
    newlines = _places(data, _NEWLINE) + 1
    outside: npt.NDArray[np.bool_] = np.searchsorted(quotes, newlines) % 2 == 0
    return newlines if outside.all() else newlines[outside]


def _quotes(data: bytes, delimiter: bytes) -> Offsets | None:
    """Where quotes are, if they are as RFC 4180 has them.

    They are when each opening quote follows a field's start or a quote, and each closing one is followed by
    a field's end or a quote: then, from left to right, every second quote closes what the one before opened.
    """
    text = np.frombuffer(data, np.uint8)
    quotes = _places(data, _QUOTE)
    edge = np.zeros(256, bool)
    edge[[delimiter[0], _NEWLINE, _RETURN, _QUOTE]] = True
    # The text's own begin and end are edges, too.
    opening, closing = quotes[0::2] - 1, quotes[1::2] + 1
    opening, closing = opening[opening >= 0], closing[closing < len(text)]
    right = edge[text[opening]].all() and edge[text[closing]].all()
    return quotes if right else None


def _ends_by_scanning(data: bytes, delimiter: bytes) -> Offsets:
    """Record by record: slower, right for any text. Used for the odd block that has stray quotes."""
    match = _record(delimiter).match
    ends, end = [], 0
    while found := match(data, end):
        end = found.end()
        ends.append(end)
    return np.array(ends, np.int64)


@lru_cache
def _record(delimiter: bytes) -> re.Pattern[bytes]:
    mark = re.escape(delimiter)
    quoted = rb'"[^"]*+(?:""[^"]*+)*+"[^' + mark + rb"\r\n]*+"
    plain = rb'[^"' + mark + rb"\r\n][^" + mark + rb"\r\n]*+"
    value = rb"(?:" + quoted + rb"|" + plain + rb")?+"
    return re.compile(value + rb"(?:" + mark + value + rb")*+(?:\r\n|\n|\r(?!\Z))")


def _places(data: bytes, character: int) -> Offsets:
    """Where a character is."""
    return np.flatnonzero(np.frombuffer(data, np.uint8) == character)


def has_lone_return(data: bytes) -> bool:
    """Whether a carriage return ends a line by itself."""
    # The last byte is left out: its line feed may come with the next block.
    return b"\r" in data and data.count(b"\r", 0, -1) != data.count(b"\r\n")


def _ends_with_returns(data: bytes) -> Offsets:
    """Offsets behind the ends of lines; a lone carriage return ends one too."""
    text = np.frombuffer(data, np.uint8)
    ends = _places(data, _NEWLINE) + 1
    if has_lone_return(data):
        returns = _places(data[:-1], _RETURN)
        lone = returns[text[returns + 1] != _NEWLINE] + 1
        ends = np.union1d(ends, lone)
    return ends
