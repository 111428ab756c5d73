"""How the models of each library are saved, loaded and asked for probabilities; never with pickle.

MLflow saves them; this module chooses the library's own format, or skops for scikit-learn, and loads it
natively. Any other library that MLflow has a flavor for goes through MLflow's generic interface, as far as
MLflow can load it with unpickling forbidden.

Every model gets its features in one form, in training as in prediction: numbers and booleans as 64-bit
floats (missing is NaN), text as text.
"""

from __future__ import annotations

from typing import Any

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.steps.flavors.base import Flavor, Generic, flavor_module
from airflow_ml_provider.steps.flavors.boosting import CatBoost, LightGBM, XGBoost
from airflow_ml_provider.steps.flavors.pytorch import PyTorch
from airflow_ml_provider.steps.flavors.scikit import ScikitLearn

KNOWN: dict[str, Flavor] = {
    flavor.name: flavor for flavor in (ScikitLearn(), LightGBM(), XGBoost(), CatBoost(), PyTorch())
}
# Many models as one, each row to that of its group.
FAMILY = "family"
# Where "mlflow.{package}" is something else than a flavor of that package.
_NO_LIBRARIES = ("__main__", "builtins", "mlflow")
# Packages whose flavor has another name.
_FLAVOR_OF = {"torch": "pytorch", "keras": "tensorflow"}


def flavor_named(name: str) -> Flavor:
    """The flavor that a model was saved with."""
    if name == FAMILY:
        # It holds models of these flavors, and so imports this module.
        from airflow_ml_provider.steps.family import Family

        return Family()
    return KNOWN.get(name) or Generic(name)


def flavor_of(model: Any) -> Flavor:
    """The flavor of a model that a user's function gave, by the packages of its class and its bases.

    :raises ConfigError: MLflow has no flavor for it, or one that pickles.
    """
    for base in type(model).__mro__:
        package = base.__module__.partition(".")[0]
        name = _FLAVOR_OF.get(package, package)
        if name in KNOWN:
            return KNOWN[name]
        if package not in _NO_LIBRARIES and hasattr(flavor_module(name), "save_model"):
            return Generic(name)
    raise ConfigError(
        f"the training function gave {_described(model)}, and there is no way to keep that without pickle",
        todo=f"give a model of {', '.join(KNOWN)}, or of another library that MLflow has a flavor for and "
        "saves without pickle (onnx, say); or (model, metrics)",
    )


def _described(model: Any) -> str:
    if model is None:
        return "nothing (None)"
    return f"an object of {type(model).__module__}.{type(model).__qualname__}"
