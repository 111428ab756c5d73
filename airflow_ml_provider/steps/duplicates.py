"""Rows with the key of an earlier row, found out of core.

A key is told by a mark, a hash of 64 bits. Marks lie on local disk in files by their first bits, each so small
that it is sorted in memory: marks that are there once, as usually all are, cannot be those of equal keys. Of
the others the keys themselves are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from airflow_ml_provider.steps.spool import Spool
from airflow_ml_provider.steps.threads import in_order

# Files of marks: a thousand million rows make files of 125 MB.
_FILE_BITS = 6
# So many different keys, that other rows may have too, are compared at a time; of so many rows.
_KEYS_AT_ONCE = 200_000
_ROWS_AT_ONCE = 500_000

_FIRST = "_source_row_first"

Marks = npt.NDArray[np.uint64]


class Duplicates(NamedTuple):
    """The rows that repeat a key, in order, and for each the first row that has it.

    Memory grows with the number of duplicates (16 bytes each), not with that of rows.
    """

    rows: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]


class Keys:
    """The keys of rows, on local disk.

    :param folder: made for them when there are some; it must not exist.
    :param key: the columns of the key.
    :param row: the column that numbers the rows.
    """

    def __init__(self, folder: Path, key: Sequence[str], row: str) -> None:
        self.key = list(key)
        self.row = row
        self.folder = folder
        self._spool = Spool(folder / "keys.arrow")
        self._files: list[BinaryIO] = []

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._spool.rows

    def add(self, frame: pl.DataFrame, marks: Marks | None = None) -> None:
        """Add rows, whose numbers are larger than those before.

        :param frame: the key's columns and the rows' numbers.
        :param marks: the keys', sorted, if they are known.
        """
        if not self._files:
            self.folder.mkdir()
            self._files = [(self.folder / f"{n}.marks").open("wb") for n in range(1 << _FILE_BITS)]
        self._spool.add(frame.select(*self.key, self.row))
        marks = np.sort(self.marks(frame)) if marks is None else marks
        borders = np.arange(1, 1 << _FILE_BITS, dtype=np.uint64) << np.uint64(64 - _FILE_BITS)
        ends = np.searchsorted(marks, borders).tolist()
        for file, first, end in zip(self._files, [0, *ends], [*ends, len(marks)], strict=True):
            if first < end:
                file.write(marks[first:end].data)

    def marks(self, frame: pl.DataFrame) -> Marks:
        """The marks of rows; equal keys have the same, also where values are missing or no numbers."""
        return frame.select(self.key).hash_rows().to_numpy()

    def add_all(self, path: Path) -> None:
        """Add keys that another process has kept, from a copy of its ``path``."""
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            for number in range(reader.num_record_batches):
                self.add(_frame(reader.get_batch(number)))

    @property
    def path(self) -> Path:
        """The file of the keys; none can be added after this was asked for."""
        self._spool.close()
        return self._spool.path

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows; none can be added after that."""
        yield from map(_frame, self._spool.batches())

    def suspects(self) -> Marks:
        """The marks that several rows have, sorted."""
        for file in self._files:
            file.close()
        found = in_order(partial(_repeated, Path(file.name)) for file in self._files)
        return np.concatenate(list(found))


def find_duplicates(keys: Keys) -> Duplicates:
    """The rows with the same key as a row of a smaller number; two missing values count as the same."""
    suspects = keys.suspects()
    if not len(suspects):
        return Duplicates(np.array([], np.int64), np.array([], np.int64))
    count = 1 + len(suspects) // _KEYS_AT_ONCE
    parts = [Spool(keys.folder / f"{number}.arrow") for number in range(count)]
    for frame in keys.frames():
        marks = keys.marks(frame)
        place = np.searchsorted(suspects, marks)
        place[place == len(suspects)] = 0
        hit = suspects[place] == marks
        rows = frame.filter(hit)
        of = marks[hit] % np.uint64(count)
        for number in np.unique(of).tolist():
            parts[number].add(rows.filter(of == number) if count > 1 else rows)
    compared = list(in_order(_comparing(part, keys) for part in parts if part.rows))
    numbers, firsts = (np.concatenate([pair[place] for pair in compared]) for place in (0, 1))
    order = np.argsort(numbers)
    return Duplicates(numbers[order], firsts[order])


def _repeated(path: Path) -> Marks:
    marks = np.sort(np.fromfile(path, np.uint64))
    path.unlink()
    return np.unique(marks[1:][marks[1:] == marks[:-1]])


def _comparing(part: Spool, keys: Keys) -> Callable[[], Duplicates]:
    """The duplicates among some rows, which hold all that have their keys."""

    def compare() -> Duplicates:
        firsts: pl.DataFrame | None = None
        found: list[pl.DataFrame] = []
        for rows in _larger(map(_frame, part.batches())):
            # Rows come in the order of their numbers, so the first of all is known by now.
            known = rows if firsts is None else pl.concat([firsts, rows])
            known = known.with_columns(pl.col(keys.row).min().over(keys.key).alias(_FIRST))
            later = pl.col(keys.row) != pl.col(_FIRST)
            found.append(known.filter(later).select(keys.row, _FIRST))
            firsts = known.filter(~later).drop(_FIRST)
        pairs = pl.concat(found)
        return Duplicates(pairs[keys.row].to_numpy(), pairs[_FIRST].to_numpy())

    return compare


def _larger(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows in larger frames."""
    waiting: list[pl.DataFrame] = []
    for frame in frames:
        waiting.append(frame)
        if sum(each.height for each in waiting) >= _ROWS_AT_ONCE:
            yield pl.concat(waiting)
            waiting = []
    if waiting:
        yield pl.concat(waiting)


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame
