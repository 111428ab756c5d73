"""One pass over a source: rows that can be published are laid down, bad rows go to the quarantine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from airflow_ml_provider.steps.duplicates import Duplicates, Keys, Marks, find_duplicates
from airflow_ml_provider.steps.laid_rows import LaidAside, LaidFiles, LaidRows
from airflow_ml_provider.steps.quarantine import Kept, Quarantine
from airflow_ml_provider.steps.reading import RawBatch, Work, work_of
from airflow_ml_provider.steps.records import BadRow, Offsets
from airflow_ml_provider.steps.threads import in_order
from airflow_ml_provider.steps.transforming import ROW, Transform
from airflow_ml_provider.steps.typing_rows import TypedBatch, empty_frame, type_rows
from airflow_ml_provider.steps.unpacking import members

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import IngestArguments
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.contract.schema import Schema
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.sources import SourceFile

# A row's number is its file's and its line's: up to 2**22 files of up to 2**41 lines.
LINE_BITS = 41
_MB = 1_000_000


@dataclass(frozen=True)
class Source:
    """What to read, and how.

    :param firsts: for each file the number of its first member among those of the whole source; None where
        these are all files of the source.
    """

    arguments: IngestArguments
    schema: Schema
    files: Sequence[SourceFile]
    partitions: Partitions | None
    firsts: Sequence[int] | None = None


class _Batch(NamedTuple):
    file: str
    first: int  # what to add to a line for the number of its row
    raw: RawBatch
    typed: TypedBatch
    marks: Marks | None  # of the good rows' keys


class Stage:
    """The rows of a source on their way to a table: read once, then handed over as one stream.

    :param quarantine: gets the bad rows.
    """

    def __init__(
        self, step: StepContext, source: Source, transform: Transform, quarantine: Quarantine
    ) -> None:
        target, suite = source.arguments.publish, source.arguments.suite
        self.rows_read = 0
        self.rows_elsewhere = 0
        self.laid: LaidRows = (
            LaidAside(step, target, source.partitions, ROW, suite)
            if suite
            else LaidFiles(step, target, source.partitions, ROW, changeable=bool(source.schema.key))
        )
        self._step = step
        self._source = source
        self._transform = transform
        self._quarantine = quarantine
        self.keys = Keys(step.scratch / "keys", source.schema.key, ROW)
        self._column = target.partition_by

    def fill(self) -> None:
        """Read the source; a row with the key of an earlier one ends in the quarantine too.

        :raises MLError: a file is damaged or lacks a column, or the user's function raised.
        """
        names = self.read()
        if self.keys.rows:
            duplicates = find_duplicates(self.keys)
            if len(duplicates.rows):
                self.drop(duplicates, names)

    def read(self) -> list[str]:
        """Read the source, whatever keys its rows have; gives the names of what was read, in order."""
        names: list[str] = []
        self.laid.write(self._good(names))
        return names

    def _good(self, names: list[str]) -> Iterator[pl.DataFrame]:
        """The rows to publish, in the order of the source, with their numbers; once without any, for the schema."""
        seen = 0
        with self._step.progress("MB", sum(file.size for file in self._source.files) // _MB) as progress:

            def read(count: int) -> None:
                nonlocal seen
                before, seen = seen, seen + count
                progress.advance(seen // _MB - before // _MB)

            begun = False
            for batch in in_order(self._typing(names, read)):
                begun = True
                self.rows_read += len(batch.raw.lines) + len(batch.raw.bad)
                yield self._taken(batch)
        if not begun:
            yield self._transform(empty_frame(self._source.schema), pl.Series([], dtype=pl.Int64))

    def _work(
        self, source: Source, names: list[str], read: Callable[[int], None]
    ) -> Iterator[tuple[str, int, Work]]:
        """The work of all files; ``names`` becomes theirs, in the order of their rows' numbers."""
        arguments = source.arguments
        for position, file in enumerate(source.files):
            before = len(names) if source.firsts is None else source.firsts[position]
            for place, member in enumerate(members(file, arguments.format, read)):
                first = (before + place) << LINE_BITS
                names.append(member.name)
                for work in work_of(member, source.schema, arguments.delimiter):
                    yield member.name, first, work

    def _typing(self, names: list[str], read: Callable[[int], None]) -> Iterator[Callable[[], _Batch]]:
        schema = self._source.schema
        for file, first, work in self._work(self._source, names, read):

            def typing(file: str = file, first: int = first, work: Work = work) -> _Batch:
                raw = work()
                typed = type_rows(file, raw, schema)
                marks = np.sort(self.keys.marks(typed.good)) if schema.key else None
                return _Batch(file, first, raw, typed, marks)

            yield typing

    def _taken(self, batch: _Batch) -> pl.DataFrame:
        """A batch's rows to publish; its bad ones go to the quarantine."""
        good, lines = batch.typed.good, batch.typed.lines
        numbers = pl.Series(ROW, lines + batch.first, dtype=pl.Int64)
        if self._source.schema.key:
            self.keys.add(good.select(self._source.schema.key).with_columns(numbers), batch.marks)
        rows = self._transform(good, numbers)
        kept = self._bad(batch)
        if self._column is not None:
            homeless = rows.filter(pl.col(self._column).is_null())
            if homeless.height:
                kept += self._homeless(batch, homeless[ROW] - batch.first)
                rows = rows.filter(pl.col(self._column).is_not_null())
            if self._source.partitions is not None:
                here = rows.filter(pl.col(self._column).is_in(list(self._source.partitions.values)))
                self.rows_elsewhere += rows.height - here.height
                rows = here
        if kept:
            self._quarantine.add(batch.file, sorted(kept, key=lambda one: one.bad.line))
        return rows

    def _bad(self, batch: _Batch) -> list[Kept]:
        bad, frame = batch.typed.bad, batch.typed.bad_frame
        if not bad:
            return []
        tellable = bad[len(bad) - frame.height :]
        lines = pl.Series([row.line for row in tellable], dtype=pl.Int64)
        partitions = self._transform.partitions(frame, lines)
        return [Kept(None, row) for row in bad[: len(bad) - frame.height]] + [
            Kept(partitions.get(row.line), row) for row in tellable
        ]

    def _homeless(self, batch: _Batch, lines: pl.Series) -> list[Kept]:
        reason = f"{self._column} is missing: the row belongs to no partition"
        positions = np.searchsorted(batch.raw.lines, lines.to_numpy()).tolist()
        texts = batch.raw.raw(positions)
        return [
            Kept(None, BadRow(line, str(self._column), reason, text))
            for line, text in zip(lines.to_list(), texts, strict=True)
        ]

    def drop(self, duplicates: Duplicates, names: Sequence[str], source: Source | None = None) -> None:
        """Take duplicates out; their text is read once more, so that it need not be kept for all rows.

        :param names: of all members of the source, in order.
        :param source: at least the files that have duplicates; the whole source when it is None.
        """
        partitions = self.laid.take_out(duplicates.rows)
        wanted = np.array(sorted(partitions), np.int64)
        firsts = dict(zip(duplicates.rows.tolist(), duplicates.firsts.tolist(), strict=True))
        columns = ", ".join(self._source.schema.key)

        def reason(number: int) -> str:
            file, line = names[firsts[number] >> LINE_BITS], firsts[number] & ((1 << LINE_BITS) - 1)
            return f"the same key ({columns}) as {file}:{line}"

        for file, first, raw in in_order(self._reading(wanted, source or self._source)):
            positions = np.flatnonzero(np.isin(raw.lines + first, wanted)).tolist()
            if positions:
                lines = raw.lines[positions].tolist()
                self._quarantine.add(
                    file,
                    [
                        Kept(partitions[line + first], BadRow(line, columns, reason(line + first), text))
                        for line, text in zip(lines, raw.raw(positions), strict=True)
                    ],
                )

    def _reading(self, wanted: Offsets, source: Source) -> Iterator[Callable[[], tuple[str, int, RawBatch]]]:
        files = set((wanted >> LINE_BITS).tolist())
        for file, first, work in self._work(source, [], lambda _: None):
            if first >> LINE_BITS in files:
                yield lambda file=file, first=first, work=work: (file, first, work())  # type: ignore[misc]
