"""Monitor: is the model still looking at the world it was trained on, and is it still right?

Each partition's features and scores are counted into the bins of the reference profile that was kept with
the model version that predicted it, and compared (:mod:`airflow_ml_provider.steps.drift`). Scores are
judged by labels that have matured (:mod:`airflow_ml_provider.steps.monitor_labels`), those of earlier
partitions again when more have (:mod:`airflow_ml_provider.steps.monitor_again`). Drift is a verdict, never a
failure of the step; what follows for the model is decided in :mod:`airflow_ml_provider.steps.retraining`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from airflow_ml_provider.contract.arguments import MonitorArguments
from airflow_ml_provider.contract.documents import Publication
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.partitions import Partitions, parse_partitions
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import monitor_again, retraining, sharding, tables
from airflow_ml_provider.steps.context import Outcome, Skipped, StepContext
from airflow_ml_provider.steps.monitor_again import Again, performance_of
from airflow_ml_provider.steps.monitor_compare import Comparer
from airflow_ml_provider.steps.monitor_findings import Findings
from airflow_ml_provider.steps.monitor_labels import Judge
from airflow_ml_provider.steps.monitor_report import build_report
from airflow_ml_provider.steps.monitor_shards import (  # noqa: F401 - `sharding.Shardable`
    ShardTallies,
    plan_shards,
    run_shard,
)
from airflow_ml_provider.steps.pinned_tables import PinnedTable
from airflow_ml_provider.steps.retraining import Finding
from airflow_ml_provider.steps.tracking import TAG

# Columns of the published table, beside the partition column: a row per partition and feature, and one for
# the score, which alone has those from matured on.
_COLUMNS = {
    "model_name": pl.String, "model_version": pl.Int64, "model_run_id": pl.String,
    "column": pl.String, "is_score": pl.Boolean, "rows": pl.Int64,
    "psi": pl.Float64, "psi_limit": pl.Float64, "drifted": pl.Boolean,
    "test": pl.String, "statistic": pl.Float64, "p_value": pl.Float64,
    "null_share": pl.Float64, "reference_null_share": pl.Float64,
    "matured": pl.Int64, "matured_share": pl.Float64,
    "roc_auc": pl.Float64, "log_loss": pl.Float64, "brier_score": pl.Float64,
}  # fmt: skip
_MOST_METRICS, _MOST_NAMED = 200, 5


def run(step: StepContext, arguments: MonitorArguments) -> Outcome:
    """Compare partitions with their models' references; publish, report and log what was found."""
    monitor_again.check(arguments)
    predictions, rows = step.read(arguments.predictions), step.read(arguments.rows)
    wanted = step.partitions(arguments.partitions)
    comparer = Comparer(step, arguments, predictions, rows)
    scored = comparer.scored(wanted)
    if not scored:
        where = f" for {comparer.by} = {wanted.label}" if wanted else ""
        raise Skipped(f"table {predictions.name!r} has no predictions{where}")
    found = [part.partition for part in scored]
    if wanted and (without := [value for value in wanted.values if value not in found]):
        step.warn(f"no predictions for {comparer.by} = {', '.join(without[:10])}: left out")
    partitions = wanted if wanted and len(wanted.values) == len(found) else _named(found)
    tallied = ShardTallies(comparer, scored).of if sharding.is_cut(arguments) else None
    findings = Findings(arguments, partitions.label, comparer.compare(scored, tallied))
    judge = None
    if arguments.tables:
        labels = {table.name: step.read(table) for table in arguments.tables}
        again = _again(comparer, partitions, labels)
        judge = _judge(comparer, findings, again, labels)
        findings = _judged(findings, judge, again)
    published = _publish(step, arguments.publish, findings, partitions) if arguments.publish else None
    if arguments.retrain:
        finding = _finding(findings, judge, comparer)
        decision = retraining.decide(step, arguments.retrain, finding, of=arguments.model)
        findings = replace(findings, retraining=decision)
    return _report(step, findings, published)


def _named(values: list[str]) -> Partitions:
    """Partitions by their values; days without a gap as the range that they are."""
    try:
        days = parse_partitions(f"{values[0]}..{values[-1]}")
    except ConfigError:
        return parse_partitions(values)
    return days if list(days.values) == values else parse_partitions(values)


def _again(comparer: Comparer, asked: Partitions, labels: Mapping[str, PinnedTable]) -> Again:
    read = {table.name: table.version for table in (comparer.predictions, comparer.rows)}
    versions = read | {name: table.version for name, table in labels.items()}
    return Again(comparer.step, comparer.arguments, comparer.predictions, asked, versions)


def _judge(comparer: Comparer, findings: Findings, again: Again, labels: Mapping[str, PinnedTable]) -> Judge:
    step, arguments = comparer.step, comparer.arguments
    made_by = {part.partition: part.model for part in findings.partitions}
    made_by |= {partition: part.model for partition, part in again.earlier.items()}
    last = parse_partitions(findings.partitions[-1].partition)
    return Judge(
        step,
        arguments.features or comparer.feature_rows(last).entry_point,
        {name: table.lazy() for name, table in labels.items()},
        comparer.monitored(made_by),
        comparer.by,
        known_at=arguments.known_at,
        minimum_rows=arguments.minimum_rows,
    )


def _judged(findings: Findings, judge: Judge, again: Again) -> Findings:
    chosen = again.chosen(judge.matured())
    performance, by_partition = judge.judge([part.partition for part in findings.partitions])
    of_earlier = judge.judge([part.partition for part in chosen])[1] if chosen else {}
    return replace(
        findings, performance=performance, performance_by=by_partition | of_earlier, again=tuple(chosen)
    )


