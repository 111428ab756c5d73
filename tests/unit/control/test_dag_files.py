"""DAGs of steps as Airflow stores them, maps them and runs them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from control_plane import FakeCompute, context_of, run_task

from airflow_ml_provider import Model, Table
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.operators import TrainOperator

REPOSITORY = Path(__file__).parents[3]

EVERY_OPERATOR = """
from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable
from airflow_ml_provider import Column, Gate, Model, Schema, Table
from airflow_ml_provider.assets import drift_asset, table_asset
from airflow_ml_provider.compute import LocalCompute
from airflow_ml_provider.operators import *
from airflow_ml_provider.sensors import *

M = Model("flight_delays")
weekly = CronTriggerTimetable("@weekly", timezone="UTC")
weekly = AssetOrTimeSchedule(timetable=weekly, assets=[drift_asset(M)])
with DAG("everything", schedule=weekly) as dag:
    raw = IngestOperator(task_id="ingest", source="x", publish=Table("raw"), partitions="{{ ds }}",
                         schema=Schema((Column("a", "int64", minimum=0),), key=("a",)),
                         compute=LocalCompute(environment={"B": "2", "A": "1"}))
    seen = TablePartitionSensor(task_id="seen", table=Table("weather"), partition="{{ ds }}")
    live = ModelAliasSensor(task_id="live", model=M, other_than=3, deferrable=True)
    checked = ValidateOperator(task_id="validate", table=raw.output, suite="m:s")
    rows = FeaturesOperator(task_id="features", features="m:F", publish="rows",
                            tables=[checked.output, Table("weather", version=3)])
    fitted = TrainOperator(task_id="train", function="m:f", table=rows.output, model=M,
                           hyperparameters={"rounds": 3, "nested": {"z": [1], "a": {"set"}}})
    swept = TrainOperator.partial(task_id="sweep", function="m:f", table=rows.output, model=M,
                                  compute=LocalCompute(environment={"B": "2", "A": "1"})
                                  ).expand(hyperparameters=[{"rounds": 3}, {"rounds": 5}])
    verdict = EvaluateOperator(task_id="evaluate", candidate=fitted.output, table=rows.output,
                               gates=[Gate("roc_auc", at_least=0.7), Gate("log_loss", worse_by_at_most=0.01)],
                               slices=["origin"])
    PromoteOperator(task_id="promote", verdict=verdict.output)
    scores = PredictOperator(task_id="predict", model=M, table=rows.output, publish="scores")
    MonitorOperator(task_id="monitor", predictions=scores.output, rows=rows.output, model=M,
                    publish="findings")
"""


def serialized(folder: Path, hash_seed: str) -> str:
    """The DAG as another process of Airflow stores it, with its hash."""
    (folder / "everything.py").write_text(EVERY_OPERATOR)
    program = (
        "import json, everything\n"
        "from airflow.serialization.serialized_objects import DagSerialization\n"
        "from airflow.models.serialized_dag import SerializedDagModel\n"
        "data = DagSerialization.to_dict(everything.dag)\n"
        "print(json.dumps({'hash': SerializedDagModel.hash(data), 'dag': data}))\n"
    )
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    run = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1]


def test_a_dag_is_stored_the_same_at_every_parse(tmp_path: Path) -> None:
    one, other = serialized(tmp_path, "1"), serialized(tmp_path, "2")
    assert json.loads(one)["hash"] == json.loads(other)["hash"]
    assert " at 0x" not in one
    assert " object>" not in one
    tasks = {task["__var"]["task_id"]: task["__var"] for task in json.loads(one)["dag"]["dag"]["tasks"]}
    assert tasks["features"]["tables"] == [
        "{{ task_instance.xcom_pull(task_ids='validate', dag_id='everything', key='return_value') }}",
        "weather@3",
    ]
    assert tasks["evaluate"]["gates"] == ["roc_auc >= 0.7", "log_loss at most 0.01 worse than the champion"]
    assert tasks["predict"]["model"] == "flight_delays@champion"
    assert set(tasks["ingest"]["downstream_task_ids"]) == {"validate"}
    assert set(tasks["features"]["downstream_task_ids"]) >= {
        "train",
        "sweep",
        "evaluate",
        "predict",
        "monitor",
    }


def test_training_can_be_mapped_over_hyperparameters(deployment: Store, tmp_path: Path) -> None:
    deployment.write("tables/rows/_delta_log/00000000000000000002.json", b"")
    (tmp_path / "mine.py").write_text("train = 1\n")
    compute = FakeCompute({"model": {"name": "flight_delays", "version": 7}})
    with DAG("a_dag"):
        mapped = TrainOperator.partial(
            task_id="sweep", function="mine:train", table=Table("rows"), model=Model("flight_delays"),
            code=str(tmp_path), compute=compute,
        ).expand(hyperparameters=[{"rounds": 3}, {"rounds": 5}])  # fmt: skip
    keys = set()
    for index, rounds in enumerate((3, 5)):
        task = mapped.unmap({"hyperparameters": {"rounds": rounds}})
        context = context_of(task, map_index=index)
        keys.add(run_task(task, context)["step_key"])
        spec = compute.spec()
        assert spec.arguments["params"] == {"rounds": rounds}
        assert spec.arguments["table"]["version"] == 2
        assert spec.run.map_index == index
        assert [asset.name for asset in task.outlets] == ["model:flight_delays@challenger"]
    assert len(keys) == 2


RUN_BY_AIRFLOW = """
from datetime import timedelta
from airflow.sdk import DAG
from airflow_ml_provider import Column, Schema, Table
from airflow_ml_provider.operators import IngestOperator, ValidateOperator

