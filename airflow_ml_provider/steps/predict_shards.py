"""Predict in shards: each scores some of the files and writes predictions that nobody sees yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.shards import Shards
from airflow_ml_provider.steps import models, scorers, shard_files, sharding
from airflow_ml_provider.steps.context import Skipped
from airflow_ml_provider.steps.feature_rows import FeatureRows
from airflow_ml_provider.steps.shadow import Challengers

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import PredictArguments
    from airflow_ml_provider.contract.documents import Publication
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.scorers import Part


def plan_shards(step: StepContext, arguments: PredictArguments, shards: int) -> Sequence[dict[str, Any]]:
    """The files of the pinned version, in runs of about the same size."""
    table, partitions = step.read(arguments.table), step.partitions(arguments.partitions)
    sizes = table.sizes(partitions)
    if not sizes:
        where = f"partitions {partitions.label} of " if partitions else ""
        raise Skipped(f"there are no rows to predict in {where}table {table.name!r}, version {table.version}")
    # A spec that was written by hand pins no version: its plan is one of the rows that there were.
    of, version = str(table.version), table.version
    # One prediction is made at one time, whenever its shards run.
    at = datetime.now(UTC).isoformat()
    return [
        {"of": of, "version": version, "at": at, "files": files} for files in shard_files.cut(sizes, shards)
    ]


def run_shard(step: StepContext, arguments: PredictArguments, shard: dict[str, Any]) -> dict[str, Any]:
    """Score the rows of some files, and write the predictions."""
    from airflow_ml_provider.steps.predict import scored_batches

    partitions = step.partitions(arguments.partitions)
    table = replace(step.read(arguments.table.at(shard["version"])), only=tuple(shard["files"]))
    rows = FeatureRows.open(step, table, partitions)
    if not rows.rows:
        return shard_files.nothing()
    parts = scorers.parts_of(step, arguments, rows, partitions)
    with models.repeatable_arithmetic():
        at = datetime.fromisoformat(shard["at"])
        reader = scored_batches(step, arguments, rows, parts, Challengers(step, (), rows), at)
        written = shard_files.write(step, arguments.publish, reader, partitions)
    return {**written, "models": [part.identity() for part in parts]}


def publish(
    step: StepContext,
    arguments: PredictArguments,
    rows: FeatureRows,
    parts: Sequence[Part],
    partitions: Partitions | None,
    content: str,
) -> Publication:
    """Run the shards that are missing, and publish what all of them wrote."""
    given = sharding.given_by_shards(step, arguments, str(rows.table.version))
    expected = [part.identity() for part in parts]
    if differing := [number for number, each in enumerate(given) if each.get("models", expected) != expected]:
        shards = Shards(step.store, step.spec, arguments.shards)
        for number in differing:
            shards.forget(number)
        raise InfrastructureError(
            f"shards {', '.join(map(str, differing[:10]))} were scored by {given[differing[0]]['models']}, and the "
            f"step by {expected}: an alias was moved meanwhile",
            kept="the table is as it was",
            retry="a retry scores these shards again",
            todo="pin the model's version",
        )
    return shard_files.publish(step, arguments, arguments.publish, given, partitions, content)


def forget(step: StepContext, arguments: PredictArguments) -> None:
    """Remove what was kept for the publication, which has been made.

    The files are the table's now. They could not become so once more, when part of them has been replaced.
    """
    Shards(step.store, step.spec, arguments.shards).clear()
