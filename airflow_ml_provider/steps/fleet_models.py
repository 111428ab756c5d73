"""The models of a fleet, one an item, in the store beside its ledger; used only if they are what was kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.store import Store, join
from airflow_ml_provider.steps import members, models, scoring, train
from airflow_ml_provider.steps.metrics import metrics
from airflow_ml_provider.steps.models import SavedModel, ScoringModel
from airflow_ml_provider.steps.scoring import scored_batches

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.steps.labelled_rows import LabelledRows

# Results of an item beside its metrics.
URI, DIGEST, FLAVOR = "model_uri", "artifact_digest", "flavor"


def keep(
    store: Store, place: str, given: Any, rows: LabelledRows, arguments: FleetArguments, scratch: Path
) -> dict[str, Any]:
    """Keep the model that a training function gave; gives its metrics, and where and what it is.

    :param place: a folder in the store.
    :param given: the model, or the model and a mapping of its metrics.
    """
    model, own_metrics = train.model_and_metrics(given, arguments.function)
    saved = members.save(model, scratch / "model", rows, trusted_types=arguments.trusted_types)
    # Read back from the files: what is measured is what will be used.
    measured = training_metrics(members.load(saved.folder, place), rows)
    for path in sorted(path for path in saved.folder.rglob("*") if path.is_file()):
        store.write(f"{place}/{path.relative_to(saved.folder).as_posix()}", path.read_bytes())
    return {
        URI: join(store.uri, place), DIGEST: saved.digest, FLAVOR: saved.flavor, **measured, **own_metrics,
    }  # fmt: skip


def fetch(store: Store, result: Mapping[str, Any], to: Path) -> SavedModel:
    """The model of an item's result, on local disk.

    :raises DataError: it is not what was kept.
    """
    place = store.relative(result[URI])
    for path in store.paths(place):
        target = to / path[len(place) + 1 :]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.read(path) or b"")
    found = models.artifact_digest(to) if to.is_dir() else "nothing"
    if found != result[DIGEST]:
        raise DataError(
            f"the model at {result[URI]} is not what was kept there: its digest is {found[:12]}, and it was "
            f"{result[DIGEST][:12]}. It was not loaded",
            todo="find out who changed it; clear the task to train it again",
        )
    return SavedModel(to, result[FLAVOR], found)


def load(store: Store, result: Mapping[str, Any], to: Path) -> ScoringModel:
    """:func:`fetch` a model and load it."""
    return members.load(fetch(store, result, to).folder, result[URI])


def training_metrics(model: ScoringModel, rows: LabelledRows) -> dict[str, float]:
    """How a model does on the rows that it was trained on; held are a label and a score for each."""
    labels: list[pl.Series] = []
    scores: list[pl.Series] = []
    batches = (
        scored_batches(rows.frame, [model], [rows.label])
        if rows.held is None
        else ((held, [scoring.scores(model, held)]) for held in rows.held.iter_slices(scoring.BATCH_ROWS))
    )
    for batch, [found] in batches:
        labels.append(batch[rows.label])
        scores.append(pl.Series(found))
    measured = metrics(pl.concat(labels).to_numpy(), pl.concat(scores).to_numpy())
    named = {f"train_{name}": value for name, value in measured.items() if value is not None}
    return {**named, "train_rows": rows.count, "train_positive_share": rows.positives / rows.count}
