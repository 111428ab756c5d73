"""Rows on their way to a table, laid down once while the source is read; some may be taken out afterwards.

Without an audit they become the table's files at once, which nobody sees before the commit. Rows to be audited
are laid down on local disk first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import Schema
from deltalake.transaction import AddAction

from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.steps import delta, tables
from airflow_ml_provider.steps.spool import Spool
from airflow_ml_provider.steps.table_files import PartitionFiles
from airflow_ml_provider.steps.threads import in_order

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import Publication
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.records import Offsets


class LaidRows(Protocol):
    """What the two kinds have in common.

    The rows' column ``number`` tells them apart and is not published.
    """

    @property
    def rows(self) -> int:
        """How many there are."""

    def write(self, frames: Iterator[pl.DataFrame]) -> None:
        """Lay down rows; there is at least one frame, and all have its schema."""

    def take_out(self, numbers: Offsets) -> dict[int, str | None]:
        """Take out those of some numbers that are there; gives their partitions."""

    def publish(self, content: str) -> Publication:
        """Replace the partitions by the rows, in one commit."""

    def discard(self) -> None:
        """Leave nothing behind of rows whose publication was not begun."""


class LaidFiles:
    """Rows laid down as files of the table.

    :param partitions: what they are to replace; None for the whole table.
    :param number: the column that numbers the rows.
    :param changeable: rows may have to be taken out; their numbers are kept on local disk, 8 bytes each.
    """

    def __init__(
        self,
        step: StepContext,
        target: Table,
        partitions: Partitions | None,
        number: str,
        *,
        changeable: bool,
    ) -> None:
        self.rows = 0
        self._step = step
        self._target = target
        self._partitions = partitions
        self._number = number
        self._changeable = changeable
        self._folder = step.scratch / "numbers"
        self._folder.mkdir()
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._stored: set[str] = set()
        self._files: list[AddAction] = []
        self._schema: Schema | None = None

    def write(self, frames: Iterator[pl.DataFrame]) -> None:
        """See :class:`LaidRows`; files are written in threads of their own meanwhile.

        :raises MLError: the rows do not fit the table.
        """
        first = next(frames)
        given = _arrow(first).schema
        place = given.get_field_index(self._number)
        self._schema = delta.delta_schema(self._target, given.remove(place))
        there = delta.find_table(self._target.name, self._step.store.table_uri(self._target.name))
        if there is not None:
            delta.check_fit(self._target, there, self._schema, whole=self._partitions is None)
        wanted = pa.schema([*pa.schema(self._schema.to_arrow()), given.field(place)])

        def batches() -> Iterator[pa.RecordBatch]:
            for frame in chain([first], frames):
                self.rows += frame.height
                yield from _arrow(frame).select(wanted.names).cast(wanted).to_batches()

        rows = pa.RecordBatchReader.from_batches(wanted, batches())
        self._files = self._writer(beside=self._number).write(rows)

    def adopt(self, files: Sequence[AddAction], schema: Schema, rows: int) -> None:
        """Take files for its own that other processes have written, and leave those as they are.

        Whoever takes rows out tells their numbers first, file by file (``know``).
        """
        self._files, self._schema, self.rows = list(files), schema, rows

    def know(self, path: str, numbers: pa.ChunkedArray) -> None:
        """Keep the numbers of a file's rows."""
        self._keep(path, numbers)

    @property
    def files(self) -> list[AddAction]:
        """The files."""
        return list(self._files)

    def numbers(self, path: str) -> Offsets:
        """The numbers of a file's rows, where rows may have to be taken out."""
        return np.asarray(np.load(self._folder / f"{self._numbers[path]}.npy", mmap_mode="r"))

    @property
    def schema(self) -> Schema:
        """The schema of the rows."""
        assert self._schema is not None, "rows have a schema after they were written"
        return self._schema

    def take_out(self, numbers: Offsets) -> dict[int, str | None]:
        """See :class:`LaidRows`; the files that hold such rows are written anew."""
        partitions: dict[int, str | None] = {}
        column = self._target.partition_by

        def without(file: AddAction) -> tuple[AddAction | None, dict[int, str | None]]:
            there = self.numbers(file.path)
            hit = np.isin(there, numbers)
            if not hit.any():
                return file, {}
            value = file.partition_values[column] if column else None
            found: dict[int, str | None] = dict.fromkeys(there[hit].tolist(), value)
            content = self._step.store.read(self._path(file.path))
            assert content is not None, "a file that was just written is there"
            rows = pq.read_table(pa.BufferReader(content), partitioning=None).filter(pa.array(~hit))
            new = self._writer().file(value, rows) if rows.num_rows else None
            if file.path in self._stored:
                self._remove(file.path)
            return new, found

        kept = []
        for new, found in in_order(partial(without, file) for file in self._files):
            partitions.update(found)
            if new is not None:
                kept.append(new)
        self._files = kept
        self.rows -= len(partitions)
        return partitions

    def publish(self, content: str) -> Publication:
        """See :class:`LaidRows`."""
        assert self._schema is not None, "rows are published after they were written"
        if done := tables.already_published(self._step.store, self._target, self._partitions, content):
            self.discard()
            return done
        # From here on they may be the table's, also when the commit seems to have failed.
        self._stored.clear()
        return tables.publish_files(
            self._step, self._target, self._files, schema=self._schema, rows=self.rows,
            partitions=self._partitions, content=content,
        )  # fmt: skip

    def discard(self) -> None:
        """See :class:`LaidRows`; what cannot be removed now, a vacuum of the table removes."""
        for path in list(self._stored):
            try:
                self._remove(path)
            except MLError as error:
                self._step.log.warning("a file that is not published is left behind: %s", error.what)

    def _writer(self, beside: str | None = None) -> PartitionFiles:
        return PartitionFiles(self._put, self._target.partition_by, beside=beside, keep=self._keep)

    def _put(self, path: str, content: bytes) -> None:
        with self._lock:
            self._stored.add(path)
        self._step.store.write(self._path(path), content)

    def _keep(self, path: str, numbers: pa.ChunkedArray) -> None:
        if self._changeable:
            with self._lock:
                name = self._numbers[path] = len(self._numbers)
            np.save(self._folder / f"{name}.npy", pl.Series(numbers).to_numpy())

    def _remove(self, path: str) -> None:
        self._step.store.delete(self._path(path))
        with self._lock:
            self._stored.discard(path)

    def _path(self, path: str) -> str:
        return f"tables/{self._target.name}/{path}"


