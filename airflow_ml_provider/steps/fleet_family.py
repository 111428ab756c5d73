"""The models of a fleet over groups, registered as one: a family, the challenger, as a single training would be."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.arguments import TrainArguments
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.steps import (
    family,
    fleet_models,
    groups,
    known_values,
    members,
    models,
    origin,
    train,
    versions,
)
from airflow_ml_provider.steps.flavors import FAMILY, flavor_named
from airflow_ml_provider.steps.flavors.canonical import entry
from airflow_ml_provider.steps.labelled_rows import LabelledRows
from airflow_ml_provider.steps.metrics import metrics
from airflow_ml_provider.steps.models import SavedModel
from airflow_ml_provider.steps.profiles import build_profile
from airflow_ml_provider.steps.threads import in_order

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.contract.documents import ModelVersion
    from airflow_ml_provider.contract.fleets import Item, ItemRecord
    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.members import Described
    from airflow_ml_provider.steps.tracking import TrackedRun

    # An item, its model's description and files by their paths.
    Member = tuple[Item, Described, dict[str, bytes]]


def register(
    step: StepContext,
    arguments: FleetArguments,
    tracked: TrackedRun,
    found: groups.Groups,
    records: Iterable[tuple[Item, ItemRecord]],
) -> ModelVersion:
    """Register the family, once, and make it the challenger.

    :param records: of all items.
    :raises DataError: no group has a model, or one is not what was kept.
    """
    assert arguments.model is not None
    assert arguments.table is not None
    registered = versions.of_run(step, arguments.model.name, tracked.run_id)
    if registered is None:
        rows = LabelledRows(step, step.read(arguments.table), arguments.partitions, purpose="train on")
        training = TrainArguments(
            function=arguments.function, table=arguments.table, model=arguments.model,
            partitions=arguments.partitions, params=arguments.params,
        )  # fmt: skip
        origin.log_origin(step, tracked.run_id, training, rows)
        done = [(item, record) for item, record in records if record.state == "done"]
        saved = write(
            step.scratch / versions.FOLDER, arguments, rows, _members(step, done), run_id=tracked.run_id
        )
        model = models.load(saved.folder, arguments.model.name)
        with models.repeatable_arithmetic():
            # Rows of a group together: each model is asked about many of them at once.
            known = model.native.known(rows.frame.sort(arguments.groups, maintain_order=True))
            scored = train.score_rows(step.scratch / "scored", model, rows, known)
        step.tracker.log_folder(tracked.run_id, saved.folder, versions.FOLDER)
        profile = build_profile(scored, [*rows.rows.features, "score"], by=rows.partition_by)
        origin.log_document(step, tracked.run_id, "reference_profile.json", profile)
        origin.log_document(step, tracked.run_id, "groups.json", _document(found, model.native.index))
        step.tracker.log(tracked.run_id, metrics=_measured(scored, rows))
        tags = {**origin.tags_of(step, rows), **_tags(arguments, found, model.native.index)}
        registered = versions.register(step, arguments.model.name, tracked.run_id, saved, tags)
    train.become_challenger(step, registered)
    return registered.reference(train.ALIAS)


def write(
    folder: Path, arguments: FleetArguments, rows: LabelledRows, given: Iterable[Member], *, run_id: str = ""
) -> SavedModel:
    """Write a family as an MLflow model; equal members in equal order are equal bytes but for MLflow's ids.

    :param folder: a new folder.
    :param given: a member in memory at a time.
    :raises DataError: there is no member.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    folder.mkdir()
    columns = arguments.groups
    keys: list[tuple[str | int | bool, ...] | None] = []
    kinds: dict[bytes, tuple[int, Described]] = {}
    kind: list[int] = []
    sizes: list[int] = []
    with zipfile.ZipFile(folder / family.ARCHIVE, "w") as archive:
        for number, (item, described, files) in enumerate(given):
            keys.append(None if groups.ALL_ROWS in item else tuple(item[name] for name in columns))
            kind.append(kinds.setdefault(described.encode(), (len(kinds), described))[0])
            sizes.append(sum(map(len, files.values())))
            for path, content in sorted(files.items()):
                archive.writestr(entry(f"{number}/{path}"), content)
    if not any(keys):
        raise DataError("no group has a model, so there is no family to register", kept="all results")
    described_kinds = tuple(each for _, each in kinds.values())
    index = family.Index(columns, arguments.fallback, tuple(keys), described_kinds, tuple(kind), tuple(sizes))
    (folder / family.INDEX).write_bytes(index.encode())
    schema = rows.rows.lazy().collect_schema()
    texts = frozenset(
        name for name in columns if not (schema[name].is_numeric() or schema[name] == pl.Boolean)
    )
    inputs = index.inputs(texts, rows.rows.features)
    signature = ModelSignature(
        Schema([ColSpec("string" if name in inputs.texts else "double", name) for name in inputs.features]),
        Schema([ColSpec("double")]),
    )
    notes: dict[str, Any] = {
        "features": list(inputs.features), "texts": sorted(inputs.texts), "flavor": FAMILY,
        "groups": list(columns), "fallback": arguments.fallback, "label": rows.label,
        "feature_hash": rows.rows.hash,
    }  # fmt: skip
    if arguments.known_values:
        notes["known_values"] = known_values.values_of(rows, arguments.known_values)
    kept = Model(
        artifact_path=versions.FOLDER, run_id=run_id or None, signature=signature,
        metadata={models.METADATA: notes},
    )  # fmt: skip
    kept.add_flavor(FAMILY, index=family.INDEX, members=family.ARCHIVE)
    kept.save(str(folder / "MLmodel"))
    flavors = sorted({each.flavor for each in described_kinds})
    needed = sorted({line for name in flavors for line in flavor_named(name).requirements()})
    (folder / "requirements.txt").write_text("\n".join(needed) + "\n")
    return SavedModel(folder, FAMILY, models.artifact_digest(folder))


