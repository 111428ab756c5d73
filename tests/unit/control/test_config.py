"""The section [ml]."""

from __future__ import annotations

import pytest

from airflow_ml_provider import config
from airflow_ml_provider.compute import KubernetesCompute, LocalCompute
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
        ("somewhere", "names no compute"),
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


def test_kubernetes_is_set_up_by_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__ML__COMPUTE", "kubernetes")
    monkeypatch.setenv(
        "AIRFLOW__ML__KUBERNETES", '{"image": "steps:1", "namespace": "ml", "secrets": ["store"]}'
    )
    assert config.compute() == KubernetesCompute(image="steps:1", namespace="ml", secrets=("store",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no image"),
        ("{", "is not JSON"),
        ('{"image": "steps:1", "name_space": "ml"}', "did you mean 'namespace'"),
        ('{"image": "steps:1", "secrets": "store"}', "is not a list"),
    ],
)
def test_a_wrong_document_for_kubernetes_is_named(
    monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setenv("AIRFLOW__ML__COMPUTE", "kubernetes")
    monkeypatch.setenv("AIRFLOW__ML__KUBERNETES", text)
    with pytest.raises(ConfigError, match=said):
        config.compute()


def test_a_step_changes_fields_of_the_default_and_those_of_another_kind_are_left_out() -> None:
    pods = KubernetesCompute(image="steps:1", resources={"cpu": 2, "memory": "4Gi"})
    more = pods.but({"resources": {"memory": "16Gi"}, "python": "/usr/bin/python3"})
    assert more == KubernetesCompute(image="steps:1", resources={"cpu": "2", "memory": "16Gi"})
    apart = KubernetesCompute(
        image="steps:1", resources={"requests": {"cpu": 1}, "limits": {"memory": "4Gi"}}
    )
    assert apart.but({"resources": {"memory": "8Gi"}}).resources == {
        "limits": {"memory": "8Gi"},
        "requests": {"cpu": "1", "memory": "8Gi"},
    }
    assert LocalCompute().but({"resources": {"memory": "16Gi"}}) == LocalCompute()
    with pytest.raises(ConfigError, match="did you mean 'resources'"):
        LocalCompute().but({"resource": {}})


def test_a_compute_has_a_repr_that_makes_it_again_and_a_hash() -> None:
    pods = KubernetesCompute(image="steps:1", tolerations=[{"key": "gpu"}], labels={"b": "2", "a": "1"})
    assert eval(repr(pods)) == pods
    assert hash(pods) == hash(eval(repr(pods)))
