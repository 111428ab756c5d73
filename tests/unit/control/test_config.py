"""The section [ml]."""

from __future__ import annotations

import pytest

from airflow_ml_provider import config
from airflow_ml_provider.compute import LocalCompute
from airflow_ml_provider.contract.errors import ConfigError

ELSEWHERE = LocalCompute(environment={"WHERE": "elsewhere"})


def test_a_missing_store_says_which_option_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__ML__STORE")
    with pytest.raises(ConfigError, match="no store is configured") as caught:
        config.store()
    assert "AIRFLOW__ML__STORE" in str(caught.value)


def test_steps_run_locally_where_nothing_is_configured() -> None:
    assert config.compute() == LocalCompute()


def test_a_compute_can_be_named_by_its_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__ML__COMPUTE", f"{__name__}:ELSEWHERE")
    assert config.compute() is ELSEWHERE


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kubernetes", "names no compute"),
        ("nowhere.at_all:X", "No module named 'nowhere'"),
        (f"{__name__}:MISSING", "MISSING"),
        ("airflow_ml_provider.config:SECTION", "is a str, not a Compute"),
    ],
)
def test_a_compute_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setenv("AIRFLOW__ML__COMPUTE", name)
    with pytest.raises(ConfigError, match=said) as caught:
        config.compute()
    assert "[ml] compute" in str(caught.value)


def test_the_experiment_is_the_dag_unless_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.experiment("flights_train") == "flights_train"
    monkeypatch.setenv("AIRFLOW__ML__EXPERIMENT", "team_a/{dag_id}")
    assert config.experiment("flights_train") == "team_a/flights_train"


def test_an_option_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__ML__MLFLOW_CONN_ID", " ")
    monkeypatch.setenv("AIRFLOW__ML__MLFLOW_BROWSE_URL", "http://mlflow/")
    assert config.mlflow_browse_url() == "http://mlflow"
    monkeypatch.setenv("AIRFLOW__ML__MLFLOW_CONN_ID", "")
    assert config.mlflow_connection() == "mlflow_default"