class LaidAside:
    """Rows laid down on local disk, to be audited before they are published.

    :param partitions: what they are to replace; None for the whole table.
    :param number: the column that numbers the rows.
    :param suite: what audits them.
    """

    def __init__(
        self, step: StepContext, target: Table, partitions: Partitions | None, number: str, suite: str
    ) -> None:
        self._step = step
        self._target = target
        self._partitions = partitions
        self._number = number
        self._suite = suite
        self._spool = Spool(step.scratch / "rows.arrow")
        self._out: Offsets = np.array([], np.int64)
        self._gone = 0

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._spool.rows - self._gone

    def write(self, frames: Iterator[pl.DataFrame]) -> None:
        """See :class:`LaidRows`."""
        for frame in frames:
            self._spool.add(frame)

    def take_out(self, numbers: Offsets) -> dict[int, str | None]:
        """See :class:`LaidRows`; they are left out when the rows are read."""
        partitions: dict[int, str | None] = {}
        column = self._target.partition_by
        for batch in self._spool.batches():
            hit = np.isin(batch.column(self._number).to_numpy(), numbers)
            if hit.any():
                found = batch.filter(pa.array(hit))
                values = found.column(column).to_pylist() if column else [None] * len(found)
                partitions.update(zip(found.column(self._number).to_pylist(), values, strict=True))
        self._out, self._gone = numbers, len(partitions)
        return partitions

    def publish(self, content: str) -> Publication:
        """See :class:`LaidRows`."""
        reader = self._spool.reader()
        schema = reader.schema.remove(reader.schema.get_field_index(self._number))

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in reader:
                if len(self._out):
                    keep = ~np.isin(batch.column(self._number).to_numpy(), self._out)
                    batch = batch.filter(pa.array(keep))
                yield batch.drop_columns(self._number)

        return tables.publish(
            self._step, self._target, pa.RecordBatchReader.from_batches(schema, batches()),
            partitions=self._partitions, content=content, suite=self._suite,
        )  # fmt: skip

    def discard(self) -> None:
        """See :class:`LaidRows`; the scratch folder is removed with the step."""


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
