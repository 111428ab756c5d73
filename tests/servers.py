"""What tests need to start a server of their own, and an Airflow that is nobody's."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def wait_for_http(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> None:
    """Wait until a server answers; fails with its log when it ends or takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"{url} did not come up:\n{log.read_text()[-3000:]}")


@contextmanager
def s3_server(log: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """An S3 server; gives its address. A process of its own: delta-rs holds Python's lock while it waits."""
    port = free_port(host)
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    # Else it may take the first part of an address for a bucket's name.
    env = {**os.environ, "S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true"}
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=env)
    try:
        wait_for_http(f"http://{host}:{port}/moto-api/", server, log)
        yield f"http://{host}:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


@cache
def airflow_home_of_its_own() -> None:
    """Has Airflow, when it is imported later, make its home where nobody's own is touched; once a process."""
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


def forget_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away what the environment says of a deployment: its settings, connections and MLflow."""
    for name in list(os.environ):
        if name.startswith(("AIRFLOW__ML__", "AIRFLOW_CONN_", "MLFLOW_")):
            monkeypatch.delenv(name)
