"""Models that are one of many: the library's own file, and a small description beside it.

Most of what MLflow writes around a model (environments, examples, ids, times) says the same of every model of
a fleet, and differs with every save. A model whose library has no format of its own here is kept
with all that instead. Either way :func:`load` gives it back.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_ml_provider.contract.errors import ConfigError, DataError, MLError
from airflow_ml_provider.steps import models
from airflow_ml_provider.steps.flavors import flavor_named, flavor_of
from airflow_ml_provider.steps.models import Inputs, SavedModel, ScoringModel

if TYPE_CHECKING:
    from airflow_ml_provider.steps.labelled_rows import LabelledRows

DESCRIPTION = "member.json"


class Described(msgspec.Struct, frozen=True):
    """A model, but for its files.

    :param settings: what its flavor needs to load it.
    :param whole: whether its folder is that of an MLflow model.
    """

    flavor: str
    features: tuple[str, ...]
    texts: tuple[str, ...]
    settings: dict[str, Any] = {}
    whole: bool = False

    @property
    def inputs(self) -> Inputs:
        """Its features, in its order."""
        return Inputs(self.features, frozenset(self.texts))

    def encode(self) -> bytes:
        """As JSON; equal descriptions are equal bytes."""
        return msgspec.json.encode(self, order="deterministic")


def save(model: Any, folder: Path, rows: LabelledRows, *, trusted_types: Iterable[str]) -> SavedModel:
    """Write a model to a new folder.

    :raises ConfigError: it cannot be kept without pickle.
    """
    from airflow_ml_provider.steps import train

    flavor = flavor_of(model)
    order = models.model_order(model, rows.rows.features)
    texts = rows.inputs.texts & frozenset(order)
    folder.mkdir()
    native = flavor.native(model)
    try:
        settings = flavor.write(native, folder, trusted_types)
    except (MLError, OSError):
        raise
    except Exception as error:
        # Whatever the library raises: it is about this model.
        raise ConfigError(
            f"the model, a {type(model).__name__}, cannot be saved: {type(error).__name__}: {error}"
        ) from error
    if settings is None:
        folder.rmdir()
        train.save_model(model, folder, rows, trusted_types=trusted_types, run_id="")
    described = Described(flavor.name, order, tuple(sorted(texts)), settings or {}, settings is None)
    (folder / DESCRIPTION).write_bytes(described.encode())
    return SavedModel(folder, flavor.name, models.artifact_digest(folder))


def load(folder: Path, name: str) -> ScoringModel:
    """Load a model that :func:`save` wrote. Compare its digest first, if it comes from elsewhere.

    :raises DataError: it was not written by it.
    """
    return loaded(folder, described(folder, name), name)


def loaded(folder: Path, given: Described, name: str) -> ScoringModel:
    """Load a model whose description is known.

    :raises ConfigError: its library is missing here.
    """
    if given.whole:
        return models.load(folder, name)
    flavor = flavor_named(given.flavor)
    try:
        native = flavor.load(folder, given.settings)
    except Exception as error:
        # Whatever the library raises, or that it is not installed here.
        raise ConfigError(
            f"model {name} ({flavor.name}) cannot be loaded here: {type(error).__name__}: {error}",
            todo="install the libraries that it was trained with",
        ) from error
    return ScoringModel(name, flavor, native, given.inputs, size=size_of(folder))


def described(folder: Path, name: str) -> Described:
    """The description of a model.

    :raises DataError: it has none.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        raise DataError(f"model {name} is not one of a fleet: it has no {DESCRIPTION}")
    return msgspec.json.decode(path.read_bytes(), type=Described)


def size_of(folder: Path) -> int:
    """Bytes of its files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
