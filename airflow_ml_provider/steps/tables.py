"""Delta tables: whole partitions published in one commit.

A publication names its content by a digest, kept in the commit as a Delta application transaction per
partition. So a step that died after its commit finds on its next try that it has been done, a second writer
of the same content changes nothing, and the same bytes are never published twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.transaction import AddAction

from airflow_ml_provider.contract.documents import Publication
from airflow_ml_provider.contract.errors import ConfigError, DataError, TransientError
from airflow_ml_provider.contract.partitions import Partitions
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import delta
from airflow_ml_provider.steps.audited_rows import audited
from airflow_ml_provider.steps.pinned_tables import PinnedTable
from airflow_ml_provider.steps.table_files import PartitionFiles

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext


def already_published(
    store: Store, target: Table, partitions: Partitions | None, content: str
) -> Publication | None:
    """The publication of exactly this content, if it is what the table's partitions hold now."""
    uri = store.table_uri(target.name)
    found = delta.find_table(target.name, uri)
    if found is None:
        return None
    if partitions is None:
        # A partition published later leaves the whole table's transaction as it was: ask the last commit.
        last = delta.commit_info(store, target.name, found.version())
        done = last.get("content") == content and last.get("partitions") == delta.WHOLE_TABLE
    else:
        mark = delta.mark_of(found, partitions, content)
        done = all(found.transaction_version(name) == mark for name in delta.applications(partitions))
    return PinnedTable(target, uri, found).published(partitions) if done else None


def publish(
    step: StepContext,
    target: Table,
    batches: pa.RecordBatchReader,
    *,
    partitions: Partitions | None,
    content: str,
    suite: str | None = None,
) -> Publication:
    """Replace partitions of a table (or all of it) by new rows, in one commit: seen whole or not at all.

    :param batches: the rows; read once, batch by batch, so that memory does not grow with the table. An
        exception raised while they are read leaves the table as it was.
    :param partitions: the partitions replaced; every row must be in one of them. None replaces the table.
    :param content: digest of what the rows are made from; the same content twice is published once.
    :param suite: a Great Expectations suite; rows that fail it are kept aside and never visible.
    :raises DataError: the rows do not fit the table, or fail the suite.
    :raises TransientError: another writer was in the way.
    """
    if done := already_published(step.store, target, partitions, content):
        step.log.info("already published: %s, version %s, from the same content", target.name, done.version)
        return done
    check_target(target, partitions)
    schema = delta.delta_schema(target, batches.schema)
    counted = Counter(batches, target, partitions)
    reader = counted.reader()
    if suite:
        reader = audited(step, target, reader.cast(pa.schema(schema.to_arrow())), suite)
    uri, whole = step.store.table_uri(target.name), partitions is None
    table = delta.find_table(target.name, uri)
    if table is not None:
        delta.fit(target, table, schema, whole=whole)
    written = write_files(step, target, reader.cast(delta.arrow_schema(schema, reader.schema)))
    published = _commit(step, target, table, written, schema, counted.rows, partitions, content)
    if suite:
        remove(step.store, step.store.aside_uri(target.name, step.key))
    return published


def check_target(target: Table, partitions: Partitions | None) -> None:
    """
    :raises ConfigError: partitions are to be replaced in a table that has none.
    """
    if partitions is not None and target.partition_by is None:
        raise ConfigError(
            f"{partitions.label!r} cannot be published to {target.name!r}: it has no partition column",
            todo=f'declare it: Table("{target.name}", partition_by="ds")',
        )


def check_partitions(target: Table, found: set[str], partitions: Partitions) -> None:
    """
    :raises DataError: there are rows in partitions that are not to be replaced.
    """
    if outside := sorted(found - set(partitions.values)):
        raise DataError(
            f"rows for table {target.name!r} are in partitions that were not asked for: "
            f"{target.partition_by} = {', '.join(outside[:5])}",
            kept="the table is as it was",
        )


def publish_files(
    step: StepContext,
    target: Table,
    files: Sequence[AddAction],
    *,
    schema: Schema,
    rows: int,
    partitions: Partitions | None,
    content: str,
) -> Publication:
    """As :func:`publish`, of rows that :func:`write_files` has written, perhaps in other processes."""
    if done := already_published(step.store, target, partitions, content):
        return done
    table = delta.find_table(target.name, step.store.table_uri(target.name))
    if table is not None:
        delta.fit(target, table, schema, whole=partitions is None)
    return _commit(step, target, table, files, schema, rows, partitions, content)


def write_files(step: StepContext, target: Table, batches: pa.RecordBatchReader) -> list[AddAction]:
    """Write rows to files of a table which nobody sees before they are committed."""

    def put(path: str, content: bytes) -> None:
        step.store.write(f"tables/{target.name}/{path}", content)

    return PartitionFiles(put, target.partition_by).write(batches)


def _commit(
    step: StepContext,
    target: Table,
    table: DeltaTable | None,
    files: Sequence[AddAction],
    schema: Schema,
    rows: int,
    partitions: Partitions | None,
    content: str,
) -> Publication:
    uri = step.store.table_uri(target.name)
    if table is None:
        # Not before the rows are there: rows that fail leave no empty table behind.
        table = delta.find_or_create(target, uri, schema)
        delta.fit(target, table, schema, whole=partitions is None)
    try:
        delta.replace(step, target, table, files, schema=schema, partitions=partitions, content=content)
    except TransientError:
        # The writer in the way may have been another try of this very step, and have done the work.
        if done := already_published(step.store, target, partitions, content):
            return done
        raise
    version = delta.version_of(step, target, content)
    label = partitions.label if partitions else ""
    step.log.info("published %s version %s: %s rows%s", target.name, version, f"{rows:,}",
                  f" in {target.partition_by}={label}" if label else "")  # fmt: skip
    return Publication(target.name, version, uri, target.partition_by, label, rows, changed=True)


def remove(store: Store, uri: str) -> None:
    """Remove a table that is not published: what was kept aside and is no longer needed."""
    for path in list(store.paths(store.relative(uri))):
        store.delete(path)


def batches_of(frame: pl.LazyFrame, rows: int = 100_000) -> pa.RecordBatchReader:
    """A lazy frame as a stream of Arrow batches, computed as they are read."""
    schema = frame.limit(0).collect().to_arrow(compat_level=pl.CompatLevel.oldest()).schema

    def stream() -> Iterator[pa.RecordBatch]:
        for chunk in frame.collect_batches(chunk_size=rows, maintain_order=True):
            yield from chunk.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, stream())


class Counter:
    """Counts rows on their way to the table, and refuses one that is in none of the partitions."""

    def __init__(self, batches: pa.RecordBatchReader, target: Table, partitions: Partitions | None) -> None:
        self.rows = 0
        self._batches = batches
        self._target = target
        self._partitions = partitions

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._batches.schema, self._stream())

    def _stream(self) -> Iterator[pa.RecordBatch]:
        column = self._target.partition_by
        for batch in self._batches:
            if self._partitions is not None and column:
                found = {str(value) for value in batch.column(column).unique().to_pylist()}
                check_partitions(self._target, found, self._partitions)
            self.rows += batch.num_rows
            yield batch
