"""One pass over a source: rows that can be published go to local disk, bad rows to the quarantine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from airflow_ml_provider.steps.duplicates import Duplicates, find_duplicates
from airflow_ml_provider.steps.quarantine import Kept, Quarantine
from airflow_ml_provider.steps.reading import RawBatch, Work, work_of
from airflow_ml_provider.steps.records import BadRow, Offsets
from airflow_ml_provider.steps.spool import Spool
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
_LINE_BITS = 41
_REPORT_SECONDS = 3.0


@dataclass(frozen=True)
class Source:
    """What to read, and how."""

    arguments: IngestArguments
    schema: Schema
    files: Sequence[SourceFile]
    partitions: Partitions | None


class _Batch(NamedTuple):
    file: str
    first: int  # what to add to a line for the number of its row
    raw: RawBatch
    typed: TypedBatch


class Stage:
    """The rows of a source on their way to a table: read once, then handed over as one stream.

    :param quarantine: gets the bad rows.
    """

    def __init__(
        self, step: StepContext, source: Source, transform: Transform, quarantine: Quarantine
    ) -> None:
        self.rows_read = 0
        self.rows_elsewhere = 0
        self._step = step
        self._source = source
        self._transform = transform
        self._quarantine = quarantine
        self._rows = Spool(step.scratch / "rows.arrow")
        self._keys = Spool(step.scratch / "keys.arrow")
        self._duplicates: Offsets = np.array([], np.int64)
        self._dropped = 0
        self._column = source.arguments.publish.partition_by

    @property
    def rows(self) -> int:
        """How many rows there are to publish."""
        return self._rows.rows - self._dropped

    def fill(self) -> None:
        """Read the source; a row with the key of an earlier one ends in the quarantine too.

        :raises MLError: a file is damaged or lacks a column, or the user's function raised.
        """
        progress = _Progress(self._step, sum(file.size for file in self._source.files))
        names: list[str] = []
        for batch in in_order(self._typing(names, progress)):
            self._take(batch)
            self.rows_read += len(batch.raw.lines) + len(batch.raw.bad)
            progress.report(self.rows_read)
        if self._rows.schema is None:
            self._rows.add(self._transform(empty_frame(self._source.schema), pl.Series([], dtype=pl.Int64)))
        if self._keys.rows:
            key = self._source.schema.key
            duplicates = find_duplicates(self._keys, ROW, key, self._step.scratch)
            if len(duplicates.rows):
                self._drop(duplicates, names)

    def reader(self) -> pa.RecordBatchReader:
        """The rows to publish, in the order of the source."""
        reader = self._rows.reader()
        schema = reader.schema.remove(reader.schema.get_field_index(ROW))

        def stream() -> Iterator[pa.RecordBatch]:
            for batch in reader:
                if len(self._duplicates):
                    keep = ~np.isin(batch.column(ROW).to_numpy(), self._duplicates)
                    batch = batch.filter(pa.array(keep))
                yield batch.drop_columns(ROW)

        return pa.RecordBatchReader.from_batches(schema, stream())

    def _work(self, names: list[str], progress: _Progress) -> Iterator[tuple[str, int, bool, Work]]:
        """The work of all files; ``names`` becomes theirs, in the order of their rows' numbers."""
        arguments = self._source.arguments
        for file in self._source.files:
            for member in members(file, arguments.format, progress.seen):
                first = len(names) << _LINE_BITS
                names.append(member.name)
                for work in work_of(member, self._source.schema, arguments.delimiter):
                    yield member.name, first, member.format == "csv", work

    def _typing(self, names: list[str], progress: _Progress) -> Iterator[Callable[[], _Batch]]:
        schema = self._source.schema
        for file, first, is_csv, work in self._work(names, progress):
            null_values = schema.null_values if is_csv else ()

            def typing(
                file: str = file,
                first: int = first,
                work: Work = work,
                null_values: tuple[str, ...] = null_values,
            ) -> _Batch:
                raw = work()
                return _Batch(file, first, raw, type_rows(file, raw, schema, null_values))

            yield typing

    def _take(self, batch: _Batch) -> None:
        good, lines = batch.typed.good, batch.typed.lines
        numbers = pl.Series(ROW, lines + batch.first, dtype=pl.Int64)
        if self._source.schema.key:
            self._keys.add(good.select(self._source.schema.key).with_columns(numbers))
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
        self._rows.add(rows)
        if kept:
            self._quarantine.add(batch.file, sorted(kept, key=lambda one: one.bad.line))

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

    def _drop(self, duplicates: Duplicates, names: Sequence[str]) -> None:
        """Take duplicates out; their text is read once more, so that it need not be kept for all rows."""
        partitions: dict[int, str | None] = {}
        self._duplicates = duplicates.rows
        for batch in self._rows.batches():
            hit = np.isin(batch.column(ROW).to_numpy(), duplicates.rows)
            if hit.any():
                found = batch.filter(pa.array(hit))
                values = found.column(self._column).to_pylist() if self._column else [None] * len(found)
                partitions.update(zip(found.column(ROW).to_pylist(), values, strict=True))
                self._dropped += len(found)
        wanted = np.array(sorted(partitions), np.int64)
        firsts = dict(zip(duplicates.rows.tolist(), duplicates.firsts.tolist(), strict=True))
        columns = ", ".join(self._source.schema.key)

        def reason(number: int) -> str:
            file, line = names[firsts[number] >> _LINE_BITS], firsts[number] & ((1 << _LINE_BITS) - 1)
            return f"the same key ({columns}) as {file}:{line}"

        for file, first, raw in in_order(self._reading(wanted)):
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

    def _reading(self, wanted: Offsets) -> Iterator[Callable[[], tuple[str, int, RawBatch]]]:
        files = set((wanted >> _LINE_BITS).tolist())
        for file, first, _, work in self._work([], _Progress(self._step, 0)):
            if first >> _LINE_BITS in files:
                yield lambda file=file, first=first, work=work: (file, first, work())  # type: ignore[misc]


class _Progress:
    """Tells the log how far reading has come, now and then."""

    def __init__(self, step: StepContext, size: int) -> None:
        self._step = step
        self._size = size
        self._seen = 0
        self._started = self._told = time.monotonic()

    def seen(self, count: int) -> None:
        """Some bytes of the files were read."""
        self._seen += count

    def report(self, rows: int) -> None:
        """So many rows were read so far."""
        now = time.monotonic()
        if now - self._told >= _REPORT_SECONDS:
            self._told = now
            share = min(self._seen / self._size, 1) if self._size else 1
            rate = rows / (now - self._started)
            self._step.log.info(
                "read %s rows, %s rows/s, %.0f %% of the bytes", f"{rows:,}", f"{rate:,.0f}", 100 * share
            )
