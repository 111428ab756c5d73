"""Models on disk: saved with what is needed to use them, loaded only if they are what was saved.

A saved model is an MLflow model folder. Its metadata names the features, in the model's order, and which of
them are text; prediction takes them from there. The artifact digest stands for the folder: it is kept with
the registered version, apart from the files, and compared before anything of them is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, DataError, MLError, UserCodeError
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.steps import known_values
from airflow_ml_provider.steps.flavors import FAMILY, flavor_named, flavor_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.flavors.base import Flavor

_DESCRIPTION = "MLmodel"
# What the description says beside these changes with every save: ids, times, sizes.
_DIGESTED = ("flavors", "metadata", "signature")
METADATA = "airflow_ml"
# A multiple of what the kernels of BLAS libraries take at once.
_BLOCK_ROWS = 64


@dataclass(frozen=True)
class Inputs:
    """A model's features, in its order.

    :param texts: those that are text; all others are numbers.
    """

    features: tuple[str, ...]
    texts: frozenset[str]

    @classmethod
    def of(cls, features: Iterable[str], schema: Mapping[str, pl.DataType]) -> Inputs:
        """The features as the rows have them.

        :raises DataError: a feature is missing, or of a type that no model takes.
        """
        named = tuple(features)
        if missing := [name for name in named if name not in schema]:
            raise DataError(f"the rows have no column for the features {', '.join(missing)}")
        strange = [f"{name} ({schema[name]})" for name in named if _kind(schema[name]) is None]
        if strange:
            raise DataError(
                f"features must be numbers, booleans or text, and these are not: {', '.join(strange)}",
                todo="turn them into one of these in the feature functions (a time into an age, say)",
            )
        return cls(named, frozenset(name for name in named if _kind(schema[name]) == "text"))

    def expressions(self) -> list[pl.Expr]:
        """The features in the form that every model gets: 64-bit floats, and text."""
        return [pl.col(name).cast(pl.String if name in self.texts else pl.Float64) for name in self.features]

    def check(self, schema: Mapping[str, pl.DataType], model: str) -> None:
        """Whether rows have the features as the model knows them.

        :raises DataError: a feature is missing, or was text and is a number now, or the other way round.
        """
        found = Inputs.of(self.features, schema)
        if changed := sorted(found.texts ^ self.texts):
            said = [f"{name} ({'number' if name in self.texts else 'text'} now)" for name in changed]
            raise DataError(
                f"features have another type than when model {model} was trained: {', '.join(said)}",
                todo="give them their former type, or train a new version",
            )


@dataclass(frozen=True)
class ScoringModel:
    """A loaded model, ready to score.

    :param name: for messages.
    :param known_values: columns of the rows, and the values of each that it may be asked about.
    :param size: bytes of its files.
    """

    name: str
    flavor: Flavor
    native: Any
    inputs: Inputs
    known_values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    size: int = 0

    def scores(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """The probability of class 1 for each row; NaN for one that a family leaves without.

        :param rows: the features in the form and order of :meth:`Inputs.expressions`.
        :raises UserCodeError: the model fails on them.
        :raises DataError: a score is no number between 0 and 1.
        """
        given = rows if self.flavor.name == FAMILY else whole_blocks(rows)
        try:
            found = self.flavor.probabilities(self.native, given)
        except MLError:
            raise
        except Exception as error:
            # Whatever the model's library raises: it is about this model and these rows.
            raise UserCodeError(
                f"model {self.name} ({self.flavor.name}) could not score rows with the features "
                f"{', '.join(self.inputs.features)}: {type(error).__name__}: {error}"
            ) from error
        if found.shape[:1] == (given.height,):
            found = found[: rows.height]
        if found.shape != (rows.height,):
            raise UserCodeError(
                f"model {self.name} gave scores of shape {found.shape} for {rows.height:,} rows",
                todo="it must give one number a row, the probability of the class 1",
            )
        wrong = ~((found >= 0) & (found <= 1))
        if self.flavor.nulls(self.native):
            wrong &= ~np.isnan(found)
        if wrong.any():
            raise DataError(
                f"model {self.name} gave scores that are no probabilities for {np.count_nonzero(wrong):,} of "
                f"{rows.height:,} rows; the first is {found[np.argmax(wrong)]}",
                todo="it must give numbers between 0 and 1: a binary objective, a sigmoid at the end; NaN "
                "mostly comes from a missing feature that it cannot take",
            )
        return found

    def on_threads(self, threads: int) -> ScoringModel | None:
        """The same model for several threads that ask it at once; None where its library does not allow that.

        :param threads: that the library itself may use for one of them.
        """
        flavor = self.flavor.on_threads(threads)
        return None if flavor is None else replace(self, flavor=flavor)


@dataclass(frozen=True)
class SavedModel:
    """A model in a folder, and the digest it must have when it is read again."""

    folder: Path
    flavor: str
    digest: str


def save(
    model: Any,
    folder: Path,
    inputs: Inputs,
    *,
    example: pl.DataFrame,
    trusted_types: Iterable[str] = (),
    run_id: str = "",
    notes: Mapping[str, Any] | None = None,
) -> SavedModel:
    """Write a model as an MLflow model, with signature, input example and pinned requirements.

    :param example: a few rows of features, in the form and order of :meth:`Inputs.expressions`.
    :param trusted_types: types that may be in it beside those that are safe to load.
    :param notes: facts to keep within the model, under its digest.
    :raises ConfigError: it cannot be kept without pickle.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    flavor = flavor_of(model)
    native = flavor.native(model)
    columns: list[Any] = [
        ColSpec("string" if name in inputs.texts else "double", name) for name in inputs.features
    ]
    known = {"features": list(inputs.features), "texts": sorted(inputs.texts), "flavor": flavor.name}
    common: dict[str, Any] = {
        "mlflow_model": Model(artifact_path="model", run_id=run_id or None),
        "signature": ModelSignature(Schema(columns), Schema([ColSpec("double")])),
        "input_example": example.to_pandas(),
        "pip_requirements": flavor.requirements(),
        "metadata": {METADATA: {**known, **(notes or {})}},
    }
    flavor.save(native, folder, **{**common, **flavor.options(native, trusted_types, example)})
    return SavedModel(folder, flavor.name, artifact_digest(folder))


