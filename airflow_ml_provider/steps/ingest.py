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

from airflow_ml_provider.contract.arguments import IngestArguments
from airflow_ml_provider.contract.documents import Publication
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.steps import functions, ingest_shards, ingest_source, sharding, tables
from airflow_ml_provider.steps.context import Outcome, Skipped
from airflow_ml_provider.steps.data_docs import DATA_DOCS
from airflow_ml_provider.steps.ingest_shards import plan_shards, run_shard  # noqa: F401 - `sharding.Shardable`
from airflow_ml_provider.steps.quarantine import Quarantine, kept_of
from airflow_ml_provider.steps.sources import SourceFile
from airflow_ml_provider.steps.staging import Source, Stage
from airflow_ml_provider.steps.transforming import Transform

if TYPE_CHECKING:
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.ingest_source import Found


def run(step: StepContext, arguments: IngestArguments) -> Outcome:
    """Publish the source's rows of the partitions; the same bytes again change nothing.

    Bad rows are kept in ``{table}_quarantine``, published before the table is, and also when there are more
    than ``max_bad_rows`` of them and the step fails.
    """
    found = ingest_source.find(step, arguments)
    target, partitions, files, content = arguments.publish, found.partitions, found.files, found.content
    if done := tables.already_published(step.store, target, partitions, content):
        if sharding.is_cut(arguments):
            ingest_shards.forget(step, arguments)
        return _already_ingested(step, arguments, partitions, files, done)
    quarantine = Quarantine(step, target, partitions, content)
    if sharding.is_cut(arguments):
        stage = ingest_shards.gather(step, arguments, found, quarantine)
    else:
        stage = _read(step, arguments, found, quarantine)
    try:
        kept = _kept(arguments, partitions, stage, quarantine)
        published = stage.laid.publish(content)
    except BaseException:
        stage.laid.discard()
        raise
    if sharding.is_cut(arguments):
        ingest_shards.forget(step, arguments)
    outcome = _outcome(arguments, files, published, kept, quarantine.rows, stage.rows_elsewhere)
    if arguments.suite and published.changed:
        outcome.links["Data Docs"] = step.store.run_uri(step.key, DATA_DOCS)
    return outcome


def _read(step: StepContext, arguments: IngestArguments, found: Found, quarantine: Quarantine) -> Stage:
    """One pass over the whole source."""
    function = functions.user_code(step, arguments.transform) if arguments.transform else None
    source = Source(arguments, found.schema, found.files, found.partitions)
    stage = Stage(step, source, Transform(function, arguments.publish), quarantine)
    try:
        stage.fill()
    except BaseException:
        stage.laid.discard()
        raise
    return stage


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
