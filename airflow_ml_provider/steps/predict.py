"""Predict: the rows of some partitions through one model version, published at once.

Memory is bounded by a batch, whatever the partition's size. The publication replaces exactly its partitions
and carries the table version and model version as its content, so that a try after a killed one that had
published changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from airflow_ml_provider.contract.arguments import PredictArguments
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.features import FEATURE_HASH
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.steps import models, tables, versions
from airflow_ml_provider.steps.context import Outcome, Skipped, StepContext
from airflow_ml_provider.steps.feature_rows import FeatureRows
from airflow_ml_provider.steps.scoring import scored_batches

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import Publication
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.versions import Registered


def run(step: StepContext, arguments: PredictArguments) -> Outcome:
    """Score rows and publish the predictions."""
    partitions = step.partitions(arguments.partitions)
    table = step.read(arguments.table)
    rows = FeatureRows.open(step, table, partitions)
    if not rows.rows:
        where = f"partitions {partitions.label} of " if partitions else ""
        raise Skipped(f"there are no rows to predict in {where}table {table.name!r}, version {table.version}")
    registered = versions.find(step, arguments.model)
    if registered is None:
        raise DataError(
            f"there is no model {arguments.model} in MLflow at {step.tracker.uri}",
            todo="train and promote it: run the training DAG, or name a version that exists",
        )
    versions.check_features(registered, rows, table.name)
    # A spec written by hand pins neither table nor model; what was read belongs to the content then, too.
    content = digest(
        step.spec.fingerprint, str(table.table.at(table.version)), str(registered), registered.run_id
    )
    published = tables.already_published(step.store, arguments.publish, partitions, content)
    if published is None:
        published = _publish(step, arguments, rows, registered, partitions, content)
    scores = step.read(arguments.publish.at(published.version)).lazy(partitions).select("score")
    mean = float(scores.mean().collect(engine="streaming").item())
    return Outcome(
        table=published,
        metrics={"rows": published.rows, "mean_score": mean},
        summary={
            "model": str(registered),
            "rows": published.rows,
            "mean score": round(mean, 4),
            "table": f"{published.name}@{published.version}",
            "partitions": published.partitions or "all",
        },
        links={"Model": step.tracker.model_url(registered.reference())},
        model=registered.reference(),
    )


def _publish(
    step: StepContext,
    arguments: PredictArguments,
    rows: FeatureRows,
    registered: Registered,
    partitions: Partitions | None,
    content: str,
) -> Publication:
    model = versions.fetch(step, registered)
    known = (arguments.publish.partition_by, rows.prediction_time)
    keep = list(dict.fromkeys([*rows.key, *(name for name in known if name in rows.table.columns)]))
    added = [
        pl.lit(registered.name).alias("model_name"),
        pl.lit(registered.version, pl.Int64).alias("model_version"),
        pl.lit(registered.run_id).alias("model_run_id"),
        pl.lit(rows.hash).alias(FEATURE_HASH),
        pl.lit(datetime.now(UTC), pl.Datetime("us", "UTC")).alias("predicted_at"),
    ]

    def predictions() -> Iterator[pl.DataFrame]:
        for batch, [scores] in scored_batches(rows.lazy(), [model], keep, arguments.batch_rows):
            yield batch.with_columns(pl.Series("score", scores, pl.Float64), *added)

    empty = rows.lazy().select(keep).limit(0).collect()
    schema = _arrow(empty.with_columns(pl.lit(0.0).alias("score"), *added).clear()).schema
    batches = (batch for frame in predictions() for batch in _arrow(frame).cast(schema).to_batches())
    with models.repeatable_arithmetic():
        return tables.publish(
            step,
            arguments.publish,
            pa.RecordBatchReader.from_batches(schema, batches),
            partitions=partitions,
            content=content,
            suite=arguments.suite,
        )


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
