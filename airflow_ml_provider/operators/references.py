"""What an operator knows of its tables and models before anything has run, for its assets.

An upstream step's ``.output`` is a promise; the step that made it tells which table or model it will be.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import XComArg

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.models import Champion, Model, as_model
from airflow_ml_provider.contract.tables import Table, as_table


def known_table(value: Any) -> Table | None:
    """The table that a value stands for; None if only the run will tell."""
    if isinstance(value, XComArg):
        step = _step_behind(value)
        return known_table(getattr(step, "publish", None) or getattr(step, "table", None))
    return as_table(value) if _is_plain(value, Table) else None


def known_model(value: Any) -> Model | None:
    """The model that a value stands for; None if only the run will tell."""
    if isinstance(value, XComArg):
        step = _step_behind(value)
        return known_model(getattr(step, "model", None) or getattr(step, "candidate", None))
    if isinstance(value, Champion):
        return None if value.as_of else as_model(value)
    return as_model(value) if _is_plain(value, Model) else None


def _step_behind(value: XComArg) -> Any:
    """The operator whose whole output this is; None for a part of it or for a mapped one."""
    return getattr(value, "operator", None) if getattr(value, "key", None) == "return_value" else None


def _is_plain(value: Any, kind: type) -> bool:
    return isinstance(value, kind) or (isinstance(value, str) and bool(value) and "{" not in value)


def publishable(value: Any, *, wanted_by: str) -> Table:
    """The table that a step publishes: known when the DAG is written, and not pinned to a version."""
    if not _is_plain(value, Table):
        raise ConfigError(
            f"{wanted_by} cannot publish to {value!r}", todo='name the table: publish=Table("flights")'
        )
    table = as_table(value, wanted_by=wanted_by)
    if table.version is not None:
        raise ConfigError(
            f"{wanted_by} cannot publish to {table}: a version that exists never changes",
            todo=f'leave the version out: publish=Table("{table.name}")',
        )
    return table
