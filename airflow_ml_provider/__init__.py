"""Machine-learning pipelines as Airflow operators.

What a DAG author writes with comes from here; every name is loaded only when it is used, so that
importing the package costs nothing::

    from airflow_ml_provider import Gate, Model, Table
    from airflow_ml_provider.operators import IngestOperator, TrainOperator
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from airflow_ml_provider.contract.features import FeatureSet, FeatureView, Label
    from airflow_ml_provider.contract.gates import Gate
    from airflow_ml_provider.contract.models import Champion, Model
    from airflow_ml_provider.contract.retraining import Retrain
    from airflow_ml_provider.contract.schema import Column, Schema
    from airflow_ml_provider.contract.search import Choices, Floats, Halving, Integers, Percentile
    from airflow_ml_provider.contract.tables import Table

_HOME_OF = {
    "Champion": "models",
    "Choices": "search",
    "Column": "schema",
    "FeatureSet": "features",
    "FeatureView": "features",
    "Floats": "search",
    "Gate": "gates",
    "Halving": "search",
    "Integers": "search",
    "Label": "features",
    "Model": "models",
    "Percentile": "search",
    "Retrain": "retraining",
    "Schema": "schema",
    "Table": "tables",
}

__all__ = [
    "Champion",
    "Choices",
    "Column",
    "FeatureSet",
    "FeatureView",
    "Floats",
    "Gate",
    "Halving",
    "Integers",
    "Label",
    "Model",
    "Percentile",
    "Retrain",
    "Schema",
    "Table",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.contract.{_HOME_OF[name]}"), name)
