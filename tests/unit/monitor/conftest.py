"""The monitor step's tests: a world to look at, and a way to look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from monitor_world import LABELS, World

from airflow_ml_provider.contract.documents import StepResult

RunStep = Callable[..., StepResult]


@pytest.fixture
def world(store: str, mlflow_uri: str) -> World:
    return World(store, mlflow_uri)


@pytest.fixture
def monitor(run_step: RunStep, mlflow_uri: str, user_code: Callable[..., str]) -> Callable[..., StepResult]:
    user_code(labels=LABELS)

    def run(partitions: str = "2013-06-01", *, fingerprint: str = "", **arguments: Any) -> StepResult:
        given = {"predictions": {"name": "predictions"}, "rows": {"name": "rows"}, "partitions": partitions}
        return run_step("monitor", {**given, **arguments}, mlflow=mlflow_uri, fingerprint=fingerprint)

    return run
