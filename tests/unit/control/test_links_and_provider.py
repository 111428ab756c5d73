"""What Airflow finds out about the provider, and shows of it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest
from airflow.sdk import DAG
from control_plane import FakeCompute, context_of, run_task

from airflow_ml_provider import Column, Schema, Table
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.get_provider_info import get_provider_info
from airflow_ml_provider.operators import IngestOperator
from airflow_ml_provider.plugin.navigation import external_views

LINKS = {"MLflow run": "http://mlflow/run", "Report": "http://mlflow/report", "Data Docs": "http://docs"}
AIRFLOW = Path(airflow.__file__).parent


def ingest(ends_with: dict[str, Any]) -> IngestOperator:
    with DAG("a_dag"):
        return IngestOperator(
            task_id="i", source="x", schema=Schema((Column("a"),)), publish=Table("raw"),
            compute=FakeCompute(ends_with),
        )  # fmt: skip


def links_of(task: Any) -> dict[str, str]:
    """As Airflow's task runner asks for them when a task has ended."""
    return {link.name: link.get_link(task, ti_key=None) for link in task.operator_extra_links}


def test_a_task_links_to_what_its_step_left() -> None:
    task = ingest({"links": LINKS})
    context = context_of(task)
    run_task(task, context)
    assert links_of(context["task"]) == {**LINKS, "Model": "", "Made by": ""}


def test_a_failed_task_has_links_too() -> None:
    failure = {"kind": "data", "error": "X", "message": "3 expectations failed"}
    task = ingest({"status": "failed", "failure": failure, "links": LINKS})
    context = context_of(task)
    with pytest.raises(DataError):
        run_task(task, context)
    assert links_of(context["task"])["Data Docs"] == "http://docs"


def test_each_link_has_an_xcom_of_its_own() -> None:
    keys = [link.xcom_key for link in IngestOperator.operator_extra_links]
    assert keys == [
        "_link_MlflowRunLink", "_link_ReportLink", "_link_DataDocsLink", "_link_ModelLink", "_link_MadeByLink",
    ]  # fmt: skip


def test_the_provider_info_is_valid_by_the_schema_that_airflow_ships() -> None:
    info = get_provider_info()
    jsonschema.validate(info, json.loads((AIRFLOW / "provider_info.schema.json").read_text()))
    # The connection's form is described in the fuller schema that Airflow's own providers are checked by.
    connections = json.loads((AIRFLOW / "provider.yaml.schema.json").read_text())["properties"][
        "connection-types"
    ]
    jsonschema.validate(info["connection-types"], connections)


def test_everything_that_the_provider_info_names_exists() -> None:
    info = get_provider_info()
    for part in ("operators", "sensors", "hooks", "triggers"):
        for group in info[part]:
            for module in group["python-modules"]:
                importlib.import_module(module)
    names = [*info["extra-links"], *(found["hook-class-name"] for found in info["connection-types"])]
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


def test_the_connection_is_mlflows_own_and_takes_over_no_other() -> None:
    [connection] = get_provider_info()["connection-types"]
    hook = importlib.import_module("airflow_ml_provider.hooks.mlflow").MlflowHook
    assert connection["connection-type"] == hook.conn_type == "mlflow"
    assert connection["hook-name"] == hook.hook_name


@pytest.mark.parametrize(
    ("connection", "url"),
    [
        ('{"conn_type": "mlflow", "host": "http://127.0.0.1", "port": 5000}', "http://127.0.0.1:5000"),
        ('{"conn_type": "mlflow", "host": "https://mlflow.example.com/"}', "https://mlflow.example.com"),
        ("mlflow://ada:s3cret@mlflow.example.com:5000", "http://mlflow.example.com:5000"),
        ("mlflow://https%3A%2F%2Fmlflow.example.com", "https://mlflow.example.com"),
        ("mlflow://mlflow.example.com/https", "https://mlflow.example.com"),
    ],
)
def test_the_navigation_bar_leads_to_mlflow(
    monkeypatch: pytest.MonkeyPatch, connection: str, url: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", connection)
    assert external_views() == [{"name": "MLflow", "href": url, "destination": "nav", "nav_top_level": True}]


def test_the_configured_address_wins_over_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", '{"host": "http://inside"}')
    monkeypatch.setenv("AIRFLOW__ML__MLFLOW_BROWSE_URL", "https://outside/")
    assert [view["href"] for view in external_views()] == ["https://outside"]


@pytest.mark.parametrize("connection", ["", "{not json", '{"conn_type": "mlflow"}', "mlflow://x:notaport"])
def test_without_a_known_address_there_is_no_entry(monkeypatch: pytest.MonkeyPatch, connection: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", connection)
    assert external_views() == []


def test_the_plugin_is_one_that_airflow_accepts() -> None:
    from airflow.api_fastapi.core_api.datamodels.plugins import ExternalViewResponse
    from airflow.plugins_manager import is_valid_plugin

    from airflow_ml_provider.plugin import MlPlugin

    assert is_valid_plugin(MlPlugin)
    view = {"name": "MLflow", "href": "http://mlflow", "destination": "nav", "nav_top_level": True}
    assert ExternalViewResponse.model_validate(view).url_route is None
