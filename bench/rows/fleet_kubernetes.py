"""A fleet on a real Kubernetes, against the same Indexed Job without us: same items, image, resources, parallelism.

It runs on the cluster of the current kube context where ``BENCH_CLUSTER`` names a JSON document, and is left out
elsewhere::

    {"store": "s3://bucket/bench",
     "kubernetes": {"image": "HOST/TEAM/airflow-ml-steps:0.1.0", "namespace": "bench", "resources": {...}},
     "parallelism": 20,
     "simulated": {"parallelism": 2000, "pods": {"node_selector": {"type": "kwok"}, "tolerations": [...]}}}

``kubernetes`` holds fields of KubernetesCompute; the store is reached by the pods and by this machine under the same
address. The namespace exists, and nothing else of us is in it. Items sleep, so that what is compared does not depend
on how many processors the nodes have; each pod of ours reads its items and writes the ledger.

``simulated``, if there is such an entry, is for more pods than the cluster has room for, on nodes that only pretend to
run them (kwok): their part, the ledger, is played by a process of the benchmark, so that the row shows the control
plane alone: plan, Job, waiting, and the pod that sums up, which is a real one on a real node.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.measuring import Cost, Row, in_turn
from bench.scene import REPOSITORY, Scene

CONFIGURATION = "BENCH_CLUSTER"
SECONDS = 20.0
SIMULATED_SECONDS = 2.0
SIMULATED_ITEMS_PER_POD = 2
CODE = """
import time

def work(item):
    time.sleep(item["seconds"])
    return {"square": item["n"] ** 2}
"""
TASK = """
import json
import time
from pathlib import Path

from airflow.sdk import DAG
from bench import cluster

given = cluster.read(Path(__file__).with_name("given.json"))
begun = []
dag: DAG = cluster.fleet(given, lambda context: begun.append(time.perf_counter()))

if __name__ == "__main__":
    cluster.await_nothing(given)
    run = dag.test()
    # From the task's first beginning: Airflow's own start is not the fleet's.
    seconds = time.perf_counter() - begun[0]
    assert run.state == "success", run.state
    print(json.dumps({"seconds": seconds, "tasks": len(run.get_task_instances())}))
"""


class Simulated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """:param pods: fields of KubernetesCompute that pods on simulated nodes have instead."""

    pods: dict[str, Any]
    parallelism: int = 2000


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``BENCH_CLUSTER`` names."""

    store: str
    kubernetes: dict[str, Any]
    parallelism: int = 20
    simulated: Simulated | None = None


def rows(scene: Scene) -> Iterator[Row]:
    """100 items on real nodes, a pod each; 20,000 on simulated ones, two a pod; or as few as the asked rows."""
    named = os.environ.get(CONFIGURATION)
    if not named:
        print(
            f"fleet_kubernetes is left out: {CONFIGURATION} names no cluster, see bench/rows/fleet_kubernetes.py"
        )
        return
    configured = msgspec.json.decode(Path(named).read_bytes(), type=Configuration)
    items = max(10, scene.rows // 100_000)
    given = {
        "kubernetes": configured.kubernetes, "items": items, "parallelism": configured.parallelism,
        "seconds": SECONDS,
    }  # fmt: skip
    yield _measured(
        scene, "real", configured.store, given, scene.repeats,
        f"fleet on Kubernetes: {items:,} items that wait {SECONDS:.0f} s, a pod each, {configured.parallelism} at once",
        "imports of each pod, the ledger, and the pod that sums up included",
    )  # fmt: skip
    if configured.simulated is None:
        return
    items, parallelism = max(100, scene.rows // 500), configured.simulated.parallelism
    what = (
        f"{items:,} items on simulated nodes, {SIMULATED_ITEMS_PER_POD} a pod, {parallelism:,} pods at once"
    )
    given |= {
        "items": items, "parallelism": parallelism, "seconds": SIMULATED_SECONDS,
        "items_per_index": SIMULATED_ITEMS_PER_POD, "simulated": configured.simulated.pods,
    }  # fmt: skip
    yield _measured(
        scene, "simulated", configured.store, given, 1,
        f"fleet on Kubernetes: {what}",
        "no pod runs but the one that sums up: the rest writes its ledger through a stand-in",
    )  # fmt: skip


def _measured(
    scene: Scene, which: str, store: str, given: dict[str, Any], repeats: int, what: str, note: str
) -> Row:
    folder = scene.folder / "fleet_kubernetes" / which
    (folder / "code").mkdir(parents=True, exist_ok=True)
    (folder / "code" / "squares.py").write_text(CODE)
    (folder / "dags").mkdir(exist_ok=True)
    (folder / "dags" / "task.py").write_text(TASK)
    path = folder / "dags" / "given.json"
    path.write_text(json.dumps({**given, "code": str(folder / "code")}))
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(REPOSITORY),
    }
    _python(environment, "-c", "from airflow.utils.db import initdb; initdb()")
    tasks: list[int] = []
    numbers = iter(range(1000))

    def ours() -> Cost:
        # A store of its own: nothing is known of the fleet.
        own = {**environment, "AIRFLOW__ML__STORE": f"{store}/{which}-{os.getpid()}-{next(numbers)}"}
        pods = None
        if "simulated" in given:
            pods = subprocess.Popen(
                [sys.executable, "-m", "bench.cluster", "pods", str(path)], env=own, cwd=REPOSITORY
            )
        try:
            told = _python(own, str(folder / "dags" / "task.py"))
        finally:
            if pods is not None:
                pods.terminate()
                pods.wait()
        tasks.append(told["tasks"])
        return Cost(told["seconds"])

    def bare() -> Cost:
        return Cost(_python(environment, "-m", "bench.cluster", "bare", str(path))["seconds"])

    mine, others = in_turn(ours, bare, repeats)
    return Row(
        what, "the same Indexed Job without us", "<= 1.1x time, at most 3 task instances", mine, others, limit=1.1,
        note=f"{max(tasks)} task instance; {note}",
    )  # fmt: skip


def _python(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Run Python, and read its last line if that is a document."""
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(
            f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    last = done.stdout.strip().rpartition("\n")[2]
    return dict(json.loads(last)) if last.startswith("{") else {}
