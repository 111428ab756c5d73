"""The few calls of Airflow's REST API that the demo and the integration tests make."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import requests

FINAL = {"success", "failed"}
FINAL_TASK = {"success", "failed", "skipped", "upstream_failed", "removed"}


class AirflowError(RuntimeError):
    """Airflow refused a call, or a run did not end as it should."""


class AirflowApi:
    """Airflow's REST API v2 of a local deployment, whose one user is admin without a password."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False

    def call(self, method: str, path: str, *, json: Any = None, params: dict[str, Any] | None = None) -> Any:
        """One call; a dropped connection is tried again when the call only reads.

        :raises AirflowError: any answer but a good one; carries the status code as ``.status``.
        """
        for attempt in range(5):
            try:
                answer = self._send(method, path, json, params)
                break
            except requests.ConnectionError:
                if method != "GET" or attempt == 4:
                    raise
                time.sleep(1)
        if not answer.ok:
            error = AirflowError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
            error.status = answer.status_code  # type: ignore[attr-defined]
            raise error
        return answer.json() if answer.content else None

    def _send(self, method: str, path: str, json: Any, params: dict[str, Any] | None) -> requests.Response:
        for _ in range(2):
            if "Authorization" not in self._session.headers:
                token = self._session.get(f"{self.url}/auth/token", timeout=30)
                token.raise_for_status()
                self._session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
            answer = self._session.request(
                method, f"{self.url}/api/v2{path}", json=json, params=params, timeout=60
            )
            if answer.status_code != 401:
                break
            del self._session.headers["Authorization"]
        return answer

    def dags(self) -> set[str]:
        """The ids of all DAGs that Airflow has parsed."""
        return {dag["dag_id"] for dag in self.call("GET", "/dags", params={"limit": 200})["dags"]}

    def import_errors(self) -> list[str]:
        """What Airflow could not parse, with the trace."""
        return [e["stack_trace"] for e in self.call("GET", "/importErrors")["import_errors"]]

    def wait_for_dags(self, wanted: set[str], seconds: float = 120) -> None:
        """Wait until Airflow has parsed these DAGs."""
        end = time.monotonic() + seconds
        while not wanted <= self.dags():
            if errors := self.import_errors():
                raise AirflowError("a DAG cannot be parsed:\n" + "\n".join(errors))
            if time.monotonic() > end:
                raise AirflowError(f"after {seconds:.0f} s Airflow has parsed {sorted(self.dags())} only")
            time.sleep(0.5)

    def pause(self, dag_id: str, paused: bool = True) -> None:
        """Pause or unpause a DAG."""
        self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": paused})

    def run(self, dag_id: str, run_id: str) -> dict[str, Any] | None:
        """A DAG run, None if there is none of this id."""
        try:
            return self.call("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")  # type: ignore[no-any-return]
        except AirflowError as error:
            if getattr(error, "status", None) == 404:
                return None
            raise

    def runs(self, dag_id: str, **filters: Any) -> list[dict[str, Any]]:
        """The DAG's runs, the newest first."""
        found = self.call(
            "GET", f"/dags/{dag_id}/dagRuns", params={"order_by": "-run_after", "limit": 100, **filters}
        )
        return found["dag_runs"]  # type: ignore[no-any-return]

    def trigger(
        self, dag_id: str, run_id: str, conf: dict[str, Any] | None = None, partition_key: str | None = None
    ) -> dict[str, Any]:
        """Start a run, or find it: the same id never starts a second one."""
        body = {
            "dag_run_id": run_id,
            "logical_date": None,
            "conf": conf or {},
            "partition_key": partition_key,
        }
        try:
            return self.call("POST", f"/dags/{dag_id}/dagRuns", json=body)  # type: ignore[no-any-return]
        except AirflowError as error:
            found = self.run(dag_id, run_id) if getattr(error, "status", None) == 409 else None
            if found is None:
                raise
            return found

    def backfill(self, dag_id: str, first_day: str, last_day: str, **options: Any) -> int:
        """Start Airflow's own backfill over partitions; gives its id."""
        body = {"dag_id": dag_id, "from_date": f"{first_day}T00:00:00Z", "to_date": f"{last_day}T23:59:59Z"}
        return int(self.call("POST", "/backfills", json={**body, **options})["id"])

    def backfill_done(self, backfill_id: int) -> bool:
        """Whether a backfill has completed."""
        return bool(self.call("GET", f"/backfills/{backfill_id}")["completed_at"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances"
        return self.call("GET", path, params={"limit": 200})["task_instances"]  # type: ignore[no-any-return]

    def output(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task returned, None if nothing."""
        run = quote(run_id, safe="")
        path = f"/dags/{dag_id}/dagRuns/{run}/taskInstances/{task_id}/xcomEntries/return_value"
        try:
            return self.call("GET", path, params={"deserialize": "true"})["value"]
        except AirflowError as error:
            if getattr(error, "status", None) == 404:
                return None
            raise

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """The log of a task's try, as text."""
        run = quote(run_id, safe="")
        path = f"/dags/{dag_id}/dagRuns/{run}/taskInstances/{task_id}/logs/{try_number}"
        content = self.call("GET", path, params={"full_content": "true"})["content"]
        return "\n".join(
            str(line.get("event", line)) if isinstance(line, dict) else str(line) for line in content
        )

    def finished_tasks(
        self, dag_id: str, run_id: str, seconds: float, waiting: Callable[[], None] = lambda: None
    ) -> Iterator[dict[str, Any]]:
        """The run's task instances, each when it has finished, until the run has.

        :raises AirflowError: the run takes longer than ``seconds``.
        """
        end = time.monotonic() + seconds
        seen: set[tuple[str, int]] = set()
        while True:
            run = self.run(dag_id, run_id)
            state = run["state"] if run else "missing"
            for task in sorted(self.tasks(dag_id, run_id), key=lambda t: t["end_date"] or ""):
                name = (task["task_id"], task["map_index"])
                if task["state"] in FINAL_TASK and name not in seen:
                    seen.add(name)
                    yield task
            if state in FINAL:
                return
            if time.monotonic() > end:
                raise AirflowError(f"{dag_id}, run {run_id}, is still {state} after {seconds:.0f} s")
            waiting()
            time.sleep(0.5)

    def wait(self, dag_id: str, run_id: str, seconds: float = 240) -> str:
        """Wait for a run; gives its state."""
        for _ in self.finished_tasks(dag_id, run_id, seconds):
            pass
        return str((self.run(dag_id, run_id) or {})["state"])
