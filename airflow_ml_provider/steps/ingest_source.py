"""What an ingest step reads: its files, and what they are and how they are read as one digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from airflow_ml_provider.contract.code import code_digest, split_entry_point
from airflow_ml_provider.contract.errors import ConfigError, UserCodeError
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.schema import Schema
from airflow_ml_provider.steps import functions
from airflow_ml_provider.steps.context import Skipped
from airflow_ml_provider.steps.sources import SourceFile, content_digest, find_files
from airflow_ml_provider.steps.suites import suite_document

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import IngestArguments
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.context import StepContext


@dataclass(frozen=True)
class Found:
    """The source as it is now.

    :param content: digest of everything the rows depend on: the bytes, the schema, how they are read, the
        user's code.
    """

    partitions: Partitions | None
    schema: Schema
    files: Sequence[SourceFile]
    content: str


def find(step: StepContext, arguments: IngestArguments) -> Found:
    """Look at the source; local files are read for the digest of their bytes.

    :raises Skipped: there is no file.
    :raises MLError: arguments contradict each other, or a file that was named is not there.
    """
    partitions = step.partitions(arguments.partitions)
    target = arguments.publish
    if partitions is not None and target.partition_by is None:
        raise ConfigError(
            f"partitions {partitions.label!r} cannot be ingested to {target.name!r}: it is not partitioned",
            todo=f'declare Table("{target.name}", partition_by=...), or leave partitions= out',
        )
    if arguments.suite and arguments.shards > 1:
        raise ConfigError(
            f"shards={arguments.shards} and suite= do not go together: what shards write is not audited before "
            "it is published",
            todo="leave one of them out; a ValidateOperator can check the table afterwards",
        )
    schema = schema_of(step, arguments.schema)
    files = files_of(arguments, partitions)
    return Found(partitions, schema, files, _content(step, arguments, schema, files))


def schema_of(step: StepContext, given: Schema | str) -> Schema:
    """The declared columns."""
    if isinstance(given, Schema):
        return given
    found = functions.user_code(step, given)
    if not isinstance(found, Schema):
        raise UserCodeError(
            f"{given} is {type(found).__name__}, not a Schema",
            todo="declare it with airflow_ml_provider.Schema and .Column",
        )
    return found


def files_of(arguments: IngestArguments, partitions: Partitions | None) -> list[SourceFile]:
    """The files of the source, in order."""
    try:
        return find_files(arguments.source, arguments.format)
    except Skipped as reason:
        wanted = f", for partitions {partitions.label}" if partitions else ""
        raise Skipped(f"{reason}{wanted}") from None


def _content(
    step: StepContext, arguments: IngestArguments, schema: Schema, files: Sequence[SourceFile]
) -> str:
    entry_points = [entry for entry in (arguments.transform, arguments.suite) if entry and ":" in entry]
    modules = [split_entry_point(entry)[0] for entry in entry_points]
    code = (step.spec.code.digest or code_digest(modules, step.spec.code.roots)) if modules else ""
    return digest(
        content_digest(files),
        msgspec.json.encode(schema, order="deterministic"),
        arguments.format,
        arguments.delimiter,
        arguments.transform or "",
        (arguments.suite and suite_document(step, arguments.suite)) or arguments.suite or "",
        code,
    )
