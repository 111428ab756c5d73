"""What shards read and write: runs of a table's files, and files that one commit makes rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
from deltalake import Schema
from deltalake.transaction import AddAction

from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.shards import Shards
from airflow_ml_provider.steps import delta, sharding, tables

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import Publication
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.steps.context import StepContext

_File = TypeVar("_File")


def cut(sizes: Mapping[_File, int], shards: int) -> list[list[_File]]:
    """Files in at most so many runs, in their order, each of about the same number of bytes."""
    whole, before = max(1, sum(sizes.values())), 0
    runs: dict[int, list[_File]] = {}
    for path, size in sizes.items():
        # By the middle of a file, so that one on a border goes where most of it lies.
        runs.setdefault(min(shards - 1, shards * (2 * before + size) // (2 * whole)), []).append(path)
        before += size
    return [runs[number] for number in sorted(runs)]


def write(
    step: StepContext, target: Table, batches: pa.RecordBatchReader, partitions: Partitions | None
) -> dict[str, Any]:
    """Write a shard's rows; gives a document that refers to them."""
    schema = delta.delta_schema(target, batches.schema)
    counted = tables.Counter(batches, target, partitions)
    reader = counted.reader()
    files = tables.write_files(step, target, reader.cast(delta.arrow_schema(schema, reader.schema)))
    return {
        "rows": counted.rows,
        "schema": schema.to_json(),
        "files": [document_of(file) for file in files],
    }


def document_of(file: AddAction) -> dict[str, Any]:
    """A file as a document."""
    return {
        "path": file.path,
        "size": file.size,
        "partition": dict(file.partition_values),
        "modified": file.modification_time,
        "stats": file.stats,
    }


def file_of(document: Mapping[str, Any]) -> AddAction:
    """The file that a document refers to."""
    return AddAction(
        document["path"],
        document["size"],
        document["partition"],
        document["modified"],
        True,
        document["stats"],
    )


def nothing() -> dict[str, Any]:
    """What a shard without rows gives."""
    return {"rows": 0, "files": []}


def publish(
    step: StepContext,
    arguments: Any,
    target: Table,
    given: Sequence[Mapping[str, Any]],
    partitions: Partitions | None,
    content: str,
) -> Publication:
    """Make the rows of all shards those of the partitions, in one commit.

    :param given: what :func:`write` gave, shard by shard.
    :raises InfrastructureError: shards wrote rows of several schemas, or what they wrote is gone.
    """
    schemas = {each["schema"] for each in given if each["files"]}
    if len(schemas) > 1:
        raise InfrastructureError(
            f"the shards wrote rows of {len(schemas)} schemas for table {target.name!r}",
            kept="the table is as it was",
            todo="run the step on one version of its image and code",
        )
    numbered = [(number, file) for number, each in enumerate(given) for file in each["files"]]
    sharding.check_there(
        step, target.name, [file["path"] for _, file in numbered],
        Shards(step.store, step.spec, arguments.shards), [number for number, _ in numbered],
    )  # fmt: skip
    return tables.publish_files(
        step,
        target,
        [file_of(file) for _, file in numbered],
        schema=Schema.from_json(next(iter(schemas))),
        rows=sum(each["rows"] for each in given),
        partitions=partitions,
        content=content,
    )
