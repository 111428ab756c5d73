"""What our operators add to the parsing of a DAG file, against the same DAG made of empty operators.

Each file is parsed in a process of its own that has already imported Airflow, as Airflow's DAG processor has.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.measuring import Cost, Row, in_turn
from bench.scene import REPOSITORY, Scene

PARSE = """
import sys, time
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator
sys.path.insert(0, "dags")
source = compile(open(sys.argv[1]).read(), sys.argv[1], "exec")
started = time.perf_counter()
exec(source, {"__name__": "dag", "__file__": sys.argv[1]})
print(time.perf_counter() - started)
"""
# The same schedule kinds, parameters and number of tasks in the same order, doing nothing.
EMPTY = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, CronPartitionTimetable, Param
with DAG("empty", schedule=CronPartitionTimetable("0 5 * * *", timezone="UTC", key_format="%Y-%m-%d"),
         params={{"days": Param("", type="string")}}):
    before = None
    for number in range({tasks}):
        task = EmptyOperator(task_id=f"task_{{number}}")
        if before and {chained}:
            before >> task
        before = task
"""


def parsed(path: Path) -> Cost:
    """What one parse of a file takes, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return Cost(float(done.stdout.strip().splitlines()[-1]))


def rows(scene: Scene) -> Iterator[Row]:
    """One a ready DAG."""
    for path in sorted((REPOSITORY / "dags").glob("*.py")):
        text = path.read_text()
        tasks = text.count("task_id=")
        twin = scene.folder / f"empty_{path.name}"
        twin.write_text(EMPTY.format(tasks=tasks, chained=".output" in text))
        ours, theirs = in_turn(
            lambda path=path: parsed(path), lambda twin=twin: parsed(twin), 3 * scene.repeats
        )
        yield Row(
            f"parse {path.name}, {tasks} tasks",
            "the same DAG of EmptyOperators",
            "at most 0.2 s more",
            ours,
            theirs,
        )
