"""Delta tables: read at a pinned version, publish whole partitions in one commit.

A publication names its content by a digest, kept in the commit as a Delta application transaction per
partition. So a step that died after its commit finds on its next try that it has been done, a second writer
of the same content changes nothing, and the same bytes are never published twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from airflow_ml_provider.contract.documents import Publication
from airflow_ml_provider.contract.errors import ConfigError, DataError, MLError, TransientError
from airflow_ml_provider.contract.partitions import Partitions
from airflow_ml_provider.contract.store import Store, is_local
from airflow_ml_provider.contract.tables import Table

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext

_WHOLE_TABLE = "*"


def storage_options(uri: str) -> dict[str, str]:
    """What delta-rs needs beyond the environment: on S3, commits by conditional put."""
    return {"aws_conditional_put": "etag"} if uri.startswith("s3") else {}


@dataclass(frozen=True)
class PinnedTable:
    """A table at one version."""

    table: Table
    uri: str
    delta: DeltaTable

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def version(self) -> int:
        return self.delta.version()

    @property
    def partition_by(self) -> str | None:
        columns = self.delta.metadata().partition_columns
        return columns[0] if columns else None

    @property
    def columns(self) -> list[str]:
        return [field.name for field in self.delta.schema().fields]

    def lazy(self, partitions: Partitions | None = None) -> pl.LazyFrame:
        """The rows, read when collected; only the files of the partitions are opened."""
        frame = pl.scan_delta(self.delta)
        if partitions is None:
            return frame
        column = pl.col(self._partition_column(partitions))
        if partitions.is_range:
            return frame.filter(
                column.is_between(pl.lit(partitions.values[0]), pl.lit(partitions.values[-1]))
            )
        return frame.filter(column.is_in(list(partitions.values)))

    def files(self, partitions: Partitions | None = None) -> list[str]:
        """URIs of the Parquet files of the partitions."""
        if partitions is None:
            return self.delta.file_uris()
        return self.delta.file_uris(partition_filters=partitions.filters(self._partition_column(partitions)))

    def published(self, partitions: Partitions | None = None) -> Publication:
        """This version as a reference for downstream steps."""
        rows = self.lazy(partitions).select(pl.len()).collect().item()
        label = partitions.label if partitions else ""
        return Publication(self.name, self.version, self.uri, self.partition_by, label, rows, changed=False)

    def _partition_column(self, partitions: Partitions) -> str:
        column = self.partition_by
        if column is None:
            raise ConfigError(
                f"partitions {partitions.label!r} of {self.name!r} were asked for; it is not partitioned",
                todo="leave partitions= out, or publish the table with a partition column",
            )
        return column


def open_table(store: Store, table: Table) -> PinnedTable:
    """Open a table at its pinned version, or the newest.

    :raises DataError: there is no such table, or the version is gone (vacuumed) or not there yet.
    """
    uri = store.table_uri(table.name)
    try:
        delta = DeltaTable(uri, version=table.version, storage_options=storage_options(uri))
    except TableNotFoundError:
        raise DataError(
            f"there is no table {table.name!r} at {uri}",
            kept="nothing was read or written",
            todo="run the step that publishes it first",
        ) from None
    except DeltaError as error:
        if table.version is not None:
            raise DataError(
                f"table {table.name!r} has no readable version {table.version}: {error}"
            ) from error
        raise TransientError(f"table {table.name!r} at {uri} could not be opened: {error}") from error
    except (OSError, PermissionError) as error:
        raise storage_failure(f"open table {table.name!r}", uri, error) from error
    return PinnedTable(table, uri, delta)


def already_published(
    store: Store, target: Table, partitions: Partitions | None, content: str
) -> Publication | None:
    """The publication of exactly this content, if it is what the table's partitions hold now."""
    uri = store.table_uri(target.name)
    try:
        delta = DeltaTable(uri, storage_options=storage_options(uri))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise storage_failure(f"open table {target.name!r}", uri, error) from error
    if partitions is None:
        # A partition published later leaves the whole table's transaction as it was: ask the last commit.
        last = _commit_info(store, target.name, delta.version())
        done = last.get("content") == content and last.get("partitions") == _WHOLE_TABLE
    else:
        mark = _mark(delta, partitions, content)
        done = all(delta.transaction_version(app) == mark for app in _applications(partitions))
    return PinnedTable(target, uri, delta).published(partitions) if done else None


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
    if partitions is not None and target.partition_by is None:
        raise ConfigError(
            f"{partitions.label!r} cannot be published to {target.name!r}: it has no partition column",
            todo=f'declare it: Table("{target.name}", partition_by="ds")',
        )
    aside = None
    if suite:
        from airflow_ml_provider.steps.validate import audit

        aside = step.store.aside_uri(target.name, step.key)
        _write(target, aside, batches)
        audit(step, suite, target, aside)
        staged = DeltaTable(aside, storage_options=storage_options(aside))
        batches = pa.RecordBatchReader.from_stream(staged.to_pyarrow_dataset().scanner().to_reader())
    uri = step.store.table_uri(target.name)
    counted = _Counter(batches, target, partitions)
    reader = counted.reader()
    delta = _created(target, uri, reader.schema)
    mark = _mark(delta, partitions, content)
    commit = CommitProperties(
        custom_metadata={
            "step_key": step.key,
            "fingerprint": step.spec.fingerprint,
            "partitions": partitions.label if partitions else _WHOLE_TABLE,
            "content": content,
        },
        app_transactions=[Transaction(app, mark) for app in _applications(partitions)],
    )
    predicate = partitions.predicate(target.partition_by) if partitions and target.partition_by else None
    if predicate:
        _check_types(target, delta, reader.schema)
    try:
        _write(target, uri, reader, predicate=predicate, commit=commit)
    except TransientError:
        # The writer in the way may have been another try of this very step, and have done the work.
        if done := already_published(step.store, target, partitions, content):
            return done
        raise
    if aside:
        remove(step.store, aside)
    version = _version_of(step, target, content)
    label = partitions.label if partitions else ""
    step.log.info("published %s version %s: %s rows%s", target.name, version, f"{counted.rows:,}",
                  f" in {target.partition_by}={label}" if label else "")  # fmt: skip
    return Publication(target.name, version, uri, target.partition_by, label, counted.rows, changed=True)


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


