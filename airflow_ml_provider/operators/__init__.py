"""The step operators, in the order in which the data flows, fleets and searches; each is loaded when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_ml_provider.operators.approval import Approval
    from airflow_ml_provider.operators.evaluate import EvaluateOperator
    from airflow_ml_provider.operators.features import FeaturesOperator
    from airflow_ml_provider.operators.fleet import FleetOperator
    from airflow_ml_provider.operators.ingest import IngestOperator
    from airflow_ml_provider.operators.monitor import MonitorOperator
    from airflow_ml_provider.operators.predict import PredictOperator
    from airflow_ml_provider.operators.promote import PromoteOperator
    from airflow_ml_provider.operators.rollback import RollbackOperator
    from airflow_ml_provider.operators.search import SearchOperator
    from airflow_ml_provider.operators.train import TrainOperator
    from airflow_ml_provider.operators.validate import ValidateOperator

_HOME_OF = {
    "Approval": "approval",
    "IngestOperator": "ingest",
    "ValidateOperator": "validate",
    "FeaturesOperator": "features",
    "TrainOperator": "train",
    "EvaluateOperator": "evaluate",
    "PromoteOperator": "promote",
    "PredictOperator": "predict",
    "MonitorOperator": "monitor",
    "FleetOperator": "fleet",
    "SearchOperator": "search",
    "RollbackOperator": "rollback",
}

__all__ = [
    "Approval",
    "EvaluateOperator",
    "FeaturesOperator",
    "FleetOperator",
    "IngestOperator",
    "MonitorOperator",
    "PredictOperator",
    "PromoteOperator",
    "RollbackOperator",
    "SearchOperator",
    "TrainOperator",
    "ValidateOperator",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
