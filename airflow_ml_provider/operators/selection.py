"""Which model versions predict: chosen and pinned before the step runs, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_ml_provider.contract.assignment import Variant, check_split, model_of
from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.models import (
    EACH_PARTITION,
    Champion,
    Model,
    ModelFor,
    as_model,
    selection_of,
)
from airflow_ml_provider.contract.partitions import label_of, moment_text, parse_partitions, start_of
from airflow_ml_provider.registry.history import entry_at, history, instant

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_ml_provider.operators.pins import Pins


class Selection(NamedTuple):
    """The versions that score, as :class:`~..contract.arguments.PredictArguments` has them."""

    model: Model
    selection: str = ""
    by_partition: tuple[ModelFor, ...] = ()
    split: tuple[Variant, ...] = ()


def select(pins: Pins, value: Any, partitions: str) -> Selection:
    """The version, or the version of each partition, that a predict step was asked to use.

    :raises DataError: there is no such version, or there was no champion at the moment asked for.
    :raises ConfigError: partitions that are no times were to be predicted as of their start.
    """
    if isinstance(value, Champion) and value.as_of == EACH_PARTITION:
        asked = Model(value.name, value.alias)
        return Selection(asked, f"{value.alias} as of each partition", _by_partition(pins, value, partitions))
    if isinstance(value, Champion) and value.as_of:
        moment = start_of(value.as_of)
        version = _Champions(pins, value).version_at(moment)
        model = Model(value.name, value.alias).at(version)
        return Selection(model, f"{value.alias} as of {moment_text(moment)}")
    model = as_model(value, wanted_by=pins.wanted_by)
    return Selection(pins.model(model), selection_of(model))


def select_split(pins: Pins, value: Any, split: Mapping[Any, Any]) -> Selection:
    """The versions that share the keys of a model's rows.

    :raises ConfigError: the model is fixed to a version or a moment, which a split would ignore.
    :raises DataError: a variant's alias or version does not exist.
    """
    if isinstance(value, Champion) and value.as_of:
        raise ConfigError(
            f"{pins.wanted_by} splits rows between versions as they are now, and was given {value}",
            todo=f'pass Model("{value.name}"), or leave split= out',
        )
    model = as_model(value, wanted_by=pins.wanted_by)
    if model.version is not None:
        raise ConfigError(
            f"{pins.wanted_by} was given {model} and a split; the split says which versions score",
            todo=f'pass Model("{model.name}")',
        )
    shares = check_split(split)
    variants = tuple(
        Variant(name, share, pins.model(model_of(model.name, name))) for name, share in shares.items()
    )
    return Selection(model, "; ".join(variant.selection for variant in variants), split=variants)


def select_challengers(pins: Pins, values: Any) -> tuple[Model, ...]:
    """The models that score along, pinned; one whose alias names nothing is left as it is, for the step to
    say so."""
    several: Sequence[Any] = [values] if isinstance(values, (str, Model, Champion, Mapping)) else values
    found = []
    for value in several:
        model = as_model(value, wanted_by=pins.wanted_by)
        found.append(model if model.version is not None else pins.existing_model(model) or model)
    return tuple(found)


def _by_partition(pins: Pins, champion: Champion, partitions: str) -> tuple[ModelFor, ...]:
    if not partitions.strip():
        raise ConfigError(
            f"{pins.wanted_by} was asked for {champion} and for no partitions, so there is no moment",
            todo="name the partitions to predict: partitions=... (in a schedule mostly "
            "{{ dag_run.partition_key }})",
        )
    champions = _Champions(pins, champion)
    of_version: dict[int, list[str]] = {}
    for partition in parse_partitions(partitions).values:
        of_version.setdefault(champions.version_at(start_of(partition)), []).append(partition)
    asked = Model(champion.name, champion.alias)
    return tuple(ModelFor(asked.at(version), label_of(named)) for version, named in of_version.items())


class _Champions:
    """The champions of a model by its ledger, each looked up in MLflow once."""

    def __init__(self, pins: Pins, champion: Champion) -> None:
        self.pins = pins
        self.name, self.alias = champion.name, champion.alias
        self.moves = history(pins.store, champion.name, champion.alias)
        self._there: set[int] = set()

    def version_at(self, moment: datetime) -> int:
        """The version that was champion at a moment, and still exists.

        :raises DataError: there was none, or MLflow no longer has it.
        """
        entry = entry_at(self.moves, moment)
        if entry is None or entry.version is None:
            raise self._none_at(moment, deleted=entry is not None)
        if entry.version not in self._there:
            if self.pins.hook.find(Model(self.name, version=entry.version)) is None:
                raise DataError(
                    f"by the ledger, version {entry.version} was {self.alias} of {self.name!r} at "
                    f"{moment_text(moment)} (entry {entry.sequence}), and MLflow at "
                    f"{self.pins.hook.tracking_uri} has no such version any more",
                    kept="the predictions are as they were; no other version was used in its place",
                    todo="restore the version in MLflow, or choose one that exists: a fixed version, or "
                    f'Champion("{self.name}") for the present one',
                )
            self._there.add(entry.version)
        return entry.version

    def _none_at(self, moment: datetime, *, deleted: bool) -> DataError:
        what = f"{self.name!r} had no {self.alias} at {moment_text(moment)}"
        todo = (
            f'choose a version: Model("{self.name}", version=...), or Champion("{self.name}") for the present'
        )
        if deleted:
            return DataError(f"{what}: by the ledger, the alias had been deleted by then", todo=todo)
        starts = [instant(move.effective) for move in self.moves if move.moved]
        known = f"the first is from {moment_text(min(starts))} on" if starts else "its ledger is empty"
        return DataError(
            f"{what}: {known}",
            todo=f"predict later partitions, or {todo}" if starts else f"promote one, or {todo}",
        )
