"""scikit-learn's estimators, and whatever is built like one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, UserCodeError
from airflow_ml_provider.steps.flavors import canonical, linear
from airflow_ml_provider.steps.flavors.base import Flavor, flavor_module, matrix

if TYPE_CHECKING:
    from airflow_ml_provider.steps.flavors.base import Parts, Scores

_SAFE_NAMESPACES = ("sklearn", "numpy", "scipy")
# Holds a function that must be trusted itself; scikit-learn keeps its own input checks in one.
_SAFE_TYPES = ("functools.partial",)
_NAME_IT = (
    "replace lambdas, and functions and classes defined inside others, by ones at the top of a module, "
    "where they are found by their name"
)


class ScikitLearn(Flavor):
    """Anything that is a scikit-learn estimator, by skops."""

    name = "sklearn"
    file = "model.skops"

    def inputs(self, model: Any) -> list[str] | None:
        names = getattr(model, "feature_names_in_", None)
        return None if names is None else [str(name) for name in names]

    def options(self, model: Any, trusted_types: Iterable[str], example: pl.DataFrame) -> dict[str, Any]:
        types = self._trusted(model, trusted_types)
        return {
            "serialization_format": "skops",
            "skops_trusted_types": types,
            "pyfunc_predict_fn": "predict_proba",
        }

    def write(self, model: Any, folder: Path, trusted_types: Iterable[str]) -> dict[str, Any] | None:
        types = self._trusted(model, trusted_types)
        (folder / self.file).write_bytes(canonical.dumps(model))
        return {"skops_trusted_types": types}

    def requirements(self) -> list[str]:
        found: list[str] = flavor_module(self.name).get_default_pip_requirements(include_skops=True)
        return found

    def load(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        import skops.io

        return skops.io.load(folder / self.file, trusted=settings.get("skops_trusted_types") or [])

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Scores:
        given = self._given(model, rows)
        classes = [int(label) for label in model.classes_]
        if 1 not in classes:
            raise UserCodeError(f"the model knows the classes {classes} and not the class 1")
        return np.asarray(model.predict_proba(given)[:, classes.index(1)], np.float64)

    def inexplicable(self, model: Any, features: int, *, background: bool = False) -> str:
        try:
            found = linear.taken_apart(model, features)
        except linear.Inexact as error:
            return str(error)
        return "" if background or found.knows_means else linear.UNKNOWN_MEANS

    def contributions(
        self, model: Any, rows: pl.DataFrame, background: pl.DataFrame | None = None
    ) -> Parts | None:
        if self.inexplicable(model, rows.width, background=background is not None):
            return None
        found = linear.taken_apart(model, rows.width)
        sample = None if found.knows_means or background is None else self._given(model, background)
        return found.contributions(self._given(model, rows), sample, rows.width)

    @staticmethod
    def _trusted(model: Any, trusted_types: Iterable[str]) -> list[str]:
        if not hasattr(model, "predict_proba"):
            raise UserCodeError(
                f"the model, a {type(model).__name__}, has no predict_proba, so it gives no probabilities",
                todo="use a classifier that has, or wrap it in sklearn.calibration.CalibratedClassifierCV",
            )
        return sorted({*_types_to_trust(model, frozenset(trusted_types)), *trusted_types})

    def _given(self, model: Any, rows: pl.DataFrame) -> Any:
        # A model fitted on a bare matrix warns of names it has not seen.
        return rows.to_pandas() if hasattr(model, "feature_names_in_") else matrix(rows, self.name)


def _types_to_trust(model: Any, allowed: frozenset[str]) -> list[str]:
    """The types in a scikit-learn model that skops does not know to be safe, all allowed.

    :raises ConfigError: the model has others, or cannot be saved by skops.
    """
    import skops.io

    try:
        found: list[str] = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    except Exception as error:
        # skops raises what its serializers happen to raise; each time the model is what it cannot keep.
        raise ConfigError(
            f"the model, a {type(model).__name__}, cannot be saved without pickle: {error}",
            todo=_NAME_IT,
        ) from error
    if nameless := [name for name in found if "<" in name]:
        raise ConfigError(
            f"the model, a {type(model).__name__}, cannot be saved without pickle: {', '.join(nameless)}",
            todo=_NAME_IT,
        )
    strange = [
        name
        for name in found
        if name.partition(".")[0] not in _SAFE_NAMESPACES and name not in _SAFE_TYPES and name not in allowed
    ]
    if strange:
        listed = ", ".join(f'"{name}"' for name in strange)
        raise ConfigError(
            f"the model holds types that are not known to be safe to load: {', '.join(strange)}",
            todo=f"if they are yours, or you trust them, allow them: TrainOperator(trusted_types=[{listed}])",
        )
    return found
