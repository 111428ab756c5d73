"""What the documentation shows of searches, run as Airflow runs it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from control_plane import context_of, events_of, run_task
from model_world import World, feature_rows

EXAMPLES = Path(__file__).parent / "examples"


@pytest.mark.slow
def test_the_documented_search_does_what_the_page_says(
    store: str, mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    World.at(tmp_path, mlflow_uri).publish(feature_rows(), table="training")
    monkeypatch.setenv("AIRFLOW__ML__STORE", store)
    connection = {"conn_type": "mlflow", "host": mlflow_uri}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(connection))
    spec = importlib.util.spec_from_file_location("search_delays", EXAMPLES / "search_delays.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = context_of(module.best)
    output = run_task(module.best, context)
    assert output["summary"]["trials"] == 40
    assert output["summary"]["stopped early"] > 5
    assert output["model"]["name"] == "late_arrival"
    assert events_of(context)["model:late_arrival@challenger"]["version"] == output["model"]["version"]
