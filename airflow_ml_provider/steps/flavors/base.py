"""What every flavor does, and what they share."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, UserCodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]
    # Contributions ``(rows, features)`` in log-odds, and what they are measured from.
    Parts = tuple[NDArray[np.float64], float]


class Flavor:
    """One library's models."""

    # MLflow's name of the flavor, as in ``mlflow.sklearn``.
    name: str
    # What MLflow calls the native model's file.
    file: str = ""

    def native(self, model: Any) -> Any:
        """The object that is saved: a wrapper's booster, say."""
        return model

    def inputs(self, model: Any) -> list[str] | None:
        """The names of the features that the model was fitted with, if it knows them."""
        return None

    def options(self, model: Any, trusted_types: Iterable[str], example: pl.DataFrame) -> dict[str, Any]:
        """Arguments of this flavor for MLflow's ``save_model``."""
        return {}

    def load(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        """The model from an MLflow model's folder.

        :param settings: what MLflow noted of this flavor when it saved the model.
        """
        raise NotImplementedError

    def load_scorer(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        """As :meth:`load`; of the model, only :meth:`probabilities` will be asked."""
        return self.load(folder, settings)

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Scores:
        """The predicted probability of 1 for each row.

        :param rows: the features, in the model's order.
        """
        raise NotImplementedError

    def on_threads(self, threads: int) -> Flavor | None:
        """The flavor for a model that several threads ask at once; None where the library does not allow that.

        :param threads: that the library itself may use for one of them.
        """
        return None

    def inexplicable(self, model: Any, features: int, *, background: bool = False) -> str:
        """Why a model gives no contributions; empty if it gives them.

        :param background: whether rows to measure from are at hand.
        """
        return f"models of {self.name} allow no exact contributions"

    def contributions(
        self, model: Any, rows: pl.DataFrame, background: pl.DataFrame | None = None
    ) -> Parts | None:
        """How much each feature adds to the log-odds of each row, and the log-odds they are measured from.

        The contributions of a row and the base add up to its log-odds, exactly but for rounding.

        :param rows: the features, in the model's order.
        :param background: rows in the same form, to measure from where the model does not know by itself.
        :return: None if the model does not allow it exactly (see :meth:`inexplicable`).
        """
        return None

    def leaves(self, model: Any) -> int:
        """How many leaves its trees have in all, which decides what explaining a row costs; 0: it is cheap."""
        return 0

    def write(self, model: Any, folder: Path, trusted_types: Iterable[str]) -> dict[str, Any] | None:
        """Write the native model alone, without what MLflow lays beside it; where the library
        allows it, equal models are equal bytes.

        :param folder: an empty folder.
        :return: the settings that :meth:`load` takes; None where the library's models are kept with all that
            MLflow writes.
        """
        return None

    def nulls(self, model: Any) -> bool:
        """Whether it may leave rows without a score (NaN), as a family does with groups it does not know."""
        return False

    def save(self, model: Any, folder: Path, **common: Any) -> None:
        """Save with MLflow's own writer of this flavor, leaving out arguments that it does not take."""
        writer = flavor_module(self.name).save_model
        known = inspect.signature(writer).parameters
        given = {name: value for name, value in common.items() if name in known}
        try:
            with quiet():
                writer(model, path=str(folder), **given)
        except Exception as error:
            # Whatever the library raises: it is about this model.
            raise ConfigError(
                f"the model, a {type(model).__name__}, cannot be saved by mlflow.{self.name} without pickle: "
                f"{type(error).__name__}: {error}"
            ) from error

    def requirements(self) -> list[str]:
        """Packages, pinned, that loading the model takes."""
        with quiet():
            found: list[str] = flavor_module(self.name).get_default_pip_requirements()
        return found


class Generic(Flavor):
    """Any other flavor of MLflow, through its generic interface.

    Its model must give one number a row, the probability of 1.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def load(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        import mlflow.pyfunc

        with without_unpickling():
            return mlflow.pyfunc.load_model(str(folder))

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Scores:
        return one_column(model.predict(rows.to_pandas()))


def flavor_module(name: str) -> Any:
    """MLflow's module of a flavor; None if it has none."""
    try:
        return importlib.import_module(f"mlflow.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"mlflow.{name}":
            return None
        raise


def matrix(rows: pl.DataFrame, flavor: str) -> NDArray[np.float64]:
    """The features as ``(rows, features)`` of 64-bit floats.

    :raises UserCodeError: a feature is text, which this kind of model cannot take.
    """
    texts = [name for name, dtype in rows.schema.items() if dtype == pl.String]
    if texts:
        raise UserCodeError(
            f"the {flavor} model was fitted on numbers, and text is what it is given in {', '.join(texts)}",
            todo="encode text inside the model, so that prediction does what training did: a Pipeline with "
            "an encoder (scikit-learn), category columns of a pandas frame (LightGBM); or leave it out",
        )
    return rows.to_numpy()


def one_column(found: Any) -> Scores:
    """Scores of shape ``(rows,)`` or ``(rows, 1)`` as the first of these; others as they are."""
    scores = np.asarray(found, np.float64)
    return scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 1 else scores


@contextmanager
def without_unpickling() -> Iterator[None]:
    """MLflow's loaders refuse, inside, whatever they would have to unpickle."""
    name = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps MLflow's remarks on packaging out of the task's log."""
    # It warns where pip is not installed (as with uv) and of torch's local version labels.
    logger = logging.getLogger("mlflow.utils")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
