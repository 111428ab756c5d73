"""The second run of an unchanged pipeline, against the first: nothing is to compute.

Raw orders as Parquet files are ingested, validated, made into feature rows with labels, trained on, evaluated,
promoted and predicted: seven tasks, each as Airflow's task runner would run it, with the deployment's local compute
and a real MLflow. Both runs are processes of their own; Airflow's scheduling between the tasks is in neither.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.measuring import Cost, Row
from bench.scene import REPOSITORY, Scene

DAYS = [f"2013-01-{day:02}" for day in range(1, 11)]
LABEL = f"{DAYS[0]}..{DAYS[-1]}"

CODE = """
    import lightgbm
    import polars as pl

    from airflow_ml_provider import Column, FeatureSet, Label, Schema

    NUMBERS = [f"x{n}" for n in range(10)]
    ORDERS = Schema(columns=(Column("id", "int64", nullable=False), Column("ds", nullable=False),
                             Column("at", "timestamp", nullable=False), Column("late", "int64"),
                             *(Column(name, "float64") for name in NUMBERS)), key=("id",))

    def orders(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders.select("id", "ds", "at", *NUMBERS)

    def late(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders.select("id", "late", known=pl.col("at") + pl.duration(hours=1))

    LATE = FeatureSet(rows=orders, key=("id",), prediction_time="at", row_features=tuple(NUMBERS), views=(),
                      label=Label("late", late, known_at="known"))

    def train(rows: pl.DataFrame, features, label, params, seed):
        data = lightgbm.Dataset(rows.select(features).to_numpy(), rows[label].to_numpy(), feature_name=list(features))
        settings = {"objective": "binary", "seed": seed, "deterministic": True, "force_row_wise": True, "verbose": -1}
        return lightgbm.train(settings, data, num_boost_round=50)
    """
SUITE = {
    "name": "orders",
    "expectations": [
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id"}},
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "x0", "min_value": -100, "max_value": 100},
        },
    ],
}
RUN = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

from airflow.sdk import DAG
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_ml_provider import Gate, Table
from airflow_ml_provider.operators import (
    EvaluateOperator, FeaturesOperator, IngestOperator, PredictOperator, PromoteOperator, TrainOperator,
    ValidateOperator,
)

raw, code, run_id, days, first, last, told = sys.argv[1:]
common = {"code": code}


class TaskInstance(SimpleNamespace):
    def xcom_pull(self, task_ids=None, **_):
        return outputs[task_ids]


with DAG("bench"):
    loaded = IngestOperator(task_id="ingest", source=raw, schema="orders_code:ORDERS", publish=Table("orders"),
                            partitions=days, **common)
    checked = ValidateOperator(task_id="validate", table=loaded.output, suite="suite.json", partitions=days, **common)
    rows = FeaturesOperator(task_id="features", features="orders_code:LATE", tables=[checked.output],
                            publish=Table("training"), partitions=days, **common)
    fitted = TrainOperator(task_id="train", function="orders_code:train", table=rows.output, model="bench_orders",
                           partitions=first, **common)
    verdict = EvaluateOperator(task_id="evaluate", candidate=fitted.output, table=rows.output, partitions=last,
                               gates=[Gate("roc_auc", at_least=0.5)], resamples=100, **common)
    promoted = PromoteOperator(task_id="promote", verdict=verdict.output, **common)
    scored = PredictOperator(task_id="predict", model="bench_orders@champion", table=rows.output,
                             publish=Table("scores"), partitions=days, **common)
outputs = {}
for task in (loaded, checked, rows, fitted, verdict, promoted, scored):
    ti = TaskInstance(dag_id="bench", task_id=task.task_id, run_id=run_id, map_index=-1, try_number=1, max_tries=0,
                      log_url="", bundle_instance=None, task=task)
    run = SimpleNamespace(partition_key=None, triggering_user_name=None, run_type="manual", run_id=run_id)
    context = {"ti": ti, "task_instance": ti, "task": task, "dag": task.dag, "dag_run": run, "run_id": run_id,
               "params": {}, "outlet_events": OutletEventAccessors(), "expanded_ti_count": None}
    running = task.prepare_for_execution()
    ti.task = context["task"] = running
    running.render_template_fields(context)
    outputs[task.task_id] = running.execute(context)
Path(told).write_text(json.dumps({name: output["cache"] for name, output in outputs.items()}))
"""


def rows(scene: Scene) -> Iterator[Row]:
    """One row: both runs, in their order, in a store of their own for each repeat."""
    folder = scene.folder / "second_run"
    raw = _raw(folder / "raw", scene.rows)
    code = folder / "code"
    code.mkdir(parents=True, exist_ok=True)
    (code / "orders_code.py").write_text(textwrap.dedent(CODE))
    (code / "suite.json").write_text(json.dumps(SUITE))
    first: list[Cost] = []
    second: list[Cost] = []
    for _ in range(scene.repeats):
        place = folder / "deployment"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        with _mlflow(place) as address:
            env = {
                "AIRFLOW_HOME": str(place / "airflow"),
                "AIRFLOW__ML__STORE": (place / "store").as_uri(),
                "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": address}),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            }
            for run_id, costs in (("run_1", first), ("run_2", second)):
                told = place / f"{run_id}.json"
                arguments = (raw, code, run_id, LABEL, f"{DAYS[0]}..{DAYS[7]}", f"{DAYS[8]}..{DAYS[9]}", told)
                costs.append(scene.python(RUN, *arguments, env=env))
            decisions = json.loads(told.read_text())
            computed = [
                f"{task}: {said['why']}" for task, said in decisions.items() if said["decision"] != "hit"
            ]
            if computed:
                sys.exit(f"the second run of an unchanged pipeline computed {'; '.join(computed)}")
        shutil.rmtree(place, ignore_errors=True)
    yield Row(
        f"second run of an unchanged pipeline, 7 tasks over {scene.rows:,} rows",
        "its first run",
        "at most 10 % of the time, no step computes",
        second,
        first,
        limit=0.1,
        note="all seven are hits",
    )


def _raw(folder: Path, count: int) -> Path:
    done = folder / f"done-{count}"
    if done.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    import numpy as np
    import polars as pl

    random = np.random.default_rng(7)
    for number, day in enumerate(DAYS):
        n = count // len(DAYS)
        columns = {f"x{each}": random.normal(size=n) for each in range(10)}
        late = columns["x0"] + columns["x1"] ** 2 + random.normal(size=n) > 1.5
        at = pl.Series(np.sort(random.integers(0, 80_000, n))).cast(pl.Duration("ms")) * 1000
        pl.DataFrame(
            {"id": np.arange(n) + number * n, "ds": [day] * n, "late": late.astype("int64"), **columns}
        ).with_columns(
            at=pl.lit(day).str.to_datetime("%Y-%m-%d", time_unit="us", time_zone="UTC") + at
        ).write_parquet(folder / f"{day}.parquet")
    done.touch()
    # Files that have just been written are always looked at.
    time.sleep(2.5)
    return folder


@contextmanager
def _mlflow(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=REPOSITORY, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):
                break
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