with DAG("proof", default_args={"retries": 1, "retry_delay": timedelta(seconds=1)}):
    ingest = {"source": ROWS, "schema": Schema((Column("a", "int64"), Column("ds"))), "publish": Table("raw"),
              "partitions": "2013-06-01"}
    first = IngestOperator(task_id="first", **ingest)
    again = IngestOperator(task_id="again", **ingest)
    missing = ValidateOperator(task_id="missing", table="nothing", suite="proof:DAG")
    broken = IngestOperator(task_id="broken", **{**ingest, "publish": Table("other")},
                            transform="broken:transform")
    first >> again
"""


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A DAG run by Airflow's own task runner: the state and try of each task, the events, the log."""
    home = tmp_path_factory.mktemp("airflow")
    dags, rows = home / "dags", home / "rows.csv"
    dags.mkdir()
    rows.write_text("a,ds\n1,2013-06-01\n2,2013-06-01\n")
    (dags / "proof.py").write_text(f"ROWS = {str(rows)!r}\n" + RUN_BY_AIRFLOW)
    (dags / "broken.py").write_text(
        textwrap.dedent("""
            import polars as pl
            def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
                raise ValueError("these rows are not mine")
        """)
    )
    env = {
        **os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__ML__STORE": str(home / "store"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], env=env, check=True, capture_output=True, timeout=120)
    run = subprocess.run(
        [*airflow, "dags", "test", "proof"], env=env, capture_output=True, text=True, timeout=240
    )
    with sqlite3.connect(home / "airflow.db") as database:
        tasks = database.execute("SELECT task_id, state, try_number FROM task_instance").fetchall()
        events = database.execute(
            "SELECT a.name, e.source_task_id, e.extra FROM asset_event e JOIN asset a ON a.id = e.asset_id"
        ).fetchall()
    return {
        "log": run.stdout + run.stderr,
        "events": [(name, task, json.loads(extra)) for name, task, extra in events],
        "tasks": {task: (state, tries) for task, state, tries in tasks},
    }  # fmt: skip


def test_airflow_runs_a_step_and_emits_its_event_once_for_the_same_bytes(proof: dict[str, Any]) -> None:
    assert proof["tasks"]["first"] == ("success", 1)
    assert proof["tasks"]["again"] == ("success", 1)
    [(_, task, extra)] = [event for event in proof["events"] if event[0] == "table:raw"]
    assert (task, extra["table"], extra["rows"], extra["partitions"]) == ("first", "raw", 2, "2013-06-01")


def test_airflow_does_not_retry_what_cannot_succeed(proof: dict[str, Any]) -> None:
    assert proof["tasks"]["missing"] == ("failed", 1)
    assert proof["tasks"]["broken"] == ("failed", 1)
    assert "run the step that publishes 'nothing' first" in proof["log"]


def test_the_users_own_traceback_is_in_the_task_log_before_the_error(proof: dict[str, Any]) -> None:
    log = proof["log"]
    assert 'raise ValueError("these rows are not mine")' in log
    assert log.index('raise ValueError("these rows are not mine")') < log.index(
        "user error: broken:transform raised"
    )
    assert not [event for event in proof["events"] if event[0] == "table:other"]
