"""Frames on local disk between two passes, so that memory holds a batch and not the source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa


class Spool:
    """A file that frames of one schema are added to and read from in the same order.

    :param path: the file; it must not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.schema: pl.Schema | None = None
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def add(self, frame: pl.DataFrame) -> None:
        """Add a frame; the first one, even an empty one, sets the schema."""
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self.schema = frame.schema
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(str(self.path), table.schema, options=options)
        self._writer.write_table(table)
        self.rows += frame.height

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The frames, as Arrow batches; nothing can be added after that."""
        self.close()
        with pa.memory_map(str(self.path)) as source, pa.ipc.open_file(source) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)

    def reader(self) -> pa.RecordBatchReader:
        """The same as :meth:`batches`, with their schema."""
        assert self.schema is not None, "a spool is read after something was added"
        schema = self.schema.to_arrow(compat_level=pl.CompatLevel.oldest())
        return pa.RecordBatchReader.from_batches(schema, self.batches())

    def add_all(self, path: Path) -> None:
        """Add the frames of another spool's file, which may have been copied."""
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            for number in range(reader.num_record_batches):
                frame = pl.from_arrow(reader.get_batch(number))
                assert isinstance(frame, pl.DataFrame)
                self.add(frame)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
