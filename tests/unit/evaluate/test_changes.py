"""What changed between two versions: told from what MLflow has of them, and never guessed when it does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_world import World

from airflow_ml_provider.contract.errors import TransientError
from airflow_ml_provider.steps.changes import changes
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.versions import Registered

NOBODY = "http://127.0.0.1:9"


def version(number: int, run_id: str, **tags: str) -> Registered:
    return Registered("delays", number, run_id, "", tags)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_versions_whose_runs_are_gone_are_compared_by_their_tags(tmp_path: Path, mlflow_uri: str) -> None:
    step = StepContext(World("memory:///", mlflow_uri, tmp_path).spec("evaluate", {}), tmp_path)
    before = version(1, "0" * 32, code_commit="a" * 40, partitions="2013-01-01")
    now = version(2, "1" * 32, code_commit="a" * 40, partitions="2013-01-02")
    assert changes(step, before, now) == [
        {"what": "training partitions", "champion": "2013-01-01", "candidate": "2013-01-02"}
    ]


def test_an_mlflow_that_does_not_answer_makes_no_shorter_verdict(tmp_path: Path) -> None:
    step = StepContext(World("memory:///", NOBODY, tmp_path).spec("evaluate", {}), tmp_path)
    with pytest.raises(TransientError, match="not reachable"):
        changes(step, version(1, "0" * 32), version(2, "1" * 32))
