"""A deployment with a store of its own, and steps that run in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from servers import airflow_home_of_its_own, forget_deployment

from airflow_ml_provider.contract.store import Store

# Before the test modules import Airflow.
airflow_home_of_its_own()


@pytest.fixture(autouse=True)
def deployment(store: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A deployment with a store and nothing else configured."""
    forget_deployment(monkeypatch)
    monkeypatch.setenv("AIRFLOW__ML__STORE", store)
    return Store(store)


@pytest.fixture
def shop(deployment: Store, tmp_path: Path) -> Any:
    """Orders of three days, and tasks over them in any DAG."""
    from memo_world import Shop

    return Shop.at(deployment, tmp_path)


@pytest.fixture
def world(tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Feature rows with labels, user code that trains on them, and a real MLflow that the deployment knows."""
    from model_world import World, feature_rows

    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": mlflow_uri}))
    found = World.at(tmp_path, mlflow_uri)
    found.publish(feature_rows())
    return found
