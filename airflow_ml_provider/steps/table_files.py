"""The data files of a publication, written partition by partition within a bound of memory.

delta-rs keeps a file open for every partition that it has seen until the end, more than a megabyte each and
up to a hundred with data. Here rows wait in memory by partition, and when they are more than a budget, the
partition that has most becomes a file. Whatever the number of partitions and rows, memory holds the budget
and what is being written.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from airflow_ml_provider.steps.threads import in_order

# Rows that wait, as Arrow holds them; a file is made of at most half of them, some ten times smaller.
BUDGET_BYTES = 64 << 20
# Rows that tell whether a column has the same values again and again.
_SAMPLE = 4096
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


class PartitionFiles:
    """Writes rows to the files of one publication, which become part of the table with its commit only.

    :param put: stores a file by its path below the table.
    :param column: the partition column; None for a table without partitions.
    :param beside: a column that is not written: ``keep`` is given its values, file by file, in any thread.
    """

    def __init__(
        self,
        put: Callable[[str, bytes], object],
        column: str | None,
        *,
        beside: str | None = None,
        keep: Callable[[str, pa.ChunkedArray], object] = lambda *_: None,
    ) -> None:
        self._put = put
        self._column = column
        self._beside = beside
        self._keep = keep
        self._waiting: dict[str | None, list[pa.RecordBatch]] = {}
        self._bytes: dict[str | None, int] = {}

    def write(self, batches: pa.RecordBatchReader) -> list[AddAction]:
        """Write all rows; gives the files, for the commit.

        Files of a publication that fails are left behind, as those of a process that was killed: no commit
        names them, and a vacuum of the table removes them.
        """
        return list(in_order(self._files(batches)))

    def _files(self, batches: pa.RecordBatchReader) -> Iterator[Callable[[], AddAction]]:
        """The files to write, as soon as enough rows for one are there."""
        for batch in batches:
            for value, rows in self._parts(batch):
                self._waiting.setdefault(value, []).append(rows)
                self._bytes[value] = self._bytes.get(value, 0) + rows.nbytes
            while sum(self._bytes.values()) > BUDGET_BYTES:
                yield self._file_of(max(self._bytes, key=lambda value: self._bytes[value]))
        for value in sorted(self._waiting, key=str):
            yield self._file_of(value)

    def _parts(self, batch: pa.RecordBatch) -> Iterator[tuple[str | None, pa.RecordBatch]]:
        """The rows of each partition, in their order."""
        if not batch.num_rows:
            return
        if self._column is None:
            yield None, batch
            return
        values = batch.column(self._column).dictionary_encode()
        # Arrow's own ways to and from NumPy would import pandas.
        codes = pl.Series(values.indices).fill_null(-1).to_numpy()
        rest = batch.drop_columns(self._column)
        if (codes == codes[0]).all():
            parts = [rest]
            firsts = codes[:1]
        else:
            sorted_already = (codes[1:] >= codes[:-1]).all()
            order = np.arange(len(codes)) if sorted_already else np.argsort(codes, kind="stable")
            ends = np.flatnonzero(np.diff(codes[order], append=-2)) + 1
            parts = [_part(rest, rows) for rows in np.split(order, ends[:-1])]
            firsts = codes[order[ends - 1]]
        for code, rows in zip(firsts.tolist(), parts, strict=True):
            yield None if code < 0 else str(values.dictionary[code].as_py()), rows

    def _file_of(self, value: str | None) -> Callable[[], AddAction]:
        rows = pa.Table.from_batches(self._waiting.pop(value))
        self._bytes.pop(value)
        return lambda: self.file(value, rows)

    def file(self, value: str | None, rows: pa.Table) -> AddAction:
        """Write one file of a partition."""
        name = f"part-{uuid.uuid4()}.zstd.parquet"
        # The layout of Hive, by which some readers tell the partition.
        folder = _NO_VALUE if value is None else quote(value, safe="")
        path = f"{self._column}={folder}/{name}" if self._column else name
        if self._beside is not None:
            self._keep(path, rows.column(self._beside))
            rows = rows.drop_columns(self._beside)
        sink = pa.BufferOutputStream()
        pq.write_table(
            rows, sink, compression="zstd", compression_level=1, store_schema=False,
            use_dictionary=_repeating(rows), write_statistics=_bounded(rows),
        )  # fmt: skip
        content = sink.getvalue().to_pybytes()
        self._put(path, content)
        partition = {self._column: value} if self._column else {}
        return AddAction(
            path,
            len(content),
            partition,
            int(time.time() * 1000),
            True,
            json.dumps({"numRecords": rows.num_rows}),
        )


def _repeating(rows: pa.Table) -> list[str]:
    """The columns whose values repeat, as the first of them tell.

    A dictionary makes these smaller. Of others it is given up after a third of the work, for larger files.
    """
    first = rows.slice(0, _SAMPLE)
    return [
        field.name
        for field, column in zip(first.schema, first.columns, strict=True)
        if not pa.types.is_nested(field.type) and 4 * len(column.unique()) <= len(column)
    ]


def _bounded(rows: pa.Table) -> list[str]:
    """The columns whose least and greatest value are worth telling: not those of texts in no order.

    By these a reader leaves out files that cannot have what it looks for. Texts in no order reach from A to Z in
    every file, and comparing them all takes a sixth of the time of writing.
    """
    first = rows.slice(0, _SAMPLE)
    return [
        field.name
        for field, column in zip(first.schema, first.columns, strict=True)
        if not pa.types.is_nested(field.type) and (_is_fixed(field.type) or pl.Series(column).is_sorted())
    ]


def _is_fixed(kind: pa.DataType) -> bool:
    """Whether its values have all the same width, and are compared as fast as numbers."""
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


def _part(batch: pa.RecordBatch, rows: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """A copy of some rows: a slice would keep the whole batch in memory until its partition is written."""
    if rows[-1] - rows[0] + 1 != len(rows):
        return batch.take(_numbers(rows))
    # A run of rows is copied as a whole, many times as fast; with one chunk only, it would not be copied.
    run = pa.Table.from_batches([batch.slice(int(rows[0]), len(rows)), batch.slice(0, 0)])
    return run.combine_chunks().to_batches()[0]


def _numbers(values: npt.NDArray[np.int64]) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])