def _finding(findings: Findings, judge: Judge | None, comparer: Comparer) -> Finding:
    newest = findings.newest
    looked_at = [(part.partition, part.model) for part in findings.partitions]
    looked_at += [(part.partition, part.model) for part in findings.again]
    mine = [partition for partition, model in looked_at if model == newest.model]
    return Finding(
        model=newest.model,
        partitions=findings.label,
        newest=newest.partition,
        drift=tuple(findings.reasons()),
        performance=judge.judge(mine)[0] if judge else None,
        rows=comparer.rows,
    )


def _publish(step: StepContext, target: Table, findings: Findings, asked: Partitions) -> Publication:
    by = target.partition_by or "ds"
    lines = [{by: partition, **line} for partition, line in _lines(findings)]
    again = sorted(part.partition for part in findings.again)
    partitions = _named(sorted([*asked.values, *again])) if again else asked
    # Labels mature while everything that the fingerprint covers stays the same: what was found counts.
    content = document_digest([step.spec.fingerprint, lines])
    frame = pl.DataFrame(lines, schema={by: pl.String, **_COLUMNS})
    return tables.publish(
        step, target, tables.batches_of(frame.lazy()), partitions=partitions, content=content
    )


def _lines(findings: Findings) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in findings.partitions:
        model = part.model
        made_by = {"model_name": model.name, "model_version": model.version, "model_run_id": model.run_id}
        for drift in (part.score, *part.features):
            line = {name: getattr(drift, name) for name in _COLUMNS if hasattr(drift, name)}
            line |= {**made_by, "column": drift.name, "is_score": drift is part.score}
            line["drifted"] = drift.drifted if part.decided else None
            if drift is part.score and (judged := findings.performance_by.get(part.partition)):
                line |= performance_of(judged)
            yield part.partition, line
    for earlier in findings.again:
        for line in earlier.lines_with(findings.performance_by[earlier.partition]):
            yield earlier.partition, {name: line.get(name) for name in _COLUMNS}


def _report(step: StepContext, findings: Findings, published: Publication | None) -> Outcome:
    page = build_report(findings).html()
    step.keep_document("report.html", page)
    path = step.scratch / "report.html"
    path.write_bytes(page)
    verdict, metrics, tracker = findings.verdict(), _metrics(findings), step.tracker
    model = findings.worst.model
    with tracker.run(f"monitor {model.name} {findings.label}"[:200]) as run:
        tracker.log(
            run.run_id,
            params={**verdict["thresholds"], "partitions": findings.label},
            metrics=metrics | _psi_metrics(findings),
            tags={f"{TAG}model": f"{model.name}/{model.version}", f"{TAG}verdict": findings.sentence()},
        )
        tracker.log_file(run.run_id, path)
    return Outcome(
        table=published,
        model=model,
        verdict=verdict,
        metrics=metrics,
        summary=_summary(findings),
        links={"Report": tracker.run_url(run, "report.html"), "MLflow run": tracker.run_url(run)},
        mlflow_run_id=run.run_id,
    )


def _metrics(findings: Findings) -> dict[str, float]:
    worst, judged = findings.worst, findings.performance
    metrics = {
        "drifted": float(findings.drifted),
        "score_psi": worst.score.psi,
        "score_psi_limit": worst.score.psi_limit,
        "drifted_share": worst.share,
        "rows": float(findings.rows),
    }
    if judged:
        metrics |= {"predicted": float(judged.predicted), "matured": float(judged.matured)}
        metrics |= {"matured_share": judged.share, "looked_at_again": float(len(findings.again))}
        metrics |= {name: found.value for name, found in judged.metrics.items() if found.value is not None}
    if findings.retraining:
        metrics["retraining_wanted"] = float(bool(findings.retraining.reasons))
    return metrics


def _psi_metrics(findings: Findings) -> dict[str, float]:
    furthest = sorted(findings.worst.features, key=lambda drift: (-drift.relative, drift.name))
    # MLflow takes letters, digits and these in the name of a metric.
    return {
        f"psi.{re.sub(r'[^A-Za-z0-9_./ -]', '_', drift.name)}": drift.psi
        for drift in furthest[:_MOST_METRICS]
    }


def _summary(findings: Findings) -> dict[str, str]:
    worst, judged = findings.worst, findings.performance
    model = f"{worst.model.name}/{worst.model.version}"
    named = f": {', '.join(worst.drifted_features[:5])}" if worst.drifted_features else ""
    of = f" ({worst.partition})" if len(findings.partitions) > 1 else ""
    summary = {
        "verdict": findings.sentence(),
        "partitions": f"{findings.label}, {findings.rows:,} predictions of {model}",
        "score PSI": f"{worst.score.psi:.2f}, usual is up to {worst.score.psi_limit:.2f}{of}",
        "drifted features": f"{len(worst.drifted_features)} of {len(worst.features)}{of}{named}",
    }
    if judged:
        summary["labels"] = f"{judged.matured:,} of {judged.predicted:,} matured ({judged.share:.1%})"
        if auc := judged.metrics.get("roc_auc"):
            interval = f" ({auc.low:.3f} to {auc.high:.3f})" if auc.low is not None else ""
            summary["ROC AUC"] = f"{auc.value:.3f}{interval}"
    if findings.again:
        summary["looked at again"] = ", ".join(
            f"{part.partition} ({part.before:,} to {findings.performance_by[part.partition].matured:,} labels)"
            for part in findings.again[-_MOST_NAMED:]
        )
    if findings.retraining:
        summary["retraining"] = findings.retraining.sentence()
    return summary
