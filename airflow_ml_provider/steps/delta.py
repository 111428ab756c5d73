"""The log of a Delta table: creating a table, replacing its partitions in one commit, finding that commit."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, TableFeatures, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from airflow_ml_provider.contract.errors import ConfigError, DataError, TransientError
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.partitions import Partitions
from airflow_ml_provider.contract.store import Store, storage_failure
from airflow_ml_provider.contract.tables import Table

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext

WHOLE_TABLE = "*"
_NAIVE_TIMESTAMPS = "timestampNtz"
# Each try loses only to a commit of somebody else, so that this many writers at once always get through.
_MOST_COMMITS = 50


def storage_options(uri: str) -> dict[str, str]:
    """What delta-rs needs beyond the environment: on S3, commits by conditional put."""
    return {"aws_conditional_put": "etag"} if uri.startswith("s3") else {}


def find_table(name: str, uri: str) -> DeltaTable | None:
    """The table at its newest version; None if there is none."""
    try:
        return DeltaTable(uri, storage_options=storage_options(uri))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise storage_failure(f"open table {name!r} at", uri, error) from error


def find_or_create(target: Table, uri: str, schema: Schema) -> DeltaTable:
    """The table at its newest version, created empty if there is none.

    Version 0 never holds rows: two writers that both create the table with theirs do not see each other,
    and lose or double rows. Creation itself is an atomic create-if-absent of the first commit.
    """
    if found := find_table(target.name, uri):
        return found
    # Without the limit, delta-rs would create a table that is there by now once more, as version 1.
    once = CommitProperties(max_commit_retries=0)
    try:
        return DeltaTable.create(
            uri,
            schema,
            partition_by=_partition_by(target),
            storage_options=storage_options(uri),
            commit_properties=once,
        )
    except (DeltaError, OSError) as error:
        if found := find_table(target.name, uri):
            return found
        raise storage_failure(f"create table {target.name!r} at", uri, error) from error


def delta_schema(target: Table, rows: pa.Schema) -> Schema:
    """The rows' columns as Delta has them.

    :raises DataError: there is no partition column, or a column's type has no counterpart.
    """
    column = target.partition_by
    if column and column not in rows.names:
        raise DataError(
            f"the rows for table {target.name!r} have no partition column {column!r}; "
            f"they have {', '.join(rows.names)}",
            todo=f"add the column {column!r} (text, one value a partition) where the rows are made",
        )
    for field in rows:
        try:
            Schema.from_arrow(pa.schema([field]))
        except Exception as error:
            # delta-rs raises plain exceptions here.
            raise DataError(
                f"the rows do not fit table {target.name!r}: column {field.name!r} is {field.type}, "
                f"which Delta tables cannot hold",
                kept="the table is as it was",
                todo="convert it where the rows are made",
            ) from error
    return Schema.from_arrow(rows)


def arrow_schema(schema: Schema, rows: pa.Schema) -> pa.Schema:
    """A table's columns as Arrow has them; texts that the rows have as codes of a dictionary stay so.

    Columns of few texts are written many times faster that way.
    """
    codes = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        field.with_type(codes) if pa.types.is_dictionary(rows.field(field.name).type) else field
        for field in pa.schema(schema.to_arrow())
    )


def check_fit(target: Table, table: DeltaTable, schema: Schema, *, whole: bool) -> None:
    """Whether rows of this schema can be published to a table, perhaps with columns that are new to it.

    A publication of the whole table may have any columns.

    :raises DataError: a column has another type in the table.
    :raises ConfigError: the table is partitioned otherwise.
    """
    there = {field.name: field.type for field in table.schema().fields}
    partition_by = table.metadata().partition_columns
    if partition_by != _partition_by(target):
        raise ConfigError(
            f"table {target.name!r} is partitioned by {', '.join(partition_by) or 'nothing'}, "
            f"and was to be published partitioned by {target.partition_by or 'nothing'}",
            todo="declare it as it is, or publish under another name",
        )
    if not whole:
        for field in schema.fields:
            if field.name in there and there[field.name] != field.type:
                raise DataError(
                    f"the rows do not fit table {target.name!r}: column {field.name!r} is "
                    f"{_type_name(field.type)} in the rows and {_type_name(there[field.name])} in the table",
                    kept="the table is as it was",
                    todo="make the rows' type the table's, or publish under another table name",
                )


def fit(target: Table, table: DeltaTable, schema: Schema, *, whole: bool) -> None:
    """Make a table ready for rows of this schema, without touching any of its own: new columns are added.

    :raises MLError: as :func:`check_fit`.
    """
    check_fit(target, table, schema, whole=whole)
    there = {field.name for field in table.schema().fields}
    naive = any(_type_name(field.type) == "timestamp_ntz" for field in schema.fields)
    new = [field for field in schema.fields if field.name not in there]
    try:
        if naive and _NAIVE_TIMESTAMPS not in (table.protocol().writer_features or ()):
            table.alter.add_feature(TableFeatures.TimestampWithoutTimezone, True)
        if new and not whole:
            table.alter.add_columns(new)
    except (DeltaError, OSError) as error:
        raise storage_failure(f"add columns to table {target.name!r} at", table.table_uri, error) from error


def replace(
    step: StepContext,
    target: Table,
    table: DeltaTable,
    files: Sequence[AddAction],
    *,
    schema: Schema,
    partitions: Partitions | None,
    content: str,
) -> None:
    """Commit files in the place of all that partitions hold, or of the whole table.

    delta-rs takes any two commits that remove files for a conflict. Only one to the same partitions is: for
    others the files, which are written, are committed to the newer version.

    :param table: the table as it was when the files were begun.
    :raises TransientError: another writer published the same partitions since then.
    """
    before = _holdings(table, target, partitions)
    for attempt in range(_MOST_COMMITS):
        mark = mark_of(table, partitions, content)
        properties = CommitProperties(
            custom_metadata={
                "step_key": step.key,
                "fingerprint": step.spec.fingerprint,
                "partitions": partitions.label if partitions else WHOLE_TABLE,
                "content": content,
            },
            app_transactions=[Transaction(name, mark) for name in applications(partitions)],
        )
        try:
            _commit(table, target, files, schema, partitions, properties)
            return
        except CommitFailedError as error:
            newer = find_table(target.name, table.table_uri)
            last = attempt == _MOST_COMMITS - 1
            if newer is None or partitions is None or last or _holdings(newer, target, partitions) != before:
                raise TransientError(
                    f"another writer published the same partitions of {target.name!r} meanwhile: {error}",
                    kept="the table holds the other writer's rows, whole",
                    retry="a retry replaces the partitions again",
                ) from error
            fit(target, newer, schema, whole=False)
            table = newer
            time.sleep(random.uniform(0.02, 0.2))
        except (DeltaError, OSError) as error:
            raise storage_failure(f"write table {target.name!r} at", table.table_uri, error) from error


def applications(partitions: Partitions | None) -> list[str]:
    """The names under which the log keeps what was published: one a partition."""
    return [f"partition:{value}" for value in partitions.values] if partitions else [f"table:{WHOLE_TABLE}"]


def mark_of(table: DeltaTable, partitions: Partitions | None, content: str) -> int:
    """The content digest as the 63-bit number that a Delta transaction can hold.

    A partition's number depends on the last publication of the whole table too, which replaced it.
    """
    whole = "" if partitions is None else str(table.transaction_version(f"table:{WHOLE_TABLE}"))
    return int(digest(content, whole)[:15], 16)


def commit_info(store: Store, table: str, version: int) -> dict[str, Any]:
    """What a commit says about itself; from the log, as delta-rs numbers its history wrongly while others
    commit."""
    content = store.read(f"tables/{table}/_delta_log/{version:020}.json") or b""
    for line in content.splitlines():
        if b'"commitInfo"' in line[:20]:
            return dict(json.loads(line)["commitInfo"])
    return {}


def version_of(step: StepContext, target: Table, content: str) -> int:
    """The version that this step's commit made; the newest one may already be another writer's."""
    newest = step.store.latest_version(target.name) or 0
    for version in range(newest, 0, -1):
        commit = commit_info(step.store, target.name, version)
        if commit.get("step_key") == step.key and commit.get("content") == content:
            return version
    return newest


def _commit(
    table: DeltaTable,
    target: Table,
    files: Sequence[AddAction],
    schema: Schema,
    partitions: Partitions | None,
    properties: CommitProperties,
) -> None:
    by = _partition_by(target)
    if partitions is None:
        table.create_write_transaction(list(files), "overwrite", schema, by, commit_properties=properties)
        return
    now = int(time.time() * 1000)
    removed = [
        # The log has paths escaped, and delta-rs escapes those it is given.
        RemoveAction(unquote(path), True, now, size, {str(target.partition_by): value})
        for path, (size, value) in _files_of(table, target, partitions).items()
    ]
    actions: list[AddAction | RemoveAction] = [*files, *removed]
    table.create_write_transaction(actions, "append", table.schema(), by, commit_properties=properties)


def _holdings(table: DeltaTable, target: Table, partitions: Partitions | None) -> object:
    """What the partitions hold: equal before and after means that nobody published them in between."""
    marks = [table.transaction_version(name) for name in [*applications(None), *applications(partitions)]]
    return marks, _files_of(table, target, partitions) if partitions else table.version()


def _files_of(table: DeltaTable, target: Table, partitions: Partitions) -> dict[str, tuple[int, str]]:
    """The partitions' files: path, as the log has it, to size and partition."""
    files = pa.table(table.get_add_actions(flatten=True))
    if not files.num_rows:
        return {}
    columns = (
        files.column(name).to_pylist() for name in ("path", "size_bytes", f"partition.{target.partition_by}")
    )
    wanted = set(partitions.values)
    return {
        path: (size, str(value)) for path, size, value in zip(*columns, strict=True) if str(value) in wanted
    }


def _partition_by(target: Table) -> list[str]:
    return [target.partition_by] if target.partition_by else []


def _type_name(kind: object) -> str:
    return str(getattr(kind, "type", kind))
