"""An Airflow to play with, and the command as a user runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from evaluated import EVALUATED
from fake_airflow import FakeAirflow

from airflow_ml_provider.cli import main


@pytest.fixture(autouse=True)
def _nobodys_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "TOKEN", "USER", "PASSWORD"):
        monkeypatch.delenv(f"AIRFLOW_ML_{name}", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def airflow() -> Iterator[FakeAirflow]:
    """An Airflow that knows the user ci."""
    fake = FakeAirflow()
    fake.outputs["judge"] = EVALUATED
    yield fake
    fake.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, signed by itself."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", f"{path}.crt"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def trigger(airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``airflow-ml trigger train`` against that Airflow; gives the exit code."""
    monkeypatch.setenv("AIRFLOW_ML_USER", "ci")
    monkeypatch.setenv("AIRFLOW_ML_PASSWORD", "s3cret-word")

    def run(*words: str, dag: str = "train") -> int:
        return main(["trigger", dag, "--url", airflow.url, "--poll", "0s", *words])

    return run
