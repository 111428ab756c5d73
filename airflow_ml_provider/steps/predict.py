"""Predict: the rows of some partitions through pinned model versions, published at once.

Memory is bounded by a batch, whatever the partition's size. The publication replaces exactly its partitions
and carries the table version and model versions as its content, so that a try after a killed one that had
published changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from airflow_ml_provider.contract.arguments import PredictArguments
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.steps import (
    models,
    predict_shards,
    scorers,
    sharding,
    spark_session,
    spark_shards,
    tables,
)
from airflow_ml_provider.steps.context import Outcome, Skipped, StepContext
from airflow_ml_provider.steps.feature_rows import FeatureRows
from airflow_ml_provider.steps.predict_shards import plan_shards, run_shard  # noqa: F401 - `sharding.Shardable`
from airflow_ml_provider.steps.scored_rows import ScoredRows
from airflow_ml_provider.steps.shadow import ChallengerFailed, Challengers

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_ml_provider.contract.documents import Publication
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.scorers import Part


def run(step: StepContext, arguments: PredictArguments) -> Outcome:
    """Score rows and publish the predictions."""
    if spark_session.wanted_here():
        arguments = spark_shards.cut(arguments)
    partitions = step.partitions(arguments.partitions)
    table = step.read(arguments.table)
    rows = FeatureRows.open(step, table, partitions)
    if not rows.rows:
        where = f"partitions {partitions.label} of " if partitions else ""
        raise Skipped(f"there are no rows to predict in {where}table {table.name!r}, version {table.version}")
    parts = scorers.parts_of(step, arguments, rows, partitions)
    challengers = Challengers(step, arguments.challengers, rows)
    # A spec written by hand pins neither table nor model; what was read belongs to the content then, too.
    content = digest(
        step.spec.fingerprint,
        str(table.table.at(table.version)),
        *(part.identity() for part in parts),
        *(f"{each} {each.run_id}" for each in challengers.found),
    )
    published = tables.already_published(step.store, arguments.publish, partitions, content)
    if published is None:
        if sharding.is_cut(arguments):
            published = predict_shards.publish(step, arguments, rows, parts, partitions, content)
        else:
            published = _publish(step, arguments, rows, parts, challengers, partitions, content)
    if sharding.is_cut(arguments):
        predict_shards.forget(step, arguments)
    return _outcome(step, arguments, parts, challengers, published, partitions)


def _publish(
    step: StepContext,
    arguments: PredictArguments,
    rows: FeatureRows,
    parts: list[Part],
    challengers: Challengers,
    partitions: Partitions | None,
    content: str,
) -> Publication:
    while True:
        left_out = len(challengers.left_out)
        try:
            with models.repeatable_arithmetic():
                return tables.publish(
                    step,
                    arguments.publish,
                    scored_batches(step, arguments, rows, parts, challengers),
                    partitions=partitions,
                    content=content,
                    suite=arguments.suite,
                )
        except Exception as error:
            # What reads the batches may say it in its own words; what was left out tells.
            if not _is(error, ChallengerFailed) or len(challengers.left_out) == left_out:
                raise
            step.log.info("scoring the rows once more, without the challenger that failed")


def scored_batches(
    step: StepContext,
    arguments: PredictArguments,
    rows: FeatureRows,
    parts: list[Part],
    challengers: Challengers,
    at: datetime | None = None,
) -> pa.RecordBatchReader:
    """The rows of the predictions table, scored as they are read.

    :param at: when the prediction is made, as each row records it; None for now.
    """
    scored = ScoredRows(step, arguments, rows, parts, challengers, at)
    schema = _arrow(pl.DataFrame(schema=scored.schema)).schema
    batches = (batch for frame in scored.batches() for batch in _arrow(frame).cast(schema).to_batches())
    return pa.RecordBatchReader.from_batches(schema, batches)


def _outcome(
    step: StepContext,
    arguments: PredictArguments,
    parts: list[Part],
    challengers: Challengers,
    published: Publication,
    partitions: Partitions | None,
) -> Outcome:
    rows = step.read(arguments.publish.at(published.version)).lazy(partitions)
    by = ["variant"] if arguments.split else ["model_name", "model_version"]
    score = pl.col("score")
    facts = rows.group_by(by).agg(
        rows=pl.len(), mean_score=score.mean(), scored=score.count(), total=score.sum()
    )
    found = facts.sort(by).collect(engine="streaming")
    counted = {
        "/".join(str(row[name]) for name in by): {
            "rows": row["rows"],
            # A family may leave all rows of a partition without a score.
            "mean_score": None if row["mean_score"] is None else round(row["mean_score"], 6),
        }
        for row in found.iter_rows(named=True)
    }
    # A version whose partitions have no rows has no challenger beside it.
    expected = {
        str(each): each
        for part in parts
        if any((one.variant or str(one.registered)) in counted for one in part.scorers)
        for each in challengers.beside([scorer.registered for scorer in part.scorers])
    }
    if expected:
        challengers.check_published(rows, expected.values())
    shadows = [each for name, each in expected.items() if name not in challengers.left_out]
    verdict = {
        **(step.audit_verdict or {}),
        **scorers.verdict_of(parts, arguments, counted),
        "challengers": [each.document() for each in shadows],
        "left_out": challengers.left_out,
    }
    last = parts[-1].scorers[0].registered
    total, scored = found.select(pl.sum("total"), pl.sum("scored")).row(0)
    mean = total / scored if scored else None
    one = len(parts) == 1 and not arguments.split
    summary: dict[str, Any] = {
        "model": "; ".join(_said(model, one=one) for model in verdict["models"]),
        "selection": verdict["models"][0]["selection"] if not arguments.split else arguments.selection,
        **({"challengers": ", ".join(map(str, shadows)) or "none"} if arguments.challengers else {}),
        "rows": published.rows,
        "mean score": "none" if mean is None else round(mean, 4),
        "table": f"{published.name}@{published.version}",
        "partitions": published.partitions or "all",
    }
    return Outcome(
        table=published,
        verdict=verdict,
        metrics={"rows": published.rows, **({} if mean is None else {"mean_score": float(mean)})},
        summary=summary,
        links={"Model": step.tracker.model_url(last.reference())},
        model=last.reference(),
    )


def _said(model: dict[str, Any], *, one: bool) -> str:
    name = f"{model['name']}/{model['version']}"
    return (
        name if one else f"{name} ({model.get('variant') or model['partitions']}: {model.get('rows', 0):,})"
    )


def _is(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
