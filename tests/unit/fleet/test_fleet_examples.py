"""What the documentation shows of fleets, run as Airflow runs it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from control_plane import context_of, events_of, run_task
from fleet_world import Fleet
from model_world import World, feature_rows

EXAMPLES = Path(__file__).parent / "examples"


@pytest.fixture
def example(store: str, mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The DAG file, in a deployment that has what it reads."""
    World.at(tmp_path, mlflow_uri).publish(feature_rows(), table="training")
    monkeypatch.setenv("AIRFLOW__ML__STORE", store)
    connection = {"conn_type": "mlflow", "host": mlflow_uri}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(connection))
    spec = importlib.util.spec_from_file_location("delays_by_origin", EXAMPLES / "delays_by_origin.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_documented_fleets_do_what_the_page_says(example: ModuleType, store: str) -> None:
    context = context_of(example.delays)
    output = run_task(example.delays, context)
    assert output["summary"]["done"] == 6
    found = Fleet(store, EXAMPLES).table("delays_by_origin")
    assert found.columns == [
        "origin", "longest", "state", "tries", "seconds", "flights", "late", "error",
    ]  # fmt: skip
    assert (found["flights"].to_list()[0], found["flights"].to_list()[1]) < (200, 400)
    assert events_of(context)["table:delays_by_origin"]["rows"] == 6

    context = context_of(example.fitted)
    output = run_task(example.fitted, context)
    assert output["summary"]["done"] == len(example.GRID)
    assert output["model"] == {
        "name": "late_arrival", "version": 1, "run_id": output["mlflow_run_id"], "alias": "challenger",
    }  # fmt: skip
    assert output["metrics"]["holdout_log_loss_min"] < output["metrics"]["holdout_log_loss_max"]
    assert events_of(context)["model:late_arrival@challenger"]["version"] == 1