def storage_failure(doing: str, uri: str, error: BaseException) -> MLError:
    """What an error of the storage means: no permission needs a person, all else is worth a retry."""
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if any(word in str(error).lower() for word in ("permission", "denied", "forbidden")):
        where = "folder" if is_local(uri) else "bucket"
        return ConfigError(
            f"the store refuses to {doing} at {uri}: {said}",
            todo=f"give the identity this step runs as read and write access to the {where}",
        )
    return TransientError(f"could not {doing} at {uri}: {said}")


class _Counter:
    """Counts rows on their way to the table, and refuses one that is in none of the partitions."""

    def __init__(self, batches: pa.RecordBatchReader, target: Table, partitions: Partitions | None) -> None:
        self.rows = 0
        self._batches = batches
        self._target = target
        self._allowed = set(partitions.values) if partitions else None
        self.failure: BaseException | None = None

    def reader(self) -> pa.RecordBatchReader:
        schema = self._batches.schema
        column = self._target.partition_by
        if column and column not in schema.names:
            raise DataError(
                f"the rows for table {self._target.name!r} have no partition column {column!r}; "
                f"they have {', '.join(schema.names)}",
                todo=f"add the column {column!r} (text, one value a partition) where the rows are made",
            )
        return pa.RecordBatchReader.from_batches(schema, self._stream())

    def _stream(self) -> Iterator[pa.RecordBatch]:
        column = self._target.partition_by
        for batch in self._batches:
            if self._allowed is not None and column:
                found = set(batch.column(column).unique().to_pylist())
                if outside := sorted(str(v) for v in found - self._allowed):
                    raise DataError(
                        f"rows for table {self._target.name!r} are in partitions that were not asked for: "
                        f"{column} = {', '.join(outside[:5])}",
                        kept="the table is as it was",
                    )
            self.rows += batch.num_rows
            yield batch


