"""Parsing DAGs is cheap: it loads no library that only steps need, and reads nothing but the DAG file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
READY_DAGS = sorted((REPOSITORY / "dags").glob("*.py"))
EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*.py"))

# What a step needs to run, and a DAG does not need to be read.
HEAVY = (
    "mlflow", "pandas", "polars", "pyarrow", "great_expectations", "sklearn", "kubernetes", "boto3", "numpy",
    "deltalake", "duckdb", "lightgbm", "matplotlib", "obstore", "requests", "skops",
)  # fmt: skip

# Airflow is loaded once; each file is then read in a process forked from there, and tells what that added.
PROBE = """
import gc, json, os, pathlib, sys
# What Airflow itself loads to read a DAG is not ours.
from airflow.sdk import DAG, Asset, AssetWatcher, BaseOperator, BaseSensorOperator
import airflow.triggers.base, croniter

def read(path):
    sys.path.insert(0, str(pathlib.Path(path).parent))
    before = set(sys.modules)
    forbidden = []
    sys.addaudithook(lambda event, args: forbidden.append([event, str(args)[:200]])
                     if event in ("socket.connect", "subprocess.Popen", "os.exec") else None)
    namespace = {"__name__": "parsed_dag", "__file__": path}
    exec(compile(open(path).read(), path, "exec"), namespace)
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    steps = [name for name in sys.modules if name.startswith("airflow_ml_provider.steps")]
    dags = sorted({value.dag_id for value in gc.get_objects() if isinstance(value, DAG)})
    print(json.dumps({"file": path, "loaded": sorted(loaded), "steps": steps, "forbidden": forbidden, "dags": dags}),
          flush=True)

for path in sys.argv[1:]:
    child = os.fork()
    if not child:
        read(path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, path
"""

OF_EVERY_KIND = """
from airflow.sdk import DAG, Asset, AssetWatcher
from airflow_ml_provider import Champion, Column, Gate, Model, Retrain, Schema, Table
from airflow_ml_provider.assets import drift_asset, model_asset, retrain_asset, table_asset, validated_asset
from airflow_ml_provider.compute import KubernetesCompute, LocalCompute
from airflow_ml_provider.operators import *
from airflow_ml_provider.sensors import ModelAliasSensor, TablePartitionSensor
from airflow_ml_provider.triggers import ModelAliasTrigger, TableVersionTrigger

watched = Asset("moved", watchers=[AssetWatcher(name="m", trigger=ModelAliasTrigger("flight_delays")),
                                   AssetWatcher(name="t", trigger=TableVersionTrigger("flights"))])
with DAG("of_every_kind", schedule=[watched, drift_asset("flight_delays"), retrain_asset("flight_delays"),
                                   table_asset("flights")]) as dag:
    TablePartitionSensor(task_id="table", table="flights", deferrable=True)
    ModelAliasSensor(task_id="alias", model="flight_delays")
    raw = IngestOperator(task_id="ingest", source="s3://bucket/*.csv", publish="flights",
                         schema=Schema((Column("a"),)), compute=LocalCompute())
    rows = FeaturesOperator(task_id="features", features="m:F", tables=[raw.output], publish="rows")
    fitted = TrainOperator(task_id="train", function="m:f", table=rows.output, model=Model("flight_delays"))
    verdict = EvaluateOperator(task_id="evaluate", candidate=fitted.output, table=rows.output,
                               gates=[Gate("roc_auc", at_least=0.7)])
    PromoteOperator(task_id="promote", verdict=verdict.output, approval=Approval(deadline="2d"))
    RollbackOperator(task_id="back", model="flight_delays", reason="r", predictions=["scores"])
    PredictOperator(task_id="as_of", model=Champion("flight_delays", as_of="partition"), table=rows.output,
                    publish="scores", challengers=["flight_delays@challenger"])
    ValidateOperator(task_id="validate", table=rows.output, suite="m:s")
    scores = PredictOperator(task_id="predict", model="flight_delays", table=rows.output, publish="scores")
    MonitorOperator(task_id="monitor", predictions=scores.output, rows=rows.output, model="flight_delays",
                    retrain=Retrain(drift=True))
    FleetOperator(task_id="fleet", function="m:f", over=[{"n": 1}], compute={"resources": {"cpu": 2}},
                  connections=["warehouse"])
    TrainOperator(task_id="many", function="m:f", table=rows.output, over=Table("items"), parallelism=100,
                  compute=KubernetesCompute(image="steps:1", resources={"nvidia.com/gpu": 1}, queue="ml"))
"""


def parse(dag_files: list[Path], home: Path) -> dict[Path, dict[str, Any]]:
    """What reading DAG files does, in processes of their own without store, connections or a database."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    env |= {"AIRFLOW_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, dag_files)],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    told = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {Path(found["file"]): found for found in told}


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, dict[str, Any]]:
    """What reading each of the repository's DAGs does."""
    return parse([*READY_DAGS, *EXAMPLES], tmp_path_factory.mktemp("parsed"))


@pytest.mark.parametrize("dag_file", [*READY_DAGS, *EXAMPLES], ids=lambda path: path.stem)
def test_a_ready_dag_is_read_without_the_libraries_of_its_steps(
    dag_file: Path, parsed: dict[Path, dict[str, Any]]
) -> None:
    found = parsed[dag_file]
    assert found["dags"]
    assert not set(HEAVY) & set(found["loaded"])
    assert found["steps"] == []
    assert found["forbidden"] == []


def test_a_dag_with_everything_of_the_provider_is_read_without_the_libraries_of_its_steps(
    tmp_path: Path,
) -> None:
    dag_file = tmp_path / "of_every_kind.py"
    dag_file.write_text(OF_EVERY_KIND)
    found = parse([dag_file], tmp_path)[dag_file]
    assert found["dags"] == ["of_every_kind"]
    assert not set(HEAVY) & set(found["loaded"])
    assert found["steps"] == []
    assert found["forbidden"] == []


def test_the_probe_sees_a_heavy_library(tmp_path: Path) -> None:
    dag_file = tmp_path / "heavy.py"
    dag_file.write_text("import numpy, subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])\n")
    found = parse([dag_file], tmp_path)[dag_file]
    assert "numpy" in found["loaded"]
    assert [event for event, _ in found["forbidden"]] == ["subprocess.Popen"]


def test_there_are_dags_to_read() -> None:
    assert {path.stem for path in READY_DAGS} >= {
        "flights_ingest", "flights_train", "flights_predict", "flights_monitor",
        "flights_promote_with_approval", "flights_rollback", "flights_routes", "flights_shadow",
    }  # fmt: skip
