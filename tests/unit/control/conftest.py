"""The control plane's tests: a deployment with nothing but a store, and an MLflow at the end of a wire."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from control_plane import Wire
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
def wire() -> Iterator[Wire]:
    found = Wire()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            found.requests.append(SimpleNamespace(path=path, query=query, headers=dict(self.headers)))
            status, body = found.answers.get(path, (404, "nothing here"))
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def mlflow_connection(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the deployment's connection: ``mlflow_connection(url, login=..., password=..., extra={...})``."""

    def connect(url: str, **parts: Any) -> None:
        connection = {"conn_type": "mlflow", "host": url, **parts}
        monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(connection))

    return connect
