"""A small real HTTP server that answers as Airflow's API does, and fails as networks and restarts make it fail."""

from __future__ import annotations

import json
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# A fault: an HTTP status to answer with, "drop" before the call is done, or "lose" its answer once it is.
Fault = int | str


@dataclass
class FakeRun:
    """A run whose looks, one after the other, show these states; the last one stays."""

    document: dict[str, Any]
    looks: list[tuple[str, dict[str, str]]]
    looked: int = 0

    def step(self) -> tuple[str, dict[str, str]]:
        return self.looks[min(self.looked, len(self.looks) - 1)]


@dataclass
class FakeAirflow:
    """The server.

    :ivar script: what new runs show, look after look: the run's state and its tasks'.
    :ivar outputs: what tasks return, by task id.
    :ivar logs: the content of tasks' logs, as the API gives it.
    """

    prefix: str = ""
    certificate: Path | None = None
    users: dict[str, str] = field(default_factory=lambda: {"ci": "s3cret-word"})
    dags: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"train": {"is_paused": False, "params": {"until": {}, "seed": {}}}}
    )
    script: list[tuple[str, dict[str, str]]] = field(
        default_factory=lambda: [
            ("queued", {"fit": "none", "judge": "none"}),
            ("running", {"fit": "success", "judge": "running"}),
            ("success", {"fit": "success", "judge": "success"}),
        ]
    )
    outputs: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, list[Any]] = field(default_factory=dict)
    runs: dict[tuple[str, str], FakeRun] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    faults: list[tuple[str, str, Fault]] = field(default_factory=list)
    on_look: Callable[[int], None] = lambda look: None
    port: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self.start()

    @property
    def url(self) -> str:
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://127.0.0.1:{self.port}{self.prefix}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        fake = self

        class Handler(_Handler):
            airflow = fake

        self._server = _Server(("127.0.0.1", self.port), Handler)
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening and drop every connection, as a restart does; what was stored stays."""
        self._server.shutdown()
        self._server.drop_connections()
        self._server.server_close()

    def restart(self, after: float) -> None:
        """Go away now and come back a little later."""
        self.stop()
        timer = threading.Timer(after, self.start)
        timer.daemon = True
        timer.start()

    def fail(self, method: str, path: str, *faults: Fault) -> None:
        """Have the next calls like this fail."""
        self.faults += [(method, path, fault) for fault in faults]

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for number, (of_method, of_path, fault) in enumerate(self.faults):
                if of_method == method and of_path in path:
                    del self.faults[number]
                    return fault
        return None

    def count(self, method: str, path: str) -> int:
        return sum(of == method and path in where for of, where in self.calls)

    # The API

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        with self._lock:
            if path == "/auth/token":
                return self._login(method, body or {})
            parts = [unquote(part) for part in path.removeprefix("/api/v2/").split("/")]
            match (method, parts):
                case ("GET", ["version"]):
                    return 200, {"version": "3.3.2"}
                case ("GET", ["dags", dag, "details"]) if dag in self.dags:
                    return 200, {"dag_id": dag, **self.dags[dag]}
                case ("PATCH", ["dags", dag]) if dag in self.dags:
                    self.dags[dag] |= body
                    return 200, self.dags[dag]
                case ("POST", ["dags", dag, "dagRuns"]) if dag in self.dags:
                    return self._trigger(dag, body)
                case (_, ["dags", dag, "dagRuns", run, *rest]) if (dag, run) in self.runs:
                    return self._of_run(method, self.runs[dag, run], rest, query, body)
        return 404, {"detail": f"{path} not found"}

    def _login(self, method: str, body: Mapping[str, str]) -> tuple[int, Any]:
        if method != "POST":
            return 403, {"detail": "This method is only allowed if simple_auth_manager_all_admins is True"}
        if not body or self.users.get(body["username"]) != body["password"]:
            return 401, {"detail": "Invalid credentials"}
        token = secrets.token_hex(12)
        self.tokens.add(token)
        return 201, {"access_token": token}

    def _trigger(self, dag: str, body: dict[str, Any]) -> tuple[int, Any]:
        run_id = body["dag_run_id"]
        if (dag, run_id) in self.runs:
            return 409, {"detail": "DAGRun already exists"}
        document = {"dag_id": dag, **body, "start_date": "2026-01-02T03:04:05Z", "duration": None}
        self.runs[dag, run_id] = FakeRun(document, list(self.script))
        return 200, document | {"state": "queued"}

    def _of_run(
        self, method: str, run: FakeRun, rest: list[str], query: Mapping[str, str], body: Any
    ) -> tuple[int, Any]:
        state, tasks = run.step()
        match (method, rest):
            case ("GET", []):
                return 200, run.document | {"state": state, "duration": 12.5 if state == "success" else None}
            case ("PATCH", []):
                run.looks, run.looked = [(body["state"], tasks)], 0
                return 200, run.document | body
            case ("POST", ["clear"]):
                run.looks, run.looked = list(self.script), 0
                return 200, run.document
            case ("GET", ["taskInstances"]):
                run.looked += 1
                self.on_look(run.looked)
                found = [_task(name, found) for name, found in tasks.items()]
                start, end = int(query["offset"]), int(query["offset"]) + int(query["limit"])
                return 200, {"task_instances": found[start:end], "total_entries": len(found)}
            case ("GET", ["taskInstances", "~", "xcomEntries"]):
                entries = [{"key": "return_value", "task_id": t, "map_index": -1} for t in self.outputs]
                return 200, {"xcom_entries": entries[int(query["offset"]) :], "total_entries": len(entries)}
            case ("GET", ["taskInstances", task, "xcomEntries", "return_value"]) if task in self.outputs:
                return 200, {"value": self.outputs[task]}
            case ("GET", ["taskInstances", task, "logs", _]) if task in self.logs:
                return 200, {"content": self.logs[task], "continuation_token": None}
        return 404, {"detail": "not found"}


def _task(name: str, state: str) -> dict[str, Any]:
    task, _, index = name.partition("#")
    return {
        "task_id": task,
        "map_index": int(index or -1),
        "state": None if state == "none" else state,
        "try_number": 0 if state == "none" else 1,
        "duration": 4.25 if state in ("success", "failed") else None,
        "start_date": None if state == "none" else "2026-01-02T03:04:06Z",
        "rendered_map_index": None,
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def drop_connections(self) -> None:
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: clients that hang up are part of the play."""


class _Handler(BaseHTTPRequestHandler):
    airflow: FakeAirflow
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        airflow = self.airflow
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        parts = urlsplit(self.path)
        airflow.calls.append((self.command, self.path))
        airflow.headers.append(dict(self.headers))
        fault = airflow.fault(self.command, self.path)
        if isinstance(fault, int):
            return self._send(fault, {"detail": "a fault"})
        if fault == "drop":
            self.close_connection = True
            return None
        if not parts.path.startswith(airflow.prefix + "/"):
            return self._send(404, {"detail": "Not Found"})
        path = parts.path[len(airflow.prefix) :]
        if path.startswith("/api/") and not self._known():
            return self._send(401, {"detail": "Invalid JWT token"})
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        status, document = airflow.answer(self.command, path, query, body)
        if fault == "lose":
            self.close_connection = True
            return None
        return self._send(status, document)

    def _known(self) -> bool:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") in self.airflow.tokens

    def _send(self, status: int, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _answer

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something that another thread or process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
