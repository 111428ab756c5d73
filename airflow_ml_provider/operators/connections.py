"""Airflow connections for the user's functions, which know nothing of Airflow."""

from __future__ import annotations

import json
import re

from airflow_ml_provider.contract.errors import ConfigError


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
