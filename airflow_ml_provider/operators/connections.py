"""Airflow connections for the user's functions, which know nothing of Airflow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from airflow_ml_provider.contract.errors import ConfigError


def credentials_of(connections: Iterable[str]) -> dict[str, str]:
    """Environment variables for one step alone, MLflow's and the named connections'; never to be shown or stored."""
    from airflow_ml_provider.hooks.mlflow import find_hook

    hook = find_hook()
    found = hook.environment() if hook else {}
    return found | {connection_variable(name): connection_document(name) for name in connections}


def connection_variable(conn_id: str) -> str:
    """The environment variable in which a step finds a connection."""
    return "AIRFLOW_ML_CONN_" + re.sub(r"[^A-Z0-9]", "_", conn_id.upper())


def connection_document(conn_id: str) -> str:
    """A connection as JSON: type, host, login, password, schema, port, extra.

    :raises ConfigError: there is none of this name.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        found = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConfigError(
            f"there is no Airflow connection {conn_id!r}",
            todo="add it, or correct connections= of the operator",
        ) from None
    parts = ("conn_type", "host", "login", "password", "schema", "port")
    return json.dumps({**{part: getattr(found, part) for part in parts}, "extra": found.extra_dejson})
