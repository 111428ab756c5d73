"""Monitor: is the model still looking at the world it was trained on, and is it still right?

Each partition's features and scores are counted into the bins of the reference profile that was kept with
the model version that predicted it, and compared (:mod:`airflow_ml_provider.steps.drift`). Scores are
judged by labels that have arrived (:mod:`airflow_ml_provider.steps.monitor_labels`). Drift is a verdict,
never a failure of the step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from airflow_ml_provider.contract.arguments import MonitorArguments
from airflow_ml_provider.contract.documents import Publication
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.partitions import Partitions, parse_partitions
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import tables
from airflow_ml_provider.steps.context import Outcome, Skipped, StepContext
from airflow_ml_provider.steps.monitor_compare import Comparer
from airflow_ml_provider.steps.monitor_findings import Findings
from airflow_ml_provider.steps.monitor_labels import Performance, performance
from airflow_ml_provider.steps.monitor_report import build_report
from airflow_ml_provider.steps.tracking import TAG

# Columns of the published table, beside the partition column: a row per partition and feature, and one for
# the score, which alone has the last four.
_COLUMNS = {
    "model_name": pl.String, "model_version": pl.Int64, "model_run_id": pl.String,
    "column": pl.String, "is_score": pl.Boolean, "rows": pl.Int64,
    "psi": pl.Float64, "psi_limit": pl.Float64, "drifted": pl.Boolean,
    "test": pl.String, "statistic": pl.Float64, "p_value": pl.Float64,
    "null_share": pl.Float64, "reference_null_share": pl.Float64,
    "matured": pl.Int64, "roc_auc": pl.Float64, "log_loss": pl.Float64, "brier_score": pl.Float64,
}  # fmt: skip
_MOST_METRICS = 200


def run(step: StepContext, arguments: MonitorArguments) -> Outcome:
    """Compare partitions with their models' references; publish, report and log what was found."""
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
    drifts = comparer.compare(scored)
    findings = Findings(arguments, partitions.label, drifts, *_performance(comparer, partitions))
    published = _publish(step, arguments.publish, findings, partitions) if arguments.publish else None
    return _report(step, findings, published)


def _named(values: list[str]) -> Partitions:
    """Partitions by their values; days without a gap as the range that they are."""
    try:
        days = parse_partitions(f"{values[0]}..{values[-1]}")
    except ConfigError:
        return parse_partitions(values)
    return days if list(days.values) == values else parse_partitions(values)


def _performance(
    comparer: Comparer, partitions: Partitions
) -> tuple[Performance | None, Mapping[str, Performance]]:
    step, arguments = comparer.step, comparer.arguments
    if not arguments.tables:
        return None, {}
    return performance(
        step,
        arguments.features or comparer.feature_rows(parse_partitions(partitions.values[-1])).entry_point,
        {table.name: step.read(table).lazy() for table in arguments.tables},
        comparer.predictions.lazy(partitions),
        comparer.by,
        known_at=arguments.known_at,
        minimum_rows=arguments.minimum_rows,
    )


def _publish(step: StepContext, target: Table, findings: Findings, partitions: Partitions) -> Publication:
    by = target.partition_by or "ds"
    lines = [{by: partition, **line} for partition, line in _lines(findings)]
    frame = pl.DataFrame(lines, schema={by: pl.String, **_COLUMNS})
    batches = tables.batches_of(frame.lazy())
    return tables.publish(step, target, batches, partitions=partitions, content=step.spec.fingerprint)


def _lines(findings: Findings) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in findings.partitions:
        model = part.model
        made_by = {"model_name": model.name, "model_version": model.version, "model_run_id": model.run_id}
        for drift in (part.score, *part.features):
            line = {name: getattr(drift, name) for name in _COLUMNS if hasattr(drift, name)}
            line |= {**made_by, "column": drift.name, "is_score": drift is part.score}
            line["drifted"] = drift.drifted if part.decided else None
            if drift is part.score and (judged := findings.performance_by.get(part.partition)):
                line["matured"] = judged.matured
                line |= {name: estimate.value for name, estimate in judged.metrics.items()}
            yield part.partition, line


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
        metrics["matured_share"] = judged.share
        metrics |= {name: found.value for name, found in judged.metrics.items() if found.value is not None}
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
        summary["labels"] = f"{judged.matured:,} of {judged.predicted:,} known ({judged.share:.1%})"
        if auc := judged.metrics.get("roc_auc"):
            interval = f" ({auc.low:.3f} to {auc.high:.3f})" if auc.low is not None else ""
            summary["ROC AUC"] = f"{auc.value:.3f}{interval}"
    return summary
