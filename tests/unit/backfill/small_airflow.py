"""A small real HTTP server with the part of Airflow's API that a backfill needs; its runs end by themselves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class SmallAirflow:
    """One DAG without steps.

    :ivar outcomes: run id's last part (the partition) to how its runs end, one after the other; success if none.
    :ivar lost: so many answers to a new run are dropped after the run was made.
    """

    def __init__(self, kind: str = "partitioned") -> None:
        self.kind = kind
        self.paused = False
        self.max_active_runs = 16
        self.runs: dict[str, dict[str, Any]] = {}
        self.outcomes: dict[str, list[str]] = {}
        self.most_at_once = 0
        self.posts: list[dict[str, Any]] = []
        self.lost = 0
        self.on_start: Callable[[int], None] = lambda count: None
        self._lock = threading.RLock()
        airflow = self

        class Handler(_Handler):
            small = airflow

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def put(self, run_id: str, **fields: Any) -> None:
        """A run as it is."""
        self.runs[run_id] = {
            "dag_run_id": run_id, "state": "success", "partition_key": None, "logical_date": None, "conf": {},
            "run_after": "2026-01-01T00:00:00Z", "start_date": "2026-01-01T00:00:00Z",
            "end_date": "2026-01-01T00:00:30Z", **fields,
        }  # fmt: skip

    def answer(self, method: str, path: str, body: Any, query: dict[str, list[str]]) -> tuple[int, Any]:
        with self._lock:
            parts = [unquote(part) for part in path.strip("/").split("/")][2:]
            match (method, parts):
                case (_, ["dags", "d"]):
                    return 200, {"is_paused": self.paused}
                case (_, ["dags", "d", "details"]):
                    return 200, {
                        "is_paused": self.paused, "timetable_partitioned": self.kind == "partitioned",
                        "timetable_periodic": self.kind == "time", "asset_expression": None, "timezone": "UTC",
                        "timetable_summary": "0 0 * * *", "has_import_errors": False,
                        "max_active_runs": self.max_active_runs,
                    }  # fmt: skip
                case (_, ["dags", "d", "tasks"]):
                    return 200, {"tasks": [{"task_id": "t", "is_mapped": False}]}
                case ("GET", ["dags", "d", "dagRuns"]):
                    return 200, self._page("dag_runs", list(self.runs.values()), query)
                case ("POST", ["dags", "d", "dagRuns"]):
                    return self._start(body)
                case ("GET", ["dags", "d", "dagRuns", run]) if run in self.runs:
                    return 200, self._look(self.runs[run])
                case ("POST", ["dags", "d", "dagRuns", run, "clear"]) if run in self.runs:
                    self.runs[run]["state"] = "queued"
                    return 200, {}
                case ("GET", ["assets"]):
                    return 200, self._page("assets", [], query)
                case ("GET", ["assets", "events"]):
                    return 200, self._page("asset_events", [], query)
            return 404, {"detail": "not found"} if path != "/auth/token" else {}

    def _page(self, name: str, items: list[Any], query: dict[str, list[str]]) -> dict[str, Any]:
        start = int(query["offset"][0])
        return {name: items[start : start + int(query["limit"][0])], "total_entries": len(items)}

    def _start(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.posts.append(body)
        taken = {run["logical_date"] for run in self.runs.values() if run["logical_date"]}
        if body["dag_run_id"] in self.runs or body["logical_date"] in taken:
            return 409, {"detail": "exists"}
        self.put(
            body["dag_run_id"], state="queued", end_date=None, conf=body["conf"],
            partition_key=body.get("partition_key"), logical_date=body["logical_date"],
        )  # fmt: skip
        active = sum(run["state"] in ("queued", "running") for run in self.runs.values())
        self.most_at_once = max(self.most_at_once, active)
        self.on_start(len(self.posts))
        if self.lost:
            self.lost -= 1
            return 0, None
        return 200, self.runs[body["dag_run_id"]]

    def _look(self, run: dict[str, Any]) -> dict[str, Any]:
        """Each look sees a run a state further, unless the DAG is paused."""
        if run["state"] == "running":
            ends = self.outcomes.get(run["dag_run_id"].rpartition("__")[2], [])
            run["state"] = ends.pop(0) if ends else "success"
            run["end_date"] = f"2026-01-02T00:00:{len(self.posts):02}Z"
        elif run["state"] == "queued" and not self.paused:
            run["state"] = "running"
        return dict(run)


class _Handler(BaseHTTPRequestHandler):
    small: SmallAirflow
    protocol_version = "HTTP/1.1"

    def _do(self) -> None:
        url = urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        if url.path == "/auth/token":
            status, document = 201, {"access_token": "t"}
        else:
            status, document = self.small.answer(self.command, url.path, body, parse_qs(url.query))
        if not status:
            self.close_connection = True
            return
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _do

    def log_message(self, *words: Any) -> None:
        pass
