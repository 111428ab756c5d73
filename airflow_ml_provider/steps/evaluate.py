"""Evaluate: a candidate against the champion on the same rows, judged by gates.

A candidate that fails its gates is no failure of the step: the verdict says so, and Promote leaves the
champion where it is. Equal rows, models, gates, seed and resamples give an equal verdict, byte for byte.
Models that score live rows are compared in :mod:`airflow_ml_provider.steps.live_evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.arguments import EvaluateArguments
from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.steps import (
    behaviour,
    explanation_figures,
    explanations,
    guardrails,
    live_evaluation,
    measurement,
    models,
    origin,
    slices,
    versions,
)
from airflow_ml_provider.steps.context import Outcome, StepContext
from airflow_ml_provider.steps.evaluation import Contestants, Examined, conclude
from airflow_ml_provider.steps.labelled_rows import LabelledRows
from airflow_ml_provider.steps.profiles import build_profile

if TYPE_CHECKING:
    from airflow_ml_provider.steps.measurement import Measured
    from airflow_ml_provider.steps.models import ScoringModel
    from airflow_ml_provider.steps.versions import Registered

CHAMPION = "champion"


def run(step: StepContext, arguments: EvaluateArguments) -> Outcome:
    """Compare, judge, and show it."""
    if arguments.predictions is not None:
        return live_evaluation.run(step, arguments)
    if arguments.table is None:
        raise ConfigError(
            "the evaluate step was given nothing to evaluate on",
            todo="give table= with feature rows and labels, or predictions= for models in use",
        )
    rows = LabelledRows(step, step.read(arguments.table), arguments.partitions, purpose="evaluate on")
    contestants = _contestants(step, arguments, rows)
    if not arguments.gates and not arguments.behaviour:
        step.warn("no gate was given, so any candidate passes")
    if contestants.incomparable:
        step.warn(contestants.incomparable)
    with step.tracker.run(f"evaluate {contestants.candidate}") as tracked, models.repeatable_arithmetic():
        found = _examine(step, arguments, rows, contestants)
        outcome = conclude(step, arguments, tracked, contestants, found)
        origin.log_dataset(step, tracked.run_id, rows, "evaluation")
        _keep_profile(step, rows, found.measured, contestants.candidate)
    return outcome


def _examine(
    step: StepContext, arguments: EvaluateArguments, rows: LabelledRows, contestants: Contestants
) -> Examined:
    by_gates = [gate.slice_by for gate in arguments.gates if gate.slice_by]
    columns = rows.frame.collect_schema().names()
    sliced_by = slices.columns([*arguments.slices, *by_gates], columns, rows.where)
    tests = behaviour.load_tests(step, arguments.behaviour) if arguments.behaviour else []
    challenger = versions.fetch(step, contestants.candidate)
    champion = None if contestants.incomparable else contestants.champion
    others = [versions.fetch(step, champion)] if champion else []
    rows.keep_scored(step, [challenger, *others])
    seed = step.spec.seed
    measured = measurement.measure(
        rows,
        [challenger, *others],
        sliced_by,
        resamples=arguments.resamples,
        seed=seed,
        gates=arguments.gates,
        texts=slices.by_functions(step, sliced_by, rows.frame),
        progress=step.progress,
    )
    explained_by = [name for name in sliced_by if name in columns]
    explained = explanations.explanation(rows.frame, rows.count, challenger, explained_by, seed)
    return Examined(
        table=rows.table,
        partitions=rows.partitions,
        measured=measured,
        facts={"rows": rows.count, "positives": f"{rows.positives / rows.count:.1%}"},
        guardrails=_guardrails(step, arguments, rows, challenger),
        lines=_tested(step, tests, challenger, rows),
        importance=measurement.importance(rows, challenger, seed),
        sections=[lambda report: explanation_figures.section(report, explained)],
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


def _contestants(step: StepContext, arguments: EvaluateArguments, rows: LabelledRows) -> Contestants:
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
        return Contestants(candidate, champion)
    return Contestants(candidate, champion, (
        f"the champion {champion} was trained on another feature definition than these rows have, so it "
        "cannot be scored on them; a gate against the champion must be left out for one evaluation"
    ))  # fmt: skip


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


def _keep_profile(step: StepContext, rows: LabelledRows, measured: Measured, candidate: Registered) -> None:
    """The held-out scores' profile, with the candidate: what its scores in use are compared with."""
    scores = pl.DataFrame({"score": measured.scores[0]})
    by = rows.partition_by if measured.partitions is not None else None
    if measured.partitions is not None:
        scores = scores.with_columns(measured.partitions)
    origin.log_document(
        step, candidate.run_id, "score_profile.json", build_profile(scores.lazy(), ["score"], by=by)
    )
