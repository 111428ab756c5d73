"""The backfill planner on a real Airflow: DAGs scheduled by time, by partition and by assets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_api import AirflowApi
from airflow_ml_provider.cli import main
from deployment import Deployment

pytestmark = pytest.mark.timeout(600)

DAYS = [f"2013-01-0{n}" for n in range(1, 7)]
RANGE = ("--from", DAYS[0], "--to", DAYS[-1])
DAGS = ("backfill_daily", "backfill_downstream", "backfill_partitioned", "backfill_by_asset")
Command = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def environment(deployment: Deployment, api: AirflowApi) -> dict[str, str]:
    folder = deployment.home / "faults" / "backfill"
    folder.mkdir()
    for number, day in enumerate(DAYS):
        write(deployment, day, number)
    api.wait_for_dags({*DAGS})
    for dag_id in DAGS:
        api.pause(dag_id, False)
    return {
        "AIRFLOW_ML_URL": deployment.airflow_url,
        "AIRFLOW__ML__STORE": (deployment.home / "store").as_uri(),
    }


@pytest.fixture
def backfill(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """``airflow-ml backfill ... --json``: its exit code and its outcome."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def call(*words: str) -> tuple[int, Any]:
        code = main(["backfill", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def write(deployment: Deployment, day: str, number: int) -> None:
    rows = "".join(f"{day},{number * 100 + n}\n" for n in range(10))
    (deployment.home / "faults" / "backfill" / f"{day}.csv").write_text(f"ds,x\n{rows}")


def states(plan: dict[str, Any]) -> dict[str, str]:
    return {item["partition"]: item["state"] for item in plan["items"]}


def runs_of(api: AirflowApi, dag_id: str) -> list[dict[str, Any]]:
    return [run for run in api.runs(dag_id) if run["dag_run_id"].startswith("ml_backfill__")]


def test_a_backfill_that_is_killed_in_the_middle_loses_nothing_and_doubles_nothing(
    deployment: Deployment, api: AirflowApi, backfill: Command, environment: dict[str, str]
) -> None:
    code, plan = backfill("plan", "backfill_daily", *RANGE)
    assert code == 0
    assert states(plan) == dict.fromkeys(DAYS, "missing")
    assert plan["estimate"]["runs"] == 0

    command = ("run", "backfill_daily", *RANGE, "--wave", "2", "--yes", "--poll", "0.5")
    killed = subprocess.Popen(
        [str(Path(sys.executable).parent / "airflow-ml"), "backfill", *command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert killed.stdout is not None
    lines: list[str] = []
    while not any(": success" in line for line in lines):
        line = killed.stdout.readline()
        assert line, lines
        lines.append(line)
    killed.kill()
    killed.wait()
    started = {run["dag_run_id"] for run in runs_of(api, "backfill_daily")}
    assert 1 <= len(started) < len(DAYS)

    code, found = backfill(*command)

    assert code == 0, found
    assert found["progress"] == {"done": DAYS}
    assert found["now"] == {"missing": 0, "stale": 0, "fine": len(DAYS)}
    runs = runs_of(api, "backfill_daily")
    assert started <= {run["dag_run_id"] for run in runs}
    assert sorted(run["logical_date"][:10] for run in runs) == DAYS
    _, kept = backfill("status", "backfill_daily")
    assert kept["finished_at"]
    assert states(backfill("plan", "backfill_daily", *RANGE)[1]) == dict.fromkeys(DAYS, "fine")
    # Muted: nobody downstream has heard of it.
    assert found["events"]["emitted"] == {}
    assert found["events"]["assets"]["table:backfill_rows"] == ["backfill_downstream"]
    assert api.runs("backfill_downstream") == []


def test_a_partition_whose_data_changed_is_run_again_and_only_that_one(
    deployment: Deployment, api: AirflowApi, backfill: Command
) -> None:
    code, found = backfill("run", "backfill_partitioned", *RANGE, "--wave", "3", "--yes", "--poll", "0.5")
    assert code == 0, found
    assert sorted(run["partition_key"] for run in runs_of(api, "backfill_partitioned")) == DAYS

    # The time-scheduled DAG has a run of this date already; and this time downstream hears of it.
    write(deployment, DAYS[2], 50)
    code, found = backfill(
        "run", "backfill_daily", "--from", DAYS[2], "--to", DAYS[2], "--only", "fine", "--events", "emit",
        "--yes", "--poll", "0.5", "--reason", "the file was corrected",
    )  # fmt: skip
    assert code == 0, found
    assert found["events"]["emitted"] == {"rows": 1}
    end = time.monotonic() + 60
    while not (told := api.runs("backfill_downstream")) and time.monotonic() < end:
        time.sleep(0.5)
    assert len(told) == 1

    _, plan = backfill("plan", "backfill_partitioned", *RANGE)
    assert {day for day, state in states(plan).items() if state != "fine"} == {DAYS[2]}
    why = {item["partition"]: item["why"] for item in plan["items"]}
    assert why[DAYS[2]] == f"features: table backfill_rows, partition {DAYS[2]}: version 6 -> 7"
    assert "may matter" in why[DAYS[3]]
    assert plan["estimate"]["runs"] == len(DAYS)
    code, found = backfill("run", "backfill_partitioned", *RANGE, "--wave", "3", "--yes", "--poll", "0.5")
    assert code == 0, found
    assert found["progress"] == {"done": [DAYS[2]]}


def test_a_dag_scheduled_by_assets_is_told_its_partition_by_a_parameter(
    api: AirflowApi, backfill: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = ("--from", DAYS[0], "--to", "2013-01-02")
    assert main(["backfill", "plan", "backfill_by_asset", *days]) == 64
    assert "--param day={partition}" in capsys.readouterr().err

    report = tmp_path / "report.md"
    code, found = backfill(
        "run", "backfill_by_asset", *days, "--param", "day={partition}", "--yes", "--poll", "0.5",
        "--report", str(report),
    )  # fmt: skip
    assert code == 0, found
    assert found["now"]["fine"] == 2
    assert sorted(run["conf"]["day"] for run in runs_of(api, "backfill_by_asset")) == DAYS[:2]
    assert "| now | 0 missing, 0 stale, 2 fine |" in report.read_text()


def test_code_that_changed_makes_every_partition_stale(deployment: Deployment, backfill: Command) -> None:
    code = deployment.dags_folder / "backfillwork.py"
    text = code.read_text()
    code.write_text(text + "\n\nMORE = 1\n")
    try:
        _, plan = backfill("plan", "backfill_partitioned", *RANGE)
    finally:
        code.write_text(text)
    assert states(plan) == dict.fromkeys(DAYS, "stale")
    assert all("features: code: " in item["why"] for item in plan["items"])
    assert states(backfill("plan", "backfill_partitioned", *RANGE)[1]) == dict.fromkeys(DAYS, "fine")
