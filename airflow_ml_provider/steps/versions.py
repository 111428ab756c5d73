"""Versions in the MLflow registry: found, fetched and verified, registered once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_ml_provider.contract.brief import shortened
from airflow_ml_provider.contract.documents import ModelVersion
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.steps.tracking import TAG, refusals

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as RegistryVersion

    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.feature_rows import FeatureRows
    from airflow_ml_provider.steps.models import SavedModel, ScoringModel

FOLDER = "model"
# What MLflow's servers take, also older ones; the ledger has the whole.
_LONGEST_TAG = 5_000


@dataclass(frozen=True)
class Registered:
    """A version that a train step registered.

    :param source: where its artifacts are.
    :param tags: the project's own, without their prefix.
    """

    name: str
    version: int
    run_id: str
    source: str
    tags: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def feature_hash(self) -> str:
        """The feature definition that it was trained on."""
        return self._tag("feature_hash")

    @property
    def digest(self) -> str:
        """What its artifacts' digest must be."""
        return self._tag("artifact_digest")

    def document(self) -> dict[str, str | int]:
        """As it stands in a verdict."""
        return {"name": self.name, "version": self.version, "run_id": self.run_id}

    def reference(self, alias: str = "") -> ModelVersion:
        """As it stands in a result."""
        return ModelVersion(self.name, self.version, self.run_id, alias)

    def _tag(self, name: str) -> str:
        if name not in self.tags:
            raise DataError(
                f"model {self} was not registered by a train step: it has no tag {TAG}{name}",
                todo="train it with TrainOperator, or name a version that was",
            )
        return self.tags[name]


def find(step: StepContext, model: Model) -> Registered | None:
    """The version that a model names, by number or alias; None if there is none."""
    found = step.tracker.find(model)
    return None if found is None else _registered(found)


def check_features(registered: Registered, rows: FeatureRows, table: str) -> None:
    """Whether rows were built by the feature definition that a model was trained on.

    :raises DataError: they were not.
    """
    if registered.feature_hash != rows.hash:
        trained_on = f"{registered.feature_hash[:12]} of {registered.tags.get('features', 'unknown origin')}"
        raise DataError(
            f"the rows of table {table!r} were built by the feature definition {rows.hash[:12]} of "
            f"{rows.entry_point}, and model {registered} was trained on {trained_on}",
            todo="build the rows with the definition that the model was trained on, or train and promote a "
            "version on rows of the new one",
        )


def fetch(step: StepContext, registered: Registered, *, only_scores: bool = False) -> ScoringModel:
    """Download a version, verify that it is what was registered, and load it.

    :param only_scores: it will be asked for nothing else.
    :raises DataError: its artifacts are not those that were registered.
    """
    # A step that only looks at versions or moves aliases needs none of what loads a model.
    from airflow_ml_provider.steps import models

    # The model may hold types of the user's own.
    sys.path[:0] = [root for root in step.spec.code.roots if root not in sys.path]
    wanted = registered.digest
    folder = step.tracker.download(
        registered.source, step.scratch / f"{registered.run_id}-{registered.version}"
    )
    found = models.artifact_digest(folder)
    if found != wanted:
        raise DataError(
            f"the artifacts of model {registered} are not those that were registered: their digest is "
            f"{found[:12]}, and {wanted[:12]} was registered. They were not loaded",
            todo="find out who changed them, and restore them or train a new version",
        )
    return models.load(folder, str(registered), only_scores=only_scores)


def of_run(step: StepContext, name: str, run_id: str) -> Registered | None:
    """The version of a model that a run has registered already."""
    with step.tracker.speaking("look for the version of an earlier try"):
        found = step.tracker.client.search_model_versions(f"run_id = '{run_id}'")
    mine = sorted((version for version in found if version.name == name), key=lambda each: int(each.version))
    return _registered(mine[0]) if mine else None


def register(
    step: StepContext, name: str, run_id: str, saved: SavedModel, tags: Mapping[str, str]
) -> Registered:
    """Register the model that a run keeps; one request makes the version with all its tags."""
    client = step.tracker.client
    with step.tracker.speaking(f"register a version of {name!r}"):
        try:
            client.create_registered_model(name)
        except refusals() as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # The artifacts' own address, not runs:/..., which the server's page of the version cannot follow.
        source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
        known = {"artifact_digest": saved.digest, "flavor": saved.flavor, **tags}
        made = client.create_model_version(
            name, source, run_id, tags={TAG + tag: value for tag, value in known.items() if value}
        )
    return _registered(made)


def point_alias(step: StepContext, registered: Registered, alias: str) -> None:
    """Let an alias name this version; doing it again changes nothing."""
    Aliases(step, registered.name).point(alias, registered.version)


class Aliases:
    """The aliases of one registered model, as movers of the ledger use them.

    :param model: its name in the MLflow registry.
    """

    def __init__(self, step: StepContext, model: str) -> None:
        self.step = step
        self.model = model

    def named(self, alias: str) -> int | None:
        """The version that an alias names, None if it names none."""
        found = find(self.step, Model(self.model, alias))
        return found.version if found else None

    def point(self, alias: str, version: int) -> None:
        """Let an alias name a version; doing it again changes nothing."""
        with self.step.tracker.speaking(f"point the alias {alias!r} to {self.model}/{version}"):
            self.step.tracker.client.set_registered_model_alias(self.model, alias, str(version))


def tag(step: StepContext, registered: Registered, tags: Mapping[str, str]) -> None:
    """Add the project's tags to a version."""
    with step.tracker.speaking(f"tag {registered}"):
        for name, value in tags.items():
            step.tracker.client.set_model_version_tag(
                registered.name, str(registered.version), TAG + name, shortened(value, _LONGEST_TAG)
            )


def _registered(found: RegistryVersion) -> Registered:
    tags = {key.removeprefix(TAG): value for key, value in found.tags.items() if key.startswith(TAG)}
    return Registered(found.name, int(found.version), found.run_id or "", found.source or "", tags)
