"""What a step adds to what it computes: an operator with its step process around next to nothing, against a
BashOperator that runs ``python -c pass``.

Both are tasks of DAGs that Airflow runs (``dag.test()``), one after the other, in a fresh process which has run
a task before, as a worker has. Ours reads its DAG, and so imports the operators, within its time. Nothing is
reused: each run computes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.measuring import Cost, Row
from bench.scene import REPOSITORY, Scene

BASH = """
import sys
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("bash") as dag:
    BashOperator(task_id="pass", bash_command=f"{sys.executable} -c pass")
"""
FLEET = """
from pathlib import Path
from airflow.sdk import DAG
from airflow_ml_provider.operators import FleetOperator

with DAG("fleet") as dag:
    FleetOperator(
        task_id="pass", function="nothing:nothing", over=[{"item": 1}], code=str(Path(__file__).parent),
        cache="rerun",
    )
"""
INGEST = """
from pathlib import Path
from airflow.sdk import DAG
from airflow_ml_provider.contract.schema import Column, Schema
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.operators import IngestOperator

HERE = Path(__file__).parent
with DAG("ingest") as dag:
    IngestOperator(
        task_id="pass", source=str(HERE / "one.csv"), schema=Schema((Column("x", "int64"),)), code=str(HERE),
        publish=Table("one", partition_by=None), cache="rerun",
    )
"""
# Runs the DAGs of its arguments, and says what each took.
WORKER = """
import json, resource, runpy, sys, time

def spent():
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )

found = []
for path in sys.argv[1:]:
    started, before = time.perf_counter(), spent()
    state = runpy.run_path(path)["dag"].test().state
    assert state == "success", state
    found.append((time.perf_counter() - started, spent() - before))
print(json.dumps(found))
"""


def _environment(folder: Path, dags: str) -> dict[str, str]:
    return {
        **os.environ,
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__ML__STORE": (folder / "store").as_uri(),
        "PYTHONPATH": str(REPOSITORY),
    }


def _python(folder: Path, *arguments: str, dags: str = "empty") -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=_environment(folder, dags),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(
            f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    return done.stdout


def executed(folder: Path, dag: str, *, first: bool) -> tuple[Cost, Cost]:
    """What a run of a DAG and one of the reference take, in a fresh process which has run a task before.

    :param first: whether the DAG is run before the reference.
    """
    order = [dag, "bash"] if first else ["bash", dag]
    paths = [str(folder / "dags" / f"{name}.py") for name in ("bash", *order)]
    said = json.loads(_python(folder, str(folder / "worker.py"), *paths).strip().splitlines()[-1])
    costs = {name: Cost(*cost) for name, cost in zip(order, said[1:], strict=True)}
    return costs[dag], costs["bash"]


def rows(scene: Scene) -> Iterator[Row]:
    """One an operator."""
    folder = scene.folder / "step_overhead"
    for name in ("dags", "empty"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, text in (("bash", BASH), ("fleet", FLEET), ("ingest", INGEST)):
        (folder / "dags" / f"{name}.py").write_text(text)
    (folder / "worker.py").write_text(WORKER)
    (folder / "dags" / "nothing.py").write_text("def nothing(item):\n    return {}\n")
    (folder / "dags" / "one.csv").write_text("x\n1\n")
    _python(folder, "-c", "from airflow.utils.db import initdb; initdb()")
    # Airflow learns of the DAGs once. Later it reads an empty folder before the first run, so that our operators
    # are imported within the time of the DAG that has them. Modules are compiled, too.
    known = [str(folder / "dags" / f"{name}.py") for name in ("bash", "fleet", "ingest")]
    _python(folder, str(folder / "worker.py"), *known, dags="dags")
    for dag, what in (
        ("ingest", "IngestOperator of a file with one row"),
        ("fleet", "FleetOperator over one item, an empty function, which runs in a worker process"),
    ):
        pairs = [executed(folder, dag, first=bool(number % 2)) for number in range(scene.repeats)]
        ours, theirs = zip(*pairs, strict=True)
        yield Row(what, "BashOperator: `python -c pass`", "at most 2 s more", ours, theirs, most_more=2.0)
