"""A fleet on the cluster of the current kube context, the same Job without us, and pods on nodes that only pretend.

``python -m bench.cluster bare | pods GIVEN``: ``GIVEN`` names the JSON document that :class:`Given` describes.
``bare`` prints how many seconds it took.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.sdk import DAG

from airflow_ml_provider.compute import KubernetesCompute, Launch
from airflow_ml_provider.compute.cluster import Cluster
from airflow_ml_provider.compute.fleet_job import FleetJob
from airflow_ml_provider.compute.job_end import progress_of
from airflow_ml_provider.compute.job_spec import job_document
from airflow_ml_provider.compute.pod_spec import MANAGED_BY, SPEC
from airflow_ml_provider.contract.documents import read_spec
from airflow_ml_provider.contract.fleet_ledger import Ledger
from airflow_ml_provider.contract.fleets import FleetPlan, IndexDocument, ItemRecord, item_digest
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.operators import FleetOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

OURS = f"app.kubernetes.io/managed-by={MANAGED_BY}"
FLEETS = f"{OURS},app.kubernetes.io/component=fleet"
# What the items' function does.
BARE = """
import os, time
first = int(os.environ["JOB_COMPLETION_INDEX"]) * {each}
for n in range(first, min(first + {each}, {items})):
    time.sleep({seconds})
    print({{"square": n ** 2}})
"""
_LOOK_EVERY = 1.0
_PLAY_EVERY = 0.5


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measurement.

    :param kubernetes: fields of KubernetesCompute.
    :param items_per_index: how many a pod runs, one after the other.
    :param simulated: fields of the Job's pods that are different, where its nodes only pretend to run them.
    :param code: the folder of the user's function.
    """

    kubernetes: dict[str, Any]
    items: int
    parallelism: int
    seconds: float
    code: str
    items_per_index: int = 1
    simulated: dict[str, Any] = {}

    def compute(self) -> Simulated:
        """Where the step runs."""
        return Simulated(**self.kubernetes, of_job=self.simulated)


@dataclass(frozen=True)
class Simulated(KubernetesCompute):
    """A KubernetesCompute whose Jobs may go to other nodes than the pod that sums up.

    :param of_job: fields that are different for Jobs.
    """

    of_job: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def run_fleet(self, launch: Launch, plan: FleetPlan, context: Context) -> None:
        """As its parent, with the Job's own fields."""
        FleetJob(self.but(self.of_job), launch).run(plan, context)


def read(path: str | Path) -> Given:
    """What is given."""
    return msgspec.json.decode(Path(path).read_bytes(), type=Given)


def fleet(given: Given, begins: Callable[[Context], None]) -> DAG:
    """A DAG of one fleet; ``begins`` is called whenever its task does."""
    with DAG("fleet_kubernetes") as dag:
        FleetOperator(
            task_id="fleet",
            function="squares:work",
            over=[{"n": number, "seconds": given.seconds} for number in range(given.items)],
            items_per_index=given.items_per_index,
            parallelism=given.parallelism,
            code=given.code,
            compute=given.compute(),
            on_execute_callback=begins,
        )
    return dag


def run_bare(given: Given) -> float:
    """The Job that the fleet would be, with a program that knows nothing of us; gives the seconds until it is complete.

    :raises SystemExit: an index failed.
    """
    compute = given.compute()
    # By this name it is found and removed like a fleet's.
    launch = Launch("bench-fleet-kubernetes-0011223344556677", "fleet", "file:///none")
    indexes = math.ceil(given.items / given.items_per_index)
    plan = FleetPlan(indexes, given.parallelism, 2, indexes, "bare")
    job = job_document(compute.but(compute.of_job), launch, plan)
    job["metadata"]["labels"]["app.kubernetes.io/component"] = "bare"
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["args"] = [
        "-c",
        BARE.format(seconds=given.seconds, items=given.items, each=given.items_per_index),
    ]
    cluster = Cluster(compute)
    name = job["metadata"]["name"]
    began = time.perf_counter()
    cluster.batch.create_namespaced_job(cluster.namespace, job)
    while True:
        found = cluster.batch.read_namespaced_job(name, cluster.namespace)
        progress = progress_of(cluster.document(found))
        if progress.over:
            break
        time.sleep(_LOOK_EVERY)
    seconds = time.perf_counter() - began
    cluster.batch.delete_namespaced_job(name, cluster.namespace, propagation_policy="Background")
    if progress.succeeded != indexes:
        sys.exit(f"the bare Job ended with {progress}")
    return seconds


def play_pods(given: Given) -> None:
    """Write what the pods of the next fleet would, while nodes pretend to run them: each index's last document, when
    its pod has begun. To the Job's end.
    """
    cluster = Cluster(given.compute())
    jobs: list[Any] = []
    while not jobs:
        time.sleep(_PLAY_EVERY)
        jobs = cluster.batch.list_namespaced_job(cluster.namespace, label_selector=FLEETS).items
    [job] = [cluster.document(each) for each in jobs]
    container = job["spec"]["template"]["spec"]["containers"][0]
    variables = {each["name"]: each.get("value", "") for each in container["env"]}
    uri = job["metadata"]["annotations"][SPEC]
    folder, _, document = uri.rpartition("/")
    spec = read_spec(Store(folder).read(document) or b"", source=uri)
    ledger = Ledger.of(Store(spec.store), spec)
    plan = ledger.plan(variables["AIRFLOW_ML_FLEET_PLAN"])
    assert plan is not None
    items = ledger.items(plan.items_digest)
    name, written = job["metadata"]["name"], 0
    while True:
        progress = progress_of(cluster.document(job))
        # The controller begins indexes in their order.
        begun = min(len(plan.pending), progress.succeeded + progress.failed + progress.active)
        for position in plan.pending[written:begun]:
            first = position * plan.items_per_index
            records = [
                ItemRecord(item_digest(item), "done", 1, given.seconds, result={"square": item["n"] ** 2})
                for item in items[first : first + plan.items_per_index]
            ]
            ledger.write(IndexDocument(plan.indexes[position], position, "done", 1, items=tuple(records)))
        written = max(written, begun)
        if progress.over:
            return
        time.sleep(_PLAY_EVERY)
        now = cluster.ask(
            "get", "jobs", name, partial(cluster.batch.read_namespaced_job, name, cluster.namespace)
        )
        if now is None:
            return
        job = cluster.document(now)


def await_nothing(given: Given) -> None:
    """Until nothing of a former run is left: its pods would be removed at the cost of the next."""
    cluster = Cluster(given.compute())
    while (
        cluster.batch.list_namespaced_job(cluster.namespace, label_selector=OURS, limit=1).items
        or cluster.core.list_namespaced_pod(cluster.namespace, label_selector=OURS, limit=1).items
    ):
        time.sleep(_LOOK_EVERY)


def main() -> None:
    """What the module's docstring says."""
    what, path = sys.argv[1:]
    given = read(path)
    if what == "pods":
        play_pods(given)
    elif what == "bare":
        await_nothing(given)
        print(json.dumps({"seconds": run_bare(given)}))
    else:
        sys.exit(f"what is {what}?")


if __name__ == "__main__":
    main()