def load(folder: Path, name: str, *, only_scores: bool = False) -> ScoringModel:
    """Load a model that :func:`save` wrote. Compare its digest first, if it comes from elsewhere.

    :param only_scores: it will be asked for nothing else, and may be loaded faster for it.
    :raises DataError: it is another kind of MLflow model.
    :raises ConfigError: its library is missing, or could only unpickle it.
    """
    described = _description(folder, name)
    notes = (described.get("metadata") or {}).get(METADATA)
    if not notes:
        raise DataError(
            f"model {name} was not made by a train step: it does not say which features it takes",
            todo="train it with TrainOperator",
        )
    flavor = flavor_named(notes["flavor"])
    try:
        load_as = flavor.load_scorer if only_scores else flavor.load
        native = load_as(folder, described["flavors"].get(flavor.name, {}))
    except Exception as error:
        # Whatever the library raises, or that it is not installed here.
        raise ConfigError(
            f"model {name} ({flavor.name}) cannot be loaded here: {type(error).__name__}: {error}",
            todo="install the model's requirements.txt; a model that could only be unpickled is not loaded",
        ) from error
    return ScoringModel(
        name,
        flavor,
        native,
        Inputs(tuple(notes["features"]), frozenset(notes["texts"])),
        known_values.as_read(notes.get("known_values")),
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )


def artifact_digest(folder: Path) -> str:
    """The digest of a saved model: over its files, by name and content.

    Of MLflow's description only what decides how the model is loaded and used counts (flavors, metadata,
    signature); the rest are ids, times and sizes that change with every save. The digest is equal for equal
    LightGBM models; a skops file contains memory addresses, so that of a scikit-learn model stands for one
    save.
    """
    parts: list[str | bytes] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        parts += [name, _stable(folder) if name == _DESCRIPTION else path.read_bytes()]
    return digest(*parts)


@contextmanager
def repeatable_arithmetic() -> Iterator[None]:
    """Linear algebra on one thread, inside: its sums otherwise depend on how many the machine has.

    OpenMP is left alone: LightGBM and scikit-learn's trees give the same on any number of threads.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def model_order(model: Any, features: Sequence[str]) -> tuple[str, ...]:
    """The features that a fitted model takes, in its order; all of them if it does not know.

    :raises UserCodeError: it was fitted with columns that are no features of the rows.
    """
    flavor = flavor_of(model)
    wanted = flavor.inputs(flavor.native(model))
    if wanted is None:
        return tuple(features)
    if strange := [name for name in wanted if name not in features]:
        raise UserCodeError(
            f"the model was fitted with columns that are no features: {', '.join(strange)}",
            todo=f"fit it with some of {', '.join(features)}; they are given as `features`",
        )
    return tuple(wanted)


def whole_blocks(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows in a number that linear algebra works on in whole blocks; the first one is repeated at the end.

    The last rows of a matrix, less than a block, are added up in another order. So the last bits of a row's score
    would depend on where in a batch the row is.
    """
    if missing := -rows.height % _BLOCK_ROWS:
        return pl.concat([rows, rows.head(1)[[0] * missing]])
    return rows


def _kind(dtype: pl.DataType) -> str | None:
    if dtype.is_numeric() or dtype == pl.Boolean:
        return "number"
    return "text" if dtype in (pl.String, pl.Categorical, pl.Enum) else None


def _description(folder: Path, name: str) -> dict[str, Any]:
    # Read as it is: MLflow's own reader gives the same of it, after an import of seconds.
    import yaml

    path = folder / _DESCRIPTION
    try:
        found = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"model {name} has no readable {_DESCRIPTION}: there is none") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"model {name} has no readable {_DESCRIPTION}: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("flavors"), dict):
        raise DataError(f"model {name} has no readable {_DESCRIPTION}: it names no flavors")
    return found


def _stable(folder: Path) -> str:
    described = _description(folder, folder.name)
    kept = {part: described.get(part) for part in _DIGESTED}
    for settings in (kept["flavors"] or {}).values():
        # MLflow writes this list in the order of a set.
        if types := settings.get("skops_trusted_types"):
            settings["skops_trusted_types"] = sorted(types)
    return json.dumps(kept, sort_keys=True, default=str)
