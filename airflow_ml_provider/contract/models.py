"""Models: names in the MLflow registry, followed by alias, fixed by version, or as they were at a moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.partitions import start_of

# The value of Champion.as_of that means the start of each predicted partition.
EACH_PARTITION = "partition"


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A registered model.

    :param name: its name in the MLflow registry.
    :param alias: which version is meant, resolved when a step starts and pinned from then on.
    :param version: a fixed version; wins over the alias.
    """

    name: str
    alias: str = "champion"
    version: int | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)

    def at(self, version: int) -> Model:
        """The same model, pinned."""
        return Model(self.name, self.alias, version)

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" if self.version is None else f"{self.name}/{self.version}"


class Champion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version that is a model's champion now, or was at some moment by its ledger; for a PredictOperator.

    :param name: its name in the MLflow registry.
    :param as_of: ``""`` is now, when the task starts; ``"partition"`` is the start of each predicted partition
        (00:00 UTC of a day); anything else is a moment, ISO 8601, in UTC if it has no zone. (templated)
    :param alias: another alias than ``champion``.
    """

    name: str
    as_of: str = ""
    alias: str = "champion"

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.as_of not in ("", EACH_PARTITION) and "{{" not in self.as_of:
            start_of(self.as_of)

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" + (f" as of {self.as_of}" if self.as_of else "")


class ModelFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pinned model, and the partitions that it is for."""

    model: Model
    partitions: str


def selection_of(model: Model) -> str:
    """Why a model scores rows, as each row of predictions records it."""
    return f"{model.alias} now" if model.version is None else f"version {model.version}"


def as_model(value: Any, *, wanted_by: str = "a step") -> Model:
    """A model from what is passed: a Model, ``"name"``, ``"name@alias"``, ``"name/3"`` or an output."""
    if isinstance(value, Model):
        return value
    if isinstance(value, Champion):
        if value.as_of:
            raise ConfigError(
                f"{wanted_by} was given {value}, and only a predict step can use the champion of a moment",
                todo=f'pass Model("{value.name}") or a fixed version',
            )
        return Model(value.name, value.alias)
    if isinstance(value, str) and value:
        name, _, version = value.partition("/")
        if version:
            if not version.isdigit():
                raise ConfigError(f"{value!r} is not a model version", todo='write it as "flight_delays/3"')
            return Model(name, version=int(version))
        name, _, alias = value.partition("@")
        return Model(name, alias or "champion")
    if isinstance(value, Mapping):
        found = value.get("model", value if "verb" not in value else None)
        if isinstance(found, Mapping) and "name" in found:
            number = found.get("version")
            return Model(
                str(found["name"]), str(found.get("alias") or "champion"), int(number) if number else None
            )
        raise ConfigError(
            f"{wanted_by} was given the output of a {value.get('verb', 'foreign')} step, which has no model",
            todo="pass a Model, or the output of a train or evaluate step",
        )
    raise ConfigError(
        f"{wanted_by} needs a model, not {type(value).__name__}: {value!r}",
        todo='pass Model("name"), "name@alias", "name/version" or an upstream step\'s .output',
    )


def _check_name(name: str) -> None:
    if not name or any(c in name for c in "/:\\"):
        raise ConfigError(
            f"{name!r} cannot be a model name", todo="use a non-empty name without '/', ':' and '\\'"
        )
