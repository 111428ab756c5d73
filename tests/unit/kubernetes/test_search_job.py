"""A search on a cluster: a pod that plans and an Indexed Job for each round, one pod that sums up, nothing left."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred
from on_cluster import IMAGE, NAMESPACE, World
from tries import ended_by_a_user, fired

from airflow_ml_provider import Floats
from airflow_ml_provider.compute import KubernetesCompute
from airflow_ml_provider.operators import SearchOperator

BOWL = """
    def bowl(params, trial):
        return {"loss": (params["x"] - 0.3) ** 2}
    """
WAITING = """
    import time

    def bowl(params):
        time.sleep(600)
    """


def search(world: World, code: str = BOWL, **compute: Any) -> SearchOperator:
    """Five trials in two rounds, two pods at once."""
    (world.code / "mine.py").write_text(textwrap.dedent(code))
    with DAG("shop"):
        return SearchOperator(
            task_id="search", function="mine:bowl", search={"x": Floats(0, 1)}, metric="-loss", trials=5, batch=3,
            sampler="qmc", pruner="median", parallelism=2, code=str(world.code),
            compute=KubernetesCompute(image=IMAGE, start_timeout=20, **compute),
        )  # fmt: skip


@pytest.mark.parametrize("deferrable", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_each_round_is_a_pod_that_plans_and_an_indexed_job(world: World, deferrable: bool) -> None:
    output = world.run(search(world, deferrable=deferrable))
    assert output["metrics"]["trials_done"] == 5
    assert [job["spec"]["completions"] for job in world.cluster.ever("jobs")] == [2, 2]
    # Three that plan, the last of them that there is nothing more to do; four of the Jobs; one that sums up.
    assert len(world.pods_ever()) == 8
    world.cluster.until(lambda: not world.cluster.jobs(NAMESPACE) and not world.cluster.pods(NAMESPACE))


def test_a_search_that_is_ended_leaves_no_job_and_no_pod(world: World) -> None:
    running = world.try_(search(world, WAITING))
    planning = running.deferred()
    trigger = _next(running, planning)
    world.cluster.until(lambda: world.cluster.jobs(NAMESPACE))
    ended_by_a_user(trigger)
    world.cluster.until(lambda: not world.cluster.jobs(NAMESPACE) and not world.cluster.pods(NAMESPACE))


def _next(running: Any, trigger: Any) -> Any:
    """The trigger of the next deferral, once this one has fired."""
    with pytest.raises(TaskDeferred) as deferred:
        running.leg(fired(trigger))
    return deferred.value.trigger
