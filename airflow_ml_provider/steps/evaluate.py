"""Evaluate: a candidate against the champion on the same rows, judged by gates.

A candidate that fails its gates is no failure of the step: the verdict says so, and Promote leaves the
champion where it is. Equal rows, models, gates, seed and resamples give an equal verdict, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.arguments import EvaluateArguments
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.steps import evaluation_report, measurement, models, origin, versions
from airflow_ml_provider.steps.context import Outcome, StepContext
from airflow_ml_provider.steps.judgement import Group, Judgement, judge
from airflow_ml_provider.steps.labelled_rows import LabelledRows
from airflow_ml_provider.steps.metrics import Estimate
from airflow_ml_provider.steps.profiles import build_profile

if TYPE_CHECKING:
    from airflow_ml_provider.steps.measurement import Measured
    from airflow_ml_provider.steps.tracking import TrackedRun
    from airflow_ml_provider.steps.versions import Registered

CHAMPION = "champion"
# So many groups are listed in the verdict, which travels through Airflow; the report has more.
_LISTED_GROUPS = 40


def run(step: StepContext, arguments: EvaluateArguments) -> Outcome:
    """Compare, judge, and show it."""
    rows = LabelledRows(step, step.read(arguments.table), arguments.partitions, purpose="evaluate on")
    candidate, champion, incomparable = _contestants(step, arguments, rows)
    by_gates = [gate.slice_by for gate in arguments.gates if gate.slice_by]
    slices = measurement.slice_columns([*arguments.slices, *by_gates], rows)
    if not arguments.gates:
        step.warn("no gate was given, so any candidate passes")
    if incomparable:
        step.warn(incomparable)
    with step.tracker.run(f"evaluate {candidate}") as tracked, models.repeatable_arithmetic():
        challenger = versions.fetch(step, candidate)
        others = [versions.fetch(step, champion)] if champion and not incomparable else []
        measured = measurement.measure(
            rows, [challenger, *others], slices, resamples=arguments.resamples, seed=step.spec.seed
        )
        judgements = [
            judge(gate, measured.overall, measured.groups, incomparable) for gate in arguments.gates
        ]
        verdict = _verdict(step, arguments, rows, measured, judgements, candidate, champion)
        page = evaluation_report.render(
            evaluation_report.Evaluation(
                title=f"{candidate} against {f'champion {champion.version}' if champion else 'no champion'}",
                promote=verdict["decision"] == "promote",
                facts=_facts(arguments, rows, candidate, champion),
                measured=measured,
                judgements=judgements,
                importance=measurement.importance(rows, challenger, step.spec.seed),
            )
        )
        _keep(step, tracked, rows, measured, verdict, page, candidate)
    return Outcome(
        model=candidate.reference(),
        verdict=verdict,
        metrics={
            name: found.value for name, found in measured.overall.candidate.items() if found.value is not None
        },
        summary=_summary(verdict, measured, judgements, candidate, champion),
        links={
            "Report": step.tracker.run_url(tracked, "report.html"),
            "MLflow run": step.tracker.run_url(tracked),
        },
        mlflow_run_id=tracked.run_id,
    )


def _contestants(
    step: StepContext, arguments: EvaluateArguments, rows: LabelledRows
) -> tuple[Registered, Registered | None, str]:
    """The candidate, the champion if there is one, and why the two cannot be compared if they cannot."""
    candidate = versions.find(step, arguments.candidate)
    if candidate is None:
        raise DataError(
            f"there is no model {arguments.candidate} to evaluate in MLflow at {step.tracker.uri}",
            todo="train it first, or name a version that exists",
        )
    versions.check_features(candidate, rows.rows, rows.table.name)
    _warn_of_seen_rows(step, candidate, rows)
    champion = versions.find(step, arguments.champion or Model(candidate.name, CHAMPION))
    if champion is None or champion.tags.get("feature_hash") == rows.rows.hash:
        return candidate, champion, ""
    return candidate, champion, (
        f"the champion {champion} was trained on another feature definition than these rows have, so it "
        "cannot be scored on them; a gate against the champion must be left out for one evaluation"
    )  # fmt: skip


def _warn_of_seen_rows(step: StepContext, candidate: Registered, rows: LabelledRows) -> None:
    if candidate.tags.get("tables", "").partition("@")[0] != rows.table.name:
        return
    trained_on = candidate.tags.get("partitions", "")
    seen = None if not trained_on else set(parse_partitions(trained_on).values)
    now = None if not rows.partitions else set(parse_partitions(rows.partitions).values)
    if seen is None or now is None or seen & now:
        step.warn(
            f"{candidate} was trained on some of these rows (partitions {trained_on or 'all'}), so it looks "
            "better here than it is"
        )


def _verdict(
    step: StepContext,
    arguments: EvaluateArguments,
    rows: LabelledRows,
    measured: Measured,
    judgements: Sequence[Judgement],
    candidate: Registered,
    champion: Registered | None,
) -> dict[str, Any]:
    overall = measured.overall
    return {
        "decision": "promote" if all(judgement.passed for judgement in judgements) else "reject",
        "model": candidate.document(),
        "champion": champion and champion.document(),
        "rows": overall.rows,
        "positives": overall.positives,
        "metrics": _documents(overall.candidate),
        "champion_metrics": _documents(overall.champion),
        "differences": _documents(overall.differences),
        "gates": [judgement.document() for judgement in judgements],
        "slices": [_slice(group) for group in _listed(measured.groups)],
        "seed": step.spec.seed,
        "resamples": arguments.resamples,
        "table": rows.table.name,
        "version": rows.table.version,
        "partitions": rows.partitions,
    }


def _documents(estimates: Mapping[str, Estimate] | None) -> dict[str, Any] | None:
    return None if estimates is None else {name: found.document() for name, found in estimates.items()}


def _values(estimates: Mapping[str, Estimate] | None, prefix: str = "") -> dict[str, float]:
    named = {prefix + name: found.value for name, found in (estimates or {}).items()}
    return {name: value for name, value in named.items() if value is not None}


def _listed(groups: Mapping[str, Sequence[Group]]) -> list[Group]:
    share = _LISTED_GROUPS // max(1, len(groups))
    return [group for of_column in groups.values() for group in of_column[:share]]


def _slice(group: Group) -> dict[str, Any]:
    found = group.comparison
    return {
        "column": group.column,
        "value": group.value,
        "rows": found.rows,
        "positives": found.positives,
        "roc_auc": found.candidate["roc_auc"].document(),
        "difference": found.differences["roc_auc"].document() if found.differences else None,
    }


def _facts(
    arguments: EvaluateArguments, rows: LabelledRows, candidate: Registered, champion: Registered | None
) -> dict[str, Any]:
    return {
        "candidate": str(candidate),
        "champion": str(champion) if champion else "none yet",
        "rows": rows.count,
        "positives": f"{rows.positives / rows.count:.1%}",
        "table": f"{rows.table.name}@{rows.table.version}",
        "partitions": rows.partitions or "all",
        "resamples": arguments.resamples,
    }


def _keep(
    step: StepContext,
    tracked: TrackedRun,
    rows: LabelledRows,
    measured: Measured,
    verdict: dict[str, Any],
    page: bytes,
    candidate: Registered,
) -> None:
    """Report and verdict with the step and with MLflow; the held-out scores' profile with the candidate."""
    step.keep_document("verdict.json", json.dumps(verdict, indent=1).encode())
    step.keep_document("report.html", page)
    path = step.scratch / "report.html"
    path.write_bytes(page)
    step.tracker.log_file(tracked.run_id, path)
    origin.log_document(step, tracked.run_id, "verdict.json", verdict)
    origin.log_dataset(step, tracked.run_id, rows, "evaluation")
    overall = measured.overall
    numbers = _values(overall.candidate)
    numbers |= _values(overall.champion, "champion_") | _values(overall.differences, "difference_")
    step.tracker.log(tracked.run_id, metrics=numbers)
    scores = pl.DataFrame({"score": measured.scores[0]})
    by = rows.partition_by if measured.partitions is not None else None
    if measured.partitions is not None:
        scores = scores.with_columns(measured.partitions)
    origin.log_document(
        step, candidate.run_id, "score_profile.json", build_profile(scores.lazy(), ["score"], by=by)
    )


def _summary(
    verdict: Mapping[str, Any],
    measured: Measured,
    judgements: Sequence[Judgement],
    candidate: Registered,
    champion: Registered | None,
) -> dict[str, Any]:
    failed = [f"{judgement.gate}: {judgement.reason}" for judgement in judgements if not judgement.passed]
    return {
        "decision": verdict["decision"],
        "candidate": str(candidate),
        "champion": str(champion) if champion else "none yet",
        "rows": verdict["rows"],
        "roc_auc": evaluation_report.interval(measured.overall.candidate["roc_auc"]),
        **({"failed gates": "; ".join(failed)} if failed else {}),
    }
