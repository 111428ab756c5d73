"""The rows of a table, batch by batch, in memory that neither files nor their row groups make grow.

Polars decodes whole row groups, several ahead, of up to a million rows each. Here a file is decoded page by
page, a batch ahead of what is worked on, whatever its row groups are.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.parquet as pq

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.store import is_local, local_path
from airflow_ml_provider.steps.threads import ahead

if TYPE_CHECKING:
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.pinned_tables import PinnedTable

# Of each column, that is read at once.
_BUFFER_BYTES = 1 << 20
# Features of tables whose files hold their rows as they are; others are read by Polars.
_PLAIN = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}


def batches(
    step: StepContext, table: PinnedTable, partitions: Partitions | None, columns: Sequence[str], rows: int
) -> Iterator[pl.DataFrame]:
    """The rows of some partitions, file by file in the order of their paths; all batches but the last are of
    one size.

    A table in object storage is read over the step's local disk, which holds one of its files at a time.

    :param columns: of the table.
    :param rows: of a batch.
    :raises DataError: a file that the table's version names is gone.
    """
    if not is_plain(table):
        yield from (
            table.lazy(partitions).select(columns).collect_batches(chunk_size=rows, maintain_order=True)
        )
        return
    yield from ahead(_even(_of_files(step, table, partitions, columns, rows), rows), most=1)


def is_plain(table: PinnedTable) -> bool:
    """Whether the files of a table are all below it, and hold its rows as they are."""
    protocol = table.delta.protocol()
    if protocol.min_reader_version > 1 and not set(protocol.reader_features or ["columnMapping"]) <= _PLAIN:
        return False
    root = str(local_path(table.uri)) if is_local(table.uri) else table.uri
    return all(uri.startswith(root) for uri in table.delta.file_uris())


def _of_files(
    step: StepContext, table: PinnedTable, partitions: Partitions | None, columns: Sequence[str], rows: int
) -> Iterator[pl.DataFrame]:
    schema = table.lazy().select(columns).collect_schema()
    by = table.partition_by
    for path, value in table.values(partitions).items():
        constant = {} if by is None else {by: value}
        local = _local(step, table, path)
        if not local.exists():
            raise DataError(
                f"a file of table {table.name!r}, version {table.version}, is gone: {path}",
                kept="nothing was published",
                todo="read a newer version; a vacuum keeps the files of versions that are days old at most",
            )
        try:
            for frame in _of_file(local, schema, rows):
                own = [_column(frame, name, dtype, constant) for name, dtype in schema.items()]
                yield frame.with_columns(own).select(schema.names())
        finally:
            if not is_local(table.uri):
                local.unlink(missing_ok=True)


def _of_file(path: Path, schema: pl.Schema, rows: int) -> Iterator[pl.DataFrame]:
    with pq.ParquetFile(
        path, buffer_size=_BUFFER_BYTES, pre_buffer=False, coerce_int96_timestamp_unit="us"
    ) as file:
        known = file.schema_arrow.names
        # Without any of the columns it takes another one to tell how many rows there are.
        there = [name for name in schema if name in known] or known[:1]
        # Decoding takes a fraction of what is done with the rows: the other threads are for that.
        for batch in file.iter_batches(rows, columns=there, use_threads=False):
            if batch.num_rows:
                # Column by column: as one, those that are kept for writing would keep the others in memory.
                yield pl.DataFrame(
                    [
                        pl.Series(name, column)
                        for name, column in zip(batch.schema.names, batch.columns, strict=True)
                    ]
                )


def _column(frame: pl.DataFrame, name: str, dtype: pl.DataType, constant: dict[str, Any]) -> pl.Expr:
    """A column of a file as the table has it; one that came to the table later is missing in it."""
    if name in constant:
        return pl.lit(constant[name]).cast(dtype).alias(name)
    return pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype).alias(name)


def _local(step: StepContext, table: PinnedTable, path: str) -> Path:
    """A file of the table as a local one, if it is there."""
    if is_local(table.uri):
        return local_path(table.uri) / path
    local = step.scratch / f"rows-{path.rpartition('/')[2]}"
    if not step.store.read_file(f"tables/{table.name}/{path}", local):
        local.unlink(missing_ok=True)
    return local


def _even(frames: Iterable[pl.DataFrame], rows: int) -> Generator[pl.DataFrame, None, None]:
    """Frames of any heights as frames of one height, but for the last."""
    waiting: list[pl.DataFrame] = []
    held = 0
    for frame in frames:
        waiting.append(frame)
        held += frame.height
        if held < rows:
            continue
        whole = waiting[0] if len(waiting) == 1 else pl.concat(waiting)
        for start in range(0, held - rows + 1, rows):
            yield whole.slice(start, rows)
        held %= rows
        waiting = [whole.slice(whole.height - held)] if held else []
    if waiting:
        yield pl.concat(waiting)
