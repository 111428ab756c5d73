"""Waiting for a table, or for a model's alias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_ml_provider.sensors.model import ModelAliasSensor
    from airflow_ml_provider.sensors.table import TablePartitionSensor

_HOME_OF = {"ModelAliasSensor": "model", "TablePartitionSensor": "table"}

__all__ = ["ModelAliasSensor", "TablePartitionSensor"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
