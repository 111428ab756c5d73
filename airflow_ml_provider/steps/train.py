"""Train: a model from feature rows, kept with all that it came from and registered as the challenger.

MLflow has no transaction over its parts, so the order makes a killed try harmless: the run is found again by
its tags, files and numbers are written over, the version is made by one request that is not repeated once
the run has a version, and the alias comes last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.arguments import TrainArguments
from airflow_ml_provider.contract.checkpoints import Checkpoint
from airflow_ml_provider.contract.errors import DataError, UserCodeError
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.steps import checkpoints, functions, known_values, models, origin, runner, versions
from airflow_ml_provider.steps.context import Outcome, StepContext
from airflow_ml_provider.steps.labelled_rows import LabelledRows
from airflow_ml_provider.steps.metrics import metrics
from airflow_ml_provider.steps.profiles import build_profile
from airflow_ml_provider.steps.scoring import scored_batches
from airflow_ml_provider.steps.search_trial import Trial

if TYPE_CHECKING:
    from airflow_ml_provider.steps.models import SavedModel, ScoringModel
    from airflow_ml_provider.steps.tracking import TrackedRun
    from airflow_ml_provider.steps.versions import Registered

ALIAS = "challenger"
_EXAMPLE_ROWS = 5


def run(step: StepContext, arguments: TrainArguments) -> Outcome:
    """Train a model and register it."""
    function = functions.user_code(step, arguments.function)
    table = step.read(arguments.table)
    rows = LabelledRows(step, table, arguments.partitions, purpose="train on")
    if rows.single_class is not None:
        raise DataError(
            f"the label {rows.label!r} is {rows.single_class} in all {rows.count:,} labelled rows of "
            f"{rows.where}, so there is nothing to tell apart",
            todo="train on more partitions, or check the label function",
        )
    with step.tracker.run(f"train {arguments.model.name}") as tracked:
        registered = versions.of_run(step, arguments.model.name, tracked.run_id)
        if registered is None:
            registered = fit_and_register(step, arguments, function, rows, tracked)
        else:
            step.log.info("an earlier try registered %s; it is not trained again", registered)
        become_challenger(step, registered)
        with step.tracker.speaking("read the run"):
            logged = step.tracker.client.get_run(tracked.run_id).data.metrics
    # The model stands; a try after this one takes it and does not train.
    checkpoints.remove(step)
    reference = registered.reference(ALIAS)
    return Outcome(
        model=reference,
        metrics=dict(sorted(logged.items())),
        summary={
            "model": str(registered),
            "rows": rows.count,
            "positive share": round(rows.positives / rows.count, 4),
            "features": len(rows.rows.features),
            "table": str(table.table.at(table.version)),
        },
        links={"Model": step.tracker.model_url(reference), "MLflow run": step.tracker.run_url(tracked)},
        mlflow_run_id=tracked.run_id,
    )


def fit_and_register(
    step: StepContext,
    arguments: TrainArguments,
    function: Any,
    rows: LabelledRows,
    tracked: TrackedRun,
    *,
    tags: Mapping[str, str] | None = None,
) -> Registered:
    """Train a model, keep it with all that it came from in an MLflow run, and register it.

    :param tags: more of its origin, beside what every version says.
    """
    origin.log_origin(step, tracked.run_id, arguments, rows)
    # Again, now that the user's module has imported what it draws random numbers with.
    runner.set_seeds(step.spec.seed)
    with models.repeatable_arithmetic():
        given = functions.call(
            function,
            frames={"rows": rows.frame},
            values={
                "params": dict(arguments.params),
                "seed": step.spec.seed,
                "features": list(rows.rows.features),
                "label": rows.label,
                "trial": Trial(),
            },
            typed={Checkpoint: checkpoints.StepCheckpoint(step)},
            scratch=step.scratch,
        )
        model, own_metrics = model_and_metrics(given, arguments.function)
        saved = save_model(
            model,
            step.scratch / versions.FOLDER,
            rows,
            trusted_types=arguments.trusted_types,
            run_id=tracked.run_id,
            known=arguments.known_values,
        )
        # Read back from the files: what is measured is what will be used.
        scored = score_rows(step.scratch / "scored", models.load(saved.folder, arguments.model.name), rows)
    step.tracker.log_folder(tracked.run_id, saved.folder, versions.FOLDER)
    # What monitoring compares later rows and scores with.
    profile = build_profile(scored, [*rows.rows.features, "score"], by=rows.partition_by)
    origin.log_document(step, tracked.run_id, "reference_profile.json", profile)
    step.tracker.log(tracked.run_id, metrics={**training_metrics(scored, rows), **own_metrics})
    known = {**origin.tags_of(step, rows), **(tags or {})}
    return versions.register(step, arguments.model.name, tracked.run_id, saved, known)


def model_and_metrics(given: Any, function: str) -> tuple[Any, dict[str, float]]:
    """What the user's function gave: a model, or a model and a mapping of its metrics."""
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)):
        return given, {}
    numbers: dict[str, float] = {}
    for name, value in given[1].items():
        try:
            numbers[str(name)] = float(value)
        except (TypeError, ValueError):
            raise UserCodeError(
                f"{function} gave the metric {name!r} as {value!r}, not as a number"
            ) from None
    return given[0], numbers


def save_model(
    model: Any,
    folder: Path,
    rows: LabelledRows,
    *,
    trusted_types: Iterable[str],
    run_id: str,
    known: Sequence[str] = (),
) -> SavedModel:
    """Write a model with all that is needed to use it.

    :param known: columns whose values it is to be asked about only if they occur in the rows.
    """
    order = models.model_order(model, rows.rows.features)
    notes: dict[str, Any] = {"label": rows.label, "feature_hash": rows.rows.hash}
    if known:
        notes["known_values"] = known_values.values_of(rows, known)
    return models.save(
        model,
        folder,
        models.Inputs(order, rows.inputs.texts & frozenset(order)),
        example=rows.frame.select(order).head(_EXAMPLE_ROWS).collect(),
        trusted_types=trusted_types,
        run_id=run_id,
        notes=notes,
    )


def score_rows(
    folder: Path, model: ScoringModel, rows: LabelledRows, some: pl.LazyFrame | None = None
) -> pl.LazyFrame:
    """The training rows with their scores, on local disk, so that memory is bounded by a batch.

    :param some: those to score, if not all.
    """
    folder.mkdir()
    keep = [*rows.rows.features, rows.label, *([rows.partition_by] if rows.partition_by else [])]
    frame = rows.frame if some is None else some
    for number, (batch, [scores]) in enumerate(scored_batches(frame, [model], keep)):
        batch.with_columns(score=pl.Series(scores)).write_parquet(folder / f"{number:06d}.parquet")
    return pl.scan_parquet(folder)


def training_metrics(scored: pl.LazyFrame, rows: LabelledRows) -> dict[str, float]:
    """How a model does on the rows that it was trained on."""
    measured = scored.select(rows.label, "score").collect(engine="streaming")
    found = metrics(measured[rows.label].to_numpy(), measured["score"].to_numpy())
    named = {f"train_{name}": value for name, value in found.items() if value is not None}
    return {**named, "train_rows": rows.count, "train_positive_share": rows.positives / rows.count}


def become_challenger(step: StepContext, registered: Registered) -> None:
    """Set the alias, unless a newer version has it: this may be the late retry of an older training."""
    current = versions.find(step, Model(registered.name, ALIAS))
    if current is None or current.version < registered.version:
        versions.point_alias(step, registered, ALIAS)
    elif current.version > registered.version:
        step.warn(f"{registered.name}@{ALIAS} stays at the newer version {current.version}")
