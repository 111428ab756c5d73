"""JSON lines: an object a line, UTF-8. A value counts by its text, so that ``5`` and ``"5"`` are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NoReturn

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import DataError, did_you_mean
from airflow_ml_provider.contract.schema import Schema
from airflow_ml_provider.steps.reading import RawBatch, Work
from airflow_ml_provider.steps.records import BadRow, Block, blocks, not_utf8, readable
from airflow_ml_provider.steps.unpacking import UNPUBLISHED, Member, empty


def work_of_jsonl(member: Member, schema: Schema) -> Iterator[Work]:
    """The rows of a JSON lines file, every value as text; see :func:`~..reading.work_of`.

    A key that a line does not have is a missing value; one that no line has is a missing column.
    """
    names = [column.name for column in schema.columns]
    unseen = {name: re.compile(re.escape(json.dumps(name).encode()) + rb"\s*:") for name in names}
    begun = False
    first = b""
    for block in blocks(member.stream, member.name):
        begun, first = True, first or block.data
        unseen = {name: key for name, key in unseen.items() if not key.search(block.data)}
        yield _work(block, names)
    if not begun:
        raise empty(member.name)
    if unseen and first.strip():
        missing = next(iter(unseen))
        found = _keys(first)
        raise DataError(
            f"{member.name} has no column {missing!r} in any line; its first lines have {', '.join(found)}",
            kept=UNPUBLISHED,
            todo=did_you_mean(missing, found),
        )


def _work(block: Block, names: Sequence[str]) -> Work:
    def work() -> RawBatch:
        try:
            frame = _parse(block.data, names)
        except pl.exceptions.ComputeError:
            return _line_by_line(block, names)
        if frame.height != len(block.line_ends):
            return _line_by_line(block, names)
        lines = np.arange(block.first_line, block.first_line + frame.height)
        line = block.line_ends.line
        return RawBatch(
            frame, lines, (), lambda positions: [readable(line(position)) for position in positions]
        )

    return work


def _parse(data: bytes, names: Sequence[str]) -> pl.DataFrame:
    return pl.read_ndjson(data, schema=dict.fromkeys(names, pl.String))


def _line_by_line(block: Block, names: Sequence[str]) -> RawBatch:
    """For a block with blank or bad lines: which they are, and the rest parsed as always."""
    texts = block.data.split(b"\n")[:-1]
    kept, bad = [], []
    for number, text in enumerate(texts):
        if not text.strip():
            continue
        if reason := _why_not_an_object(text):
            bad.append(BadRow(block.first_line + number, "", reason, readable(text)))
        else:
            kept.append(number)
    refused = _refused([texts[number] for number in kept], names)
    bad += [
        BadRow(block.first_line + kept[n], "", "not a JSON object", readable(texts[kept[n]])) for n in refused
    ]
    kept = np.delete(kept, refused).astype(int).tolist()
    frame = _parse(b"\n".join(texts[number] for number in kept), names)
    lines = np.array(kept, np.int64) + block.first_line

    def raw(positions: Sequence[int]) -> list[str]:
        return [readable(texts[kept[position]]) for position in positions]

    return RawBatch(frame, lines, sorted(bad), raw)


def _why_not_an_object(text: bytes) -> str:
    if reason := not_utf8(text):
        return reason
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        return f"not JSON: {error}"
    except RecursionError:
        return "not JSON: nested too deeply"
    return "" if isinstance(found, dict) else f"not a JSON object but {type(found).__name__}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _refused(texts: Sequence[bytes], names: Sequence[str], first: int = 0) -> list[int]:
    """Which lines the parser refuses though they look right; found by halving."""
    try:
        if not texts or _parse(b"\n".join(texts), names).height == len(texts):
            return []
    except pl.exceptions.ComputeError:
        pass
    if len(texts) == 1:
        return [first]
    middle = len(texts) // 2
    return _refused(texts[:middle], names, first) + _refused(texts[middle:], names, first + middle)


def _keys(data: bytes) -> list[str]:
    keys: dict[str, None] = {}
    for text in data.splitlines()[:100]:
        if text.strip() and not _why_not_an_object(text):
            keys.update(dict.fromkeys(json.loads(text)))
    return list(keys)[:50]