def _write(
    target: Table,
    uri: str,
    batches: pa.RecordBatchReader,
    *,
    predicate: str | None = None,
    commit: CommitProperties | None = None,
) -> None:
    # delta-rs reports an exception of the stream as a text; the exception itself is what people need.
    raised: list[BaseException] = []

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:
            raised.append(error)
            raise

    try:
        write_deltalake(
            uri,
            pa.RecordBatchReader.from_batches(batches.schema, watched()),
            partition_by=[target.partition_by] if target.partition_by and commit is not None else None,
            mode="overwrite",
            schema_mode="merge" if predicate else "overwrite",
            predicate=predicate,
            storage_options=storage_options(uri),
            commit_properties=commit,
        )
    except CommitFailedError as error:
        raise TransientError(
            f"another writer published the same partitions of {target.name!r} meanwhile: {error}",
            kept="the table holds the other writer's rows, whole",
            retry="a retry replaces the partitions again",
        ) from error
    except Exception as error:
        if raised:
            raise raised[0] from None
        if isinstance(error, MLError):
            raise
        raise storage_failure(f"write table {target.name!r}", uri, error) from error


def _check_types(target: Table, delta: DeltaTable, schema: pa.Schema) -> None:
    # Left to itself, delta-rs casts what it can and fails late and in its own words on what it cannot.
    there = {field.name: field.type for field in delta.schema().fields}
    for field in Schema.from_arrow(schema).fields:
        if field.name in there and there[field.name] != field.type:
            raise DataError(
                f"the rows do not fit table {target.name!r}: column {field.name!r} is "
                f"{_type_name(field.type)} in the rows and {_type_name(there[field.name])} in the table",
                kept="the table is as it was",
                todo="make the rows' type the table's, or publish under another table name",
            )


def _type_name(kind: object) -> str:
    return str(getattr(kind, "type", kind))


def _created(target: Table, uri: str, schema: pa.Schema) -> DeltaTable:
    """The table, created empty if there is none.

    Version 0 never holds rows: two writers that both create the table with theirs do not see each other,
    and lose or double rows. Creation itself is an atomic create-if-absent of the first commit.
    """
    options = storage_options(uri)
    try:
        return DeltaTable(uri, storage_options=options)
    except TableNotFoundError:
        pass
    except (DeltaError, OSError) as error:
        raise storage_failure(f"open table {target.name!r}", uri, error) from error
    partition_by = [target.partition_by] if target.partition_by else None
    try:
        # Without the limit, delta-rs would create a table that is there by now once more, as version 1.
        once = CommitProperties(max_commit_retries=0)
        return DeltaTable.create(
            uri, schema, partition_by=partition_by, storage_options=options, commit_properties=once
        )
    except (DeltaError, OSError) as error:
        try:
            return DeltaTable(uri, storage_options=options)
        except (DeltaError, OSError):
            raise storage_failure(f"create table {target.name!r}", uri, error) from error


def _version_of(step: StepContext, target: Table, content: str) -> int:
    """The version that this step's commit made; the newest one may already be another writer's."""
    newest = step.store.latest_version(target.name) or 0
    for version in range(newest, 0, -1):
        commit = _commit_info(step.store, target.name, version)
        if commit.get("step_key") == step.key and commit.get("content") == content:
            return version
    return newest


def _commit_info(store: Store, table: str, version: int) -> dict[str, Any]:
    # From the log itself: delta-rs numbers its history wrongly while others commit.
    content = store.read(f"tables/{table}/_delta_log/{version:020}.json") or b""
    for line in content.splitlines():
        if b'"commitInfo"' in line[:20]:
            return dict(json.loads(line)["commitInfo"])
    return {}


def _applications(partitions: Partitions | None) -> Iterable[str]:
    return [f"partition:{value}" for value in partitions.values] if partitions else [f"table:{_WHOLE_TABLE}"]


def _mark(delta: DeltaTable, partitions: Partitions | None, content: str) -> int:
    """The content digest as the 63-bit number that a Delta transaction can hold.

    A partition's number depends on the last publication of the whole table too, which replaced it.
    """
    from airflow_ml_provider.contract.identity import digest

    whole = "" if partitions is None else str(delta.transaction_version(f"table:{_WHOLE_TABLE}"))
    return int(digest(content, whole)[:15], 16)