def _members(step: StepContext, done: Iterable[tuple[Item, ItemRecord]]) -> Iterator[Member]:
    """Members in the order of their items, some fetched ahead."""

    def work() -> Iterator[Callable[[], Member]]:
        for number, (item, record) in enumerate(done):
            yield partial(_fetched, step.store, item, record.result, step.scratch / "members" / str(number))

    return in_order(work())


def _fetched(store: Store, item: Item, result: dict[str, Any], folder: Path) -> Member:
    fleet_models.fetch(store, result, folder)
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    described = members.described(folder, result[fleet_models.URI])
    del files[members.DESCRIPTION]
    shutil.rmtree(folder)
    return item, described, files


def _measured(scored: pl.LazyFrame, rows: LabelledRows) -> dict[str, float]:
    found = scored.select(rows.label, "score").collect(engine="streaming")
    labels = found[rows.label]
    named = {
        f"train_{name}": value
        for name, value in metrics(labels.to_numpy(), found["score"].to_numpy()).items()
        if value is not None
    }
    return {**named, "train_rows": found.height, "train_positive_share": float(labels.mean() or 0.0)}  # type: ignore[arg-type]


def _tags(arguments: FleetArguments, found: groups.Groups, index: family.Index) -> dict[str, str]:
    trained = sum(group is not None for group in index.groups)
    wanted = sum(groups.ALL_ROWS not in item for item in found.items)
    return {
        "groups_by": ", ".join(arguments.groups),
        "groups": str(trained),
        "groups_failed": str(wanted - trained),
        "groups_left_out": str(len(found.left_out)),
        "fallback": arguments.fallback,
    }


def _document(found: groups.Groups, index: family.Index) -> dict[str, Any]:
    there = {group for group in index.groups if group is not None}
    return {
        "columns": list(found.columns),
        "fallback": index.fallback,
        "models": len(there),
        "failed": [
            item for item in found.items if groups.ALL_ROWS not in item and tuple(item.values()) not in there
        ],
        "left_out": [{**each.group, "rows": each.rows, "why": each.why} for each in found.left_out],
        "ungrouped_rows": found.ungrouped,
    }
