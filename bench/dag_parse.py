"""What our operators add to the parsing of a DAG file, against the same DAG made of empty operators.

Each file is parsed in a process of its own that has already imported Airflow, as Airflow's DAG processor has;
pairs alternate, so that a busy moment of the machine hits both.

    python bench/dag_parse.py [--n 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
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


def seconds(path: Path) -> float:
    """How long one parse of a file takes, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Print a row a DAG file: medians, spread, and what ours adds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=15, help="parses of each file")
    n = parser.parse_args().n
    print(f"{'DAG file':24} {'tasks':>5} {'ours s':>8} {'empty s':>8} {'added s':>8} {'spread s':>9}   n={n}")
    for path in sorted((REPOSITORY / "dags").glob("*.py")):
        text = path.read_text()
        tasks = text.count("task_id=")
        twin = REPOSITORY / ".airflow" / f"empty_{path.name}"
        twin.parent.mkdir(exist_ok=True)
        twin.write_text(EMPTY.format(tasks=tasks, chained=".output" in text))
        pairs = [(seconds(path), seconds(twin)) for _ in range(n)]
        twin.unlink()
        ours, empty = (statistics.median(side) for side in zip(*pairs, strict=True))
        added = sorted(one - other for one, other in pairs)
        spread = added[-1 - n // 10] - added[n // 10]
        print(
            f"{path.name:24} {tasks:5} {ours:8.3f} {empty:8.3f} {statistics.median(added):8.3f} {spread:9.3f}"
        )


if __name__ == "__main__":
    main()
