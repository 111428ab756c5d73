"""A run that is killed in the middle and tried again ends with the tables of an undisturbed one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import polars as pl
import psutil
import pytest
from deltalake import DeltaTable

from airflow_api import AirflowApi
from deployment import Deployment

pytestmark = pytest.mark.timeout(600)

ROWS = "ds,x\n" + "".join(f"2013-01-0{n % 3 + 1},{'bad' if n % 100 == 7 else n}\n" for n in range(3_000))


def start(deployment: Deployment, api: AirflowApi, victim: str) -> tuple[str, str]:
    folder = deployment.home / "faults" / victim
    folder.mkdir(exist_ok=True)
    (folder / "rows.csv").write_text(ROWS)
    dag_id = f"killed_{victim}"
    api.wait_for_dags({dag_id})
    api.pause(dag_id, False)
    return dag_id, api.trigger(dag_id, "once")["dag_run_id"]


def content(deployment: Deployment, name: str) -> list[tuple[object, ...]]:
    uri = str(deployment.home / "store" / "tables" / name)
    frame = pl.scan_delta(DeltaTable(uri)).collect()
    return frame.select(sorted(set(frame.columns) - {"source_digest", "file"})).sort(pl.all()).rows()


def pid_of(deployment: Deployment, victim: str) -> int:
    path = deployment.home / "faults" / f"{victim}.pid"
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        time.sleep(0.1)
    raise AssertionError(f"the step of {victim} has not begun")


def gone(pid: int, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while psutil.pid_exists(pid) and time.monotonic() < end:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return not psutil.pid_exists(pid)


@pytest.fixture(scope="module")
def undisturbed(deployment: Deployment, api: AirflowApi) -> dict[str, list[tuple[object, ...]]]:
    dag_id, run_id = start(deployment, api, "undisturbed")
    assert api.wait(dag_id, run_id) == "success"
    return {name: content(deployment, f"killed_undisturbed{name}") for name in ("", "_quarantine")}


def test_kill_9_of_the_step_is_retried_to_the_same_tables(
    deployment: Deployment, api: AirflowApi, undisturbed: dict[str, list[tuple[object, ...]]]
) -> None:
    dag_id, run_id = start(deployment, api, "step")
    os.kill(pid_of(deployment, "step"), signal.SIGKILL)
    assert api.wait(dag_id, run_id) == "success"
    [task] = api.tasks(dag_id, run_id)
    assert task["try_number"] == 2
    first = api.log(dag_id, run_id, "ingest", 1)
    assert "was ended by SIGKILL" in first
    assert "  kept: " in first
    for name, rows in undisturbed.items():
        assert content(deployment, f"killed_step{name}") == rows


def test_kill_9_of_the_airflow_worker_ends_its_step_and_is_retried_to_the_same_tables(
    deployment: Deployment, api: AirflowApi, undisturbed: dict[str, list[tuple[object, ...]]]
) -> None:
    dag_id, run_id = start(deployment, api, "worker")
    step = pid_of(deployment, "worker")
    # The step's parents: the task's process and the worker that supervises it.
    task_process = psutil.Process(step).parent()
    assert task_process is not None
    supervisor = task_process.parent()
    assert supervisor is not None
    for victim in (supervisor, task_process):
        os.kill(victim.pid, signal.SIGKILL)
    assert gone(step), "the step outlived its worker"
    assert api.wait(dag_id, run_id) == "success"
    for name, rows in undisturbed.items():
        assert content(deployment, f"killed_worker{name}") == rows
    assert not list(Path(deployment.home / "store").glob("aside/*/*/*"))
