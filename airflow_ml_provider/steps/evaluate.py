"""Evaluate: a candidate against the champion on the same rows, judged by gates.

A candidate that fails its gates is no failure of the step: the verdict says so, and Promote leaves the
champion where it is. Equal rows, models, gates, seed and resamples give an equal verdict, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.arguments import EvaluateArguments
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.steps import (
    behaviour,
    evaluation_report,
    guardrails,
    measurement,
    models,
    origin,
    slices,
    versions,
)
from airflow_ml_provider.steps.context import Outcome, StepContext
from airflow_ml_provider.steps.judgement import judge
from airflow_ml_provider.steps.labelled_rows import LabelledRows
from airflow_ml_provider.steps.metrics import Estimate
from airflow_ml_provider.steps.profiles import build_profile
from airflow_ml_provider.steps.verdict import canonical, failures, verdict_of

if TYPE_CHECKING:
    from airflow_ml_provider.steps.measurement import Measured
    from airflow_ml_provider.steps.models import ScoringModel
    from airflow_ml_provider.steps.tracking import TrackedRun
    from airflow_ml_provider.steps.versions import Registered

CHAMPION = "champion"


def run(step: StepContext, arguments: EvaluateArguments) -> Outcome:
    """Compare, judge, and show it."""
    rows = LabelledRows(step, step.read(arguments.table), arguments.partitions, purpose="evaluate on")
    candidate, champion, incomparable = _contestants(step, arguments, rows)
    by_gates = [gate.slice_by for gate in arguments.gates if gate.slice_by]
    sliced_by = slices.columns(
        [*arguments.slices, *by_gates], rows.frame.collect_schema().names(), rows.where
    )
    tests = behaviour.load_tests(step, arguments.behaviour) if arguments.behaviour else []
    if not arguments.gates and not tests:
        step.warn("no gate was given, so any candidate passes")
    if incomparable:
        step.warn(incomparable)
    with step.tracker.run(f"evaluate {candidate}") as tracked, models.repeatable_arithmetic():
        challenger = versions.fetch(step, candidate)
        others = [versions.fetch(step, champion)] if champion and not incomparable else []
        measured = measurement.measure(
            rows,
            [challenger, *others],
            sliced_by,
            resamples=arguments.resamples,
            seed=step.spec.seed,
            gates=arguments.gates,
            texts=slices.by_functions(step, sliced_by, rows.frame),
        )
        guarded = _guardrails(step, arguments, rows, challenger)
        judgements = [
            judge(gate, measured.overall, measured.groups, incomparable, guarded) for gate in arguments.gates
        ]
        lines = _tested(step, tests, challenger, rows)
        verdict = verdict_of(
            arguments,
            measured,
            judgements,
            candidate=candidate,
            champion=champion,
            table=(rows.table.name, rows.table.version),
            partitions=rows.partitions,
            seed=step.spec.seed,
            lines=lines,
            guardrails=guarded,
        )
        page = evaluation_report.render(
            evaluation_report.Evaluation(
                title=f"{candidate} against {f'champion {champion.version}' if champion else 'no champion'}",
                promote=verdict["decision"] == "promote",
                facts=_facts(measured, rows, candidate, champion),
                measured=measured,
                judgements=judgements,
                importance=measurement.importance(rows, challenger, step.spec.seed),
                lines=lines,
            )
        )
        _keep(step, tracked, rows, measured, verdict, page, candidate)
    return Outcome(
        model=candidate.reference(),
        verdict=verdict,
        metrics={
            name: found.value for name, found in measured.overall.candidate.items() if found.value is not None
        },
        summary=_summary(verdict, measured, failures(judgements, lines), candidate, champion),
        links={
            "Report": step.tracker.run_url(tracked, "report.html"),
            "MLflow run": step.tracker.run_url(tracked),
        },
        mlflow_run_id=tracked.run_id,
    )


def _guardrails(
    step: StepContext, arguments: EvaluateArguments, rows: LabelledRows, model: ScoringModel
) -> dict[str, float]:
    names = guardrails.wanted(arguments.gates)
    if not names and not arguments.measured:
        return {}
    expressions = model.inputs.expressions()
    sample = measurement.sampled(rows, guardrails.SAMPLE_ROWS, step.spec.seed, expressions)
    return guardrails.measure(names, model, sample, arguments.measured)


def _tested(
    step: StepContext, tests: Sequence[Callable[..., Any]], model: ScoringModel, rows: LabelledRows
) -> list[behaviour.Line]:
    if not tests:
        return []
    columns = rows.frame.collect_schema().names()
    sample = measurement.sampled(rows, behaviour.SAMPLE_ROWS, step.spec.seed, columns)
    return behaviour.run_tests(tests, model, sample, step.scratch)


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


def _values(estimates: Mapping[str, Estimate] | None, prefix: str = "") -> dict[str, float]:
    named = {prefix + name: found.value for name, found in (estimates or {}).items()}
    return {name: value for name, value in named.items() if value is not None}


def _facts(
    measured: Measured, rows: LabelledRows, candidate: Registered, champion: Registered | None
) -> dict[str, Any]:
    return {
        "candidate": str(candidate),
        "champion": str(champion) if champion else "none yet",
        "rows": rows.count,
        "positives": f"{rows.positives / rows.count:.1%}",
        "table": f"{rows.table.name}@{rows.table.version}",
        "partitions": rows.partitions or "all",
        "resamples": measured.resamples,
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
    step.keep_document("verdict.json", canonical(verdict))
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
    failed: Sequence[str],
    candidate: Registered,
    champion: Registered | None,
) -> dict[str, Any]:
    return {
        "decision": verdict["decision"],
        "candidate": str(candidate),
        "champion": str(champion) if champion else "none yet",
        "rows": verdict["rows"],
        "roc_auc": evaluation_report.interval(measured.overall.candidate["roc_auc"]),
        **({"failed gates": "; ".join(failed)} if failed else {}),
    }
