"""Models that score live rows, compared by the same gates on the labels that have matured since.

The scores are those that were published, not new ones: what the models said when it counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.steps import guardrails, measurement, models, slices, versions
from airflow_ml_provider.steps.context import Outcome, Skipped, StepContext
from airflow_ml_provider.steps.evaluation import Contestants, Examined, conclude
from airflow_ml_provider.steps.live_rows import LiveRows, live_rows

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import EvaluateArguments
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.steps.measurement import Measured

CHAMPION = "champion"


def run(step: StepContext, arguments: EvaluateArguments) -> Outcome:
    """Compare on live rows, judge, and show it."""
    if arguments.predictions is None:
        raise ConfigError("there are no predictions to evaluate on", todo="give predictions=")
    _check(arguments)
    contestants = _contestants(step, arguments)
    rows = _rows(step, arguments, arguments.predictions, contestants)
    with (
        step.tracker.run(f"evaluate {contestants.candidate} live") as tracked,
        models.repeatable_arithmetic(),
    ):
        measured = _measure(step, arguments, rows, contestants)
        own = str(contestants.candidate)
        found = Examined(
            table=step.read(arguments.predictions),
            partitions=arguments.partitions,
            measured=measured,
            facts={
                "rows": f"{measured.overall.rows:,} of {rows.predicted[own]:,} predicted, whose label is known",
                "compared": "on the same rows" if rows.paired else "each on rows of its own",
            },
            further={
                "live": {
                    "paired": rows.paired,
                    "predicted": dict(rows.predicted),
                    "matured": dict(rows.matured),
                    "known_at": rows.known_at,
                }
            },
        )
        outcome = conclude(step, arguments, tracked, contestants, found)
    share = rows.matured[own] / rows.predicted[own]
    outcome.metrics["matured_share"] = share
    outcome.summary["labels"] = f"{rows.matured[own]:,} of {rows.predicted[own]:,} matured ({share:.1%})"
    return outcome


def _check(arguments: EvaluateArguments) -> None:
    if arguments.behaviour or guardrails.wanted(arguments.gates):
        raise ConfigError(
            "behavioural tests and guardrails look at the model itself, and a live evaluation only at its scores",
            todo="put them into the evaluation before the promotion, with table=",
        )
    functions = [name for name in _sliced_by(arguments) if ":" in name]
    if functions:
        raise ConfigError(
            f"a live evaluation slices by columns, and {functions[0]!r} is a function",
            todo="name a column of the predictions, or of the feature rows given as rows=",
        )


def _contestants(step: StepContext, arguments: EvaluateArguments) -> Contestants:
    candidate = versions.find(step, arguments.candidate)
    if candidate is None:
        raise DataError(
            f"there is no model {arguments.candidate} to evaluate in MLflow at {step.tracker.uri}",
            todo="name a version that exists",
        )
    champion = versions.find(step, arguments.champion or Model(candidate.name, CHAMPION))
    if champion is not None and champion.version == candidate.version:
        raise Skipped(f"{candidate} is the champion itself, so there is nothing to compare")
    return Contestants(candidate, champion)


def _rows(
    step: StepContext, arguments: EvaluateArguments, predictions: Table, contestants: Contestants
) -> LiveRows:
    candidate, champion = contestants.candidate, contestants.champion
    features = arguments.features or candidate.tags.get("features", "")
    if not features:
        raise ConfigError(
            f"model {candidate} does not say which feature set it was trained on",
            todo="name it: features='package.module:FEATURE_SET'",
        )
    rows = live_rows(
        step,
        predictions,
        arguments.partitions,
        [each.reference() for each in (candidate, champion) if each is not None],
        features=features,
        label_tables=arguments.tables,
        slices=_sliced_by(arguments),
        rows=arguments.rows,
        known_at=arguments.known_at,
    )
    if not all(rows.matured.values()):
        raise Skipped(
            "no label has matured yet of the rows that "
            + " and ".join(name for name, count in rows.matured.items() if not count)
            + " predicted"
        )
    return rows


def _measure(
    step: StepContext, arguments: EvaluateArguments, rows: LiveRows, contestants: Contestants
) -> Measured:
    names = [str(each) for each in (contestants.candidate, contestants.champion) if each is not None]
    sliced_by = slices.columns(_sliced_by(arguments), rows.frame.columns, "the predictions")
    if rows.paired or len(names) == 1:
        return measurement.measure_scored(
            rows.frame,
            [rows.scores[name] for name in names],
            label=rows.label,
            slices=sliced_by,
            resamples=arguments.resamples,
            seed=step.spec.seed,
            gates=arguments.gates,
        )
    (candidate, own), (champion, its) = (rows.of(name) for name in names)
    return measurement.measure_split(
        candidate,
        champion,
        (own, its),
        label=rows.label,
        slices=sliced_by,
        resamples=arguments.resamples,
        seed=step.spec.seed,
        gates=arguments.gates,
    )


def _sliced_by(arguments: EvaluateArguments) -> list[str]:
    by_gates = [gate.slice_by for gate in arguments.gates if gate.slice_by]
    return list(dict.fromkeys([*arguments.slices, *by_gates]))
