"""The MLflow connection: over a real wire, and to a real MLflow."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from control_plane import Wire

from airflow_ml_provider import Model
from airflow_ml_provider.contract.errors import ConfigError, DataError, MLError, TransientError
from airflow_ml_provider.hooks.mlflow import MlflowHook, find_hook

Connect = Callable[..., None]
ALIAS = "/api/2.0/mlflow/registered-models/alias"
CHAMPION = Model("flight_delays")


@pytest.mark.parametrize(
    ("parts", "uri"),
    [
        ({"host": "https://mlflow.example.com/"}, "https://mlflow.example.com"),
        ({"host": "https://example.com/mlflow"}, "https://example.com/mlflow"),
        ({"host": "http://127.0.0.1", "port": 5000}, "http://127.0.0.1:5000"),
        ({"host": "mlflow", "port": 5000}, "http://mlflow:5000"),
        ({"host": "mlflow", "schema": "https"}, "https://mlflow"),
        ({"host": "http://mlflow:80", "port": 5000}, "http://mlflow:80"),
    ],
)
def test_the_address_is_read_as_people_write_it(
    mlflow_connection: Connect, parts: dict[str, Any], uri: str
) -> None:
    mlflow_connection("", **parts)
    assert MlflowHook().tracking_uri == uri


def test_an_address_without_host_or_with_a_password_in_it_is_refused(mlflow_connection: Connect) -> None:
    mlflow_connection("")
    with pytest.raises(ConfigError, match="connection 'mlflow_default' has no host"):
        _ = MlflowHook().tracking_uri
    mlflow_connection("https://ada:s3cret@mlflow")
    with pytest.raises(ConfigError, match="has credentials in it") as caught:
        _ = MlflowHook().tracking_uri
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "environment"),
    [
        ({}, {}),
        (
            {"login": "ada", "password": "p"},
            {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "p"},
        ),
        ({"extra": {"token": "t"}}, {"MLFLOW_TRACKING_TOKEN": "t"}),
        ({"password": "t"}, {"MLFLOW_TRACKING_TOKEN": "t"}),
        ({"extra": {"verify_tls": False}}, {"MLFLOW_TRACKING_INSECURE_TLS": "true"}),
        ({"extra": {"verify_tls": "false"}}, {"MLFLOW_TRACKING_INSECURE_TLS": "true"}),
    ],
)
def test_a_step_gets_what_mlflows_client_reads(
    mlflow_connection: Connect, parts: dict[str, Any], environment: dict[str, str]
) -> None:
    mlflow_connection("http://mlflow", **parts)
    assert MlflowHook().environment() == {"MLFLOW_TRACKING_URI": "http://mlflow", **environment}


def test_a_login_is_sent_as_mlflow_wants_it_and_a_netrc_is_not(
    mlflow_connection: Connect, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wire.alias(1)
    sent = []
    for parts in ({}, {"login": "ada", "password": "p"}, {"extra": {"token": "t"}}):
        mlflow_connection(wire.url, **parts)
        MlflowHook().resolve(CHAMPION)
        sent.append(wire.requests[-1].headers.get("Authorization"))
    assert sent == [None, "Basic " + base64.b64encode(b"ada:p").decode(), "Bearer t"]


def test_names_are_escaped_on_the_wire(mlflow_connection: Connect, wire: Wire) -> None:
    mlflow_connection(wire.url)
    wire.alias(3)
    MlflowHook().resolve(Model("late & later", "größte"))
    assert wire.requests[-1].query == "name=late+%26+later&alias=gr%C3%B6%C3%9Fte"


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((401, "no"), ConfigError, "refused the connection 'mlflow_default' .HTTP 401"),
        ((403, "no"), ConfigError, "refused the connection 'mlflow_default' .HTTP 403"),
        ((503, "busy"), TransientError, "answered HTTP 503"),
        ((429, "slower"), TransientError, "answered HTTP 429"),
        ((404, "<html>a proxy's page</html>"), ConfigError, "does not answer like MLflow .HTTP 404"),
        ((200, "<html>something else</html>"), ConfigError, "does not answer like MLflow .no JSON"),
        ((400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "reserved"}), ConfigError, "HTTP 400"),
    ],
)
def test_each_way_to_be_refused_is_told_apart(
    mlflow_connection: Connect, wire: Wire, answer: tuple[int, Any], kind: type[MLError], said: str
) -> None:
    mlflow_connection(wire.url, login="ada", password="s3cret")
    wire.answers[ALIAS] = answer
    with pytest.raises(kind, match=said) as caught:
        MlflowHook().find(CHAMPION)
    assert wire.url in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_an_unreachable_server_is_named_and_worth_a_retry(mlflow_connection: Connect, wire: Wire) -> None:
    mlflow_connection("http://127.0.0.1:9")
    with pytest.raises(TransientError, match=r"MLflow at http://127\.0\.0\.1:9 is not reachable") as caught:
        MlflowHook().find(CHAMPION)
    assert "check that it runs, and its address in the connection 'mlflow_default'" in str(caught.value)


def test_the_forms_button_says_whether_it_works(mlflow_connection: Connect, wire: Wire) -> None:
    mlflow_connection(wire.url)
    wire.answers["/api/2.0/mlflow/experiments/search"] = (200, {"experiments": []})
    assert MlflowHook().test_connection() == (True, f"MLflow at {wire.url} answers")
    wire.answers["/api/2.0/mlflow/experiments/search"] = (401, "no")
    works, said = MlflowHook().test_connection()
    assert (works, "HTTP 401" in said) == (False, True)


def test_a_missing_connection_is_an_error_only_for_who_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_hook() is None
    monkeypatch.setenv("AIRFLOW__ML__MLFLOW_CONN_ID", "mine")
    with pytest.raises(ConfigError, match="there is no Airflow connection 'mine'"):
        _ = MlflowHook().tracking_uri
    monkeypatch.setenv("AIRFLOW_CONN_MINE", '{"conn_type": "mlflow", "host": "http://mlflow"}')
    assert find_hook() is not None


def post(uri: str, path: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{uri}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_a_real_mlflow_is_asked_for_versions_and_aliases(mlflow_connection: Connect, mlflow_uri: str) -> None:
    mlflow_connection(mlflow_uri)
    hook, name = MlflowHook(), "control_plane_test"
    with pytest.raises(DataError, match=f"has no alias 'champion' of the model '{name}'"):
        hook.resolve(Model(name))
    post(mlflow_uri, "registered-models/create", name=name)
    assert hook.find(Model(name)) is None
    run = post(mlflow_uri, "runs/create", experiment_id="0")["run"]["info"]
    for _ in range(2):
        post(mlflow_uri, "model-versions/create", name=name, source=run["artifact_uri"], run_id=run["run_id"])
    post(mlflow_uri, "registered-models/alias", name=name, alias="champion", version="2")
    found = hook.resolve(Model(name))
    assert (found.name, found.version, found.run_id, found.alias) == (name, 2, run["run_id"], "champion")
    assert hook.resolve(Model(name, version=1)).version == 1
    with pytest.raises(DataError, match="has no version 3"):
        hook.resolve(Model(name, version=3))
    assert hook.test_connection() == (True, f"MLflow at {mlflow_uri} answers")
