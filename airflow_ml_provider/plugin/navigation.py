"""MLflow in Airflow's navigation bar."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from airflow.plugins_manager import AirflowPlugin

from airflow_ml_provider import config


def mlflow_url() -> str:
    """Where people open MLflow, as far as it can be known without asking a database.

    That is ``[ml] mlflow_browse_url`` or, failing that, a connection that comes from the environment. Plugins
    are loaded in every process of Airflow, so nothing is looked up here; a deployment whose connection is in
    the metadata database or a secrets backend sets the option to have the entry.
    """
    configured = config.mlflow_browse_url()
    return configured or _address(os.environ.get(f"AIRFLOW_CONN_{config.mlflow_connection().upper()}", ""))


def _address(connection: str) -> str:
    """The server's address in a connection as Airflow writes it into the environment: JSON or a URI."""
    try:
        if connection.lstrip().startswith("{"):
            found: dict[str, Any] = json.loads(connection)
            host, port, schema = found.get("host") or "", found.get("port"), found.get("schema")
        else:
            parts = urlsplit(connection)
            host, port, schema = unquote(parts.hostname or ""), parts.port, parts.path.strip("/")
            schema = schema or parse_qs(parts.query).get("schema", [""])[0]
    except ValueError:
        return ""
    if not host:
        return ""
    address = host if "://" in host else f"{schema or 'http'}://{host}"
    if urlsplit(address).username:
        return ""
    return f"{address.rstrip('/')}:{port}" if port else address.rstrip("/")


def external_views() -> list[dict[str, Any]]:
    """The entry, none where MLflow's address is not known.

    Without ``url_route`` the UI opens it in a tab of its own: MLflow forbids other pages to frame it.
    """
    url = mlflow_url()
    if not url:
        return []
    return [{"name": "MLflow", "href": url, "destination": "nav", "nav_top_level": True}]


class MlPlugin(AirflowPlugin):
    """The provider's plugin, found by the entry point ``airflow.plugins``."""

    name = "airflow_ml"
    external_views = external_views()
