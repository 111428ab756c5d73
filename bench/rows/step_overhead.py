"""What a step adds to what it computes: an operator with its step process around next to nothing, against a
BashOperator that runs ``python -c pass``.

Both are tasks of a DAG that Airflow runs (``dag.test()``) in a fresh process which has imported Airflow and
its standard operators, as a worker has; ours imports the operators and what they need within the time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.measuring import Cost, Row, in_turn
from bench.scene import REPOSITORY, Scene

# One DAG a task, so that a process runs only what it is asked for.
DAGS = """
import sys
import time
from pathlib import Path
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

started = time.perf_counter()
HERE = Path(__file__).parent
with DAG("bash") as bash:
    BashOperator(task_id="pass", bash_command=f"{sys.executable} -c pass")
if sys.argv[1:] != ["bash"]:
    from airflow_ml_provider.contract.schema import Column, Schema
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.operators import FleetOperator, IngestOperator

    with DAG("fleet") as fleet:
        FleetOperator(task_id="pass", function="nothing:nothing", over=[{"item": 1}], code=str(HERE))
    with DAG("ingest") as ingest:
        IngestOperator(
            task_id="pass", source=str(HERE / "one.csv"), schema=Schema((Column("x", "int64"),)), code=str(HERE),
            publish=Table("one", partition_by=None),
        )

if __name__ == "__main__":
    state = globals()[sys.argv[1]].test().state
    assert state == "success", state
    print(time.perf_counter() - started)
"""


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__ML__STORE": (folder / "store").as_uri(),
        "PYTHONPATH": str(REPOSITORY),
    }


def _python(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=_environment(folder), cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(
            f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    return done.stdout


def executed(folder: Path, dag: str) -> Cost:
    """What one run of a DAG takes, in a fresh process."""
    said = _python(folder, str(folder / "dags" / "overhead.py"), dag)
    return Cost(float(said.strip().splitlines()[-1]))


def rows(scene: Scene) -> Iterator[Row]:
    """One an operator."""
    folder = scene.folder / "step_overhead"
    (folder / "dags").mkdir(parents=True, exist_ok=True)
    (folder / "dags" / "overhead.py").write_text(DAGS)
    (folder / "dags" / "nothing.py").write_text("def nothing(item):\n    return {}\n")
    (folder / "dags" / "one.csv").write_text("x\n1\n")
    _python(folder, "-c", "from airflow.utils.db import initdb; initdb()")
    # So that no pair pays for the first parse and for compiled modules.
    for dag in ("bash", "fleet", "ingest"):
        executed(folder, dag)
    for dag, what in (
        ("ingest", "IngestOperator of a file with one row"),
        ("fleet", "FleetOperator over one item, an empty function, which runs in a worker process"),
    ):
        ours, theirs = in_turn(
            partial(executed, folder, dag), partial(executed, folder, "bash"), 3 * scene.repeats
        )
        yield Row(what, "BashOperator: `python -c pass`", "at most 2 s more", ours, theirs)
