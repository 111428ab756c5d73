"""What the triggerer watches: tables, model aliases, announcements of drift and retraining."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_ml_provider.triggers.drift import DriftTrigger, RetrainTrigger
    from airflow_ml_provider.triggers.model import ModelAliasTrigger
    from airflow_ml_provider.triggers.table import TableVersionTrigger

_HOME_OF = {
    "DriftTrigger": "drift",
    "ModelAliasTrigger": "model",
    "RetrainTrigger": "drift",
    "TableVersionTrigger": "table",
}

__all__ = ["DriftTrigger", "ModelAliasTrigger", "RetrainTrigger", "TableVersionTrigger"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
