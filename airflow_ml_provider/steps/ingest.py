"""Ingest: raw files to partitions of a table, out of core.

Rows are read in blocks, typed, given to the user's function and written to files of the table, which one
commit publishes when bad rows and duplicates are out. Memory holds some blocks, never a file; local disk holds
the keys, and the rows where a suite is to audit them first.

A folder or a glob without a file, and a source without a row for the partitions, is no failure: the step is
skipped, since a scheduled run may come before its data. A single file that was named and is not there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from airflow_ml_provider.contract.arguments import IngestArguments
from airflow_ml_provider.contract.code import code_digest, split_entry_point
from airflow_ml_provider.contract.documents import Publication
from airflow_ml_provider.contract.errors import ConfigError, DataError, UserCodeError
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.schema import Schema
from airflow_ml_provider.steps import functions, tables
from airflow_ml_provider.steps.context import Outcome, Skipped
from airflow_ml_provider.steps.data_docs import DATA_DOCS
from airflow_ml_provider.steps.quarantine import Quarantine, kept_of
from airflow_ml_provider.steps.sources import SourceFile, content_digest, find_files
from airflow_ml_provider.steps.staging import Source, Stage
from airflow_ml_provider.steps.suites import suite_document
from airflow_ml_provider.steps.transforming import Transform

if TYPE_CHECKING:
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.context import StepContext


def run(step: StepContext, arguments: IngestArguments) -> Outcome:
    """Publish the source's rows of the partitions; the same bytes again change nothing.

    Bad rows are kept in ``{table}_quarantine``, published before the table is, and also when there are more
    than ``max_bad_rows`` of them and the step fails.
    """
    target = arguments.publish
    partitions = step.partitions(arguments.partitions)
    if partitions is not None and target.partition_by is None:
        raise ConfigError(
            f"partitions {partitions.label!r} cannot be ingested to {target.name!r}: it is not partitioned",
            todo=f'declare Table("{target.name}", partition_by=...), or leave partitions= out',
        )
    schema = _schema(step, arguments.schema)
    files = _find(arguments, partitions)
    content = _content(step, arguments, schema, files)
    if done := tables.already_published(step.store, target, partitions, content):
        return _already_ingested(step, arguments, partitions, files, done)
    function = functions.user_code(step, arguments.transform) if arguments.transform else None
    quarantine = Quarantine(step, target, partitions, content)
    source = Source(arguments, schema, files, partitions)
    stage = Stage(step, source, Transform(function, target), quarantine)
    try:
        stage.fill()
        kept = _kept(arguments, partitions, stage, quarantine)
        published = stage.laid.publish(content)
    except BaseException:
        stage.laid.discard()
        raise
    outcome = _outcome(arguments, files, published, kept, quarantine.rows, stage.rows_elsewhere)
    if arguments.suite and published.changed:
        outcome.links["Data Docs"] = step.store.run_uri(step.key, DATA_DOCS)
    return outcome


def _kept(
    arguments: IngestArguments, partitions: Partitions | None, stage: Stage, quarantine: Quarantine
) -> Publication | None:
    """The bad rows, published.

    :raises Skipped: there is no row at all.
    :raises DataError: there are too many of them.
    """
    if not stage.laid.rows and not quarantine.rows:
        target = arguments.publish
        wanted = f"none is in {target.partition_by} = {partitions.label}" if partitions else "none is left"
        raise Skipped(f"of the {stage.rows_read:,} rows of {arguments.source}, {wanted}")
    kept = quarantine.publish()
    if quarantine.rows > arguments.max_bad_rows:
        raise _too_many_bad_rows(arguments, stage, quarantine, kept)
    return kept


def _schema(step: StepContext, given: Schema | str) -> Schema:
    if isinstance(given, Schema):
        return given
    found = functions.user_code(step, given)
    if not isinstance(found, Schema):
        raise UserCodeError(
            f"{given} is {type(found).__name__}, not a Schema",
            todo="declare it with airflow_ml_provider.Schema and .Column",
        )
    return found


def _find(arguments: IngestArguments, partitions: Partitions | None) -> list[SourceFile]:
    try:
        return find_files(arguments.source, arguments.format)
    except Skipped as reason:
        wanted = f", for partitions {partitions.label}" if partitions else ""
        raise Skipped(f"{reason}{wanted}") from None


def _content(
    step: StepContext, arguments: IngestArguments, schema: Schema, files: Sequence[SourceFile]
) -> str:
    """Digest of everything the rows depend on: the bytes, the schema, how they are read, the user's code."""
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


def _already_ingested(
    step: StepContext,
    arguments: IngestArguments,
    partitions: Partitions | None,
    files: Sequence[SourceFile],
    done: Publication,
) -> Outcome:
    step.log.info("already ingested: the same bytes are in %s, version %s", done.name, done.version)
    kept = kept_of(step, arguments.publish, partitions)
    outcome = _outcome(arguments, files, done, kept, kept.rows if kept else 0, None)
    outcome.summary = {"already ingested": f"{done.name}@{done.version}", **outcome.summary}
    return outcome


def _outcome(
    arguments: IngestArguments,
    files: Sequence[SourceFile],
    published: Publication,
    kept: Publication | None,
    rejected: int,
    elsewhere: int | None,
) -> Outcome:
    summary = {
        "table": f"{published.name}@{published.version}",
        "partitions": published.partitions or "all",
        "rows": published.rows,
        "rejected": rejected,
        "quarantine": f"{kept.name}@{kept.version}" if kept and rejected else "none",
        "source files": len(files),
    }
    if elsewhere:
        summary["rows of other partitions"] = elsewhere
    return Outcome(
        table=published,
        tables={"quarantine": kept} if kept and rejected else {},
        metrics={"rows": published.rows, "rejected": rejected},
        summary=summary,
    )


def _too_many_bad_rows(
    arguments: IngestArguments, stage: Stage, quarantine: Quarantine, kept: Publication | None
) -> DataError:
    where = f"{kept.name} version {kept.version} ({kept.uri})" if kept else "nowhere"
    shown = "\n".join(f"  {line}" for line in quarantine.first)
    more = quarantine.rows - len(quarantine.first)
    count = f"{quarantine.rows:,} of {stage.rows_read:,} rows are bad"
    return DataError(
        f"{count}, and max_bad_rows is {arguments.max_bad_rows}:\n{shown}"
        + (f"\n  and {more:,} more" if more else ""),
        kept=f"all bad rows, in table {where}; table {arguments.publish.name} is as it was",
        todo="correct the source and ingest it again, or raise max_bad_rows",
    )
