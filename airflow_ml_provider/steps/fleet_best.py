"""The best item of a fleet of trainings, registered as the challenger, as a single training would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ml_provider.contract.arguments import TrainArguments
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.fleets import item_digest, item_seed, show
from airflow_ml_provider.steps import fleet_models, members, models, origin, train, versions
from airflow_ml_provider.steps.fleet_rows import ItemRows
from airflow_ml_provider.steps.models import SavedModel
from airflow_ml_provider.steps.profiles import build_profile

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.contract.documents import ModelVersion
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.fleet_summary import Best
    from airflow_ml_provider.steps.labelled_rows import LabelledRows
    from airflow_ml_provider.steps.models import ScoringModel
    from airflow_ml_provider.steps.tracking import TrackedRun


def register(step: StepContext, arguments: FleetArguments, tracked: TrackedRun, best: Best) -> ModelVersion:
    """Register the best item's model, once, and make it the challenger.

    :raises DataError: no item has the metric, or the model is not what was kept.
    """
    assert arguments.model is not None
    assert arguments.table is not None
    if best.value is None:
        raise DataError(
            f"no item has the metric {best.name!r}, so none is the best",
            kept="all models and their metrics",
            todo="let the function give it, or name one that there is; see the summary",
        )
    registered = versions.of_run(step, arguments.model.name, tracked.run_id)
    if registered is None:
        table = step.read(arguments.table)
        selection = ItemRows(step, table, arguments.partitions, step.scratch)
        where, own = selection.split(best.item)
        rows = selection.labelled(where)
        kept = fleet_models.load(step.store, best.result, step.scratch / "kept")
        training = TrainArguments(
            function=arguments.function, table=arguments.table, model=arguments.model,
            partitions=arguments.partitions, params={**arguments.params, **own},
        )  # fmt: skip
        origin.log_origin(step, tracked.run_id, training, rows)
        saved = _as_mlflow_keeps_it(step, arguments, kept, rows, tracked.run_id)
        with models.repeatable_arithmetic():
            scored = train.score_rows(
                step.scratch / "scored", models.load(saved.folder, best.result[fleet_models.URI]), rows
            )
        step.tracker.log_folder(tracked.run_id, saved.folder, versions.FOLDER)
        profile = build_profile(scored, [*rows.rows.features, "score"], by=rows.partition_by)
        origin.log_document(step, tracked.run_id, "reference_profile.json", profile)
        measured = {name: value for name, value in best.result.items() if isinstance(value, (int, float))}
        step.tracker.log(tracked.run_id, metrics=measured)
        seed = str(item_seed(step.spec.seed, item_digest(best.item)))
        tags = {**origin.tags_of(step, rows), "seed": seed, "item": show(best.item)}
        registered = versions.register(step, arguments.model.name, tracked.run_id, saved, tags)
    train.become_challenger(step, registered)
    return registered.reference(train.ALIAS)


def _as_mlflow_keeps_it(
    step: StepContext, arguments: FleetArguments, kept: ScoringModel, rows: LabelledRows, run_id: str
) -> SavedModel:
    folder = step.scratch / versions.FOLDER
    if not members.described(step.scratch / "kept", kept.name).whole:
        given = kept.native
        return train.save_model(given, folder, rows, trusted_types=arguments.trusted_types, run_id=run_id)
    (step.scratch / "kept" / members.DESCRIPTION).unlink()
    (step.scratch / "kept").rename(folder)
    return SavedModel(folder, kept.flavor.name, models.artifact_digest(folder))
