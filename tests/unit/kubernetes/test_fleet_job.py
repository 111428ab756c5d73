"""A fleet as one Indexed Job: made once, adopted, retried by index, removed."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred
from on_cluster import IMAGE, NAMESPACE, World, fired
from test_pods import finish
from tries import ended_by_a_user

from airflow_ml_provider.compute import KubernetesCompute
from airflow_ml_provider.contract.errors import ConfigError, MLError
from airflow_ml_provider.operators import FleetOperator
from airflow_ml_provider.triggers.fleet import FleetJobTrigger

SQUARE = """
    import time

    def square(item, params):
        time.sleep(params.get("seconds", 0))
        return {"square": item["n"] ** 2}
    """


def fleet(
    world: World, code: str = SQUARE, *, count: int = 6, compute: dict[str, Any] | None = None, **more: Any
) -> Any:
    """A fleet over the numbers below ``count``."""
    (world.code / "mine.py").write_text(textwrap.dedent(code))
    where = {"image": IMAGE, "start_timeout": 20, **(compute or {})}
    with DAG("shop"):
        return FleetOperator(
            task_id="squares", function="mine:square", over=[{"n": n} for n in range(count)], code=str(world.code),
            compute=KubernetesCompute(**where), **{"items_per_index": 2, "parallelism": 2, **more},
        )  # fmt: skip


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_fleet_is_one_indexed_job_and_one_pod_that_sums_up(world: World, deferrable: bool) -> None:
    output = world.run(fleet(world, compute={"deferrable": deferrable}))
    assert output["metrics"]["items_done"] == 6
    [job] = world.cluster.ever("jobs")
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == 3
    assert len(world.pods_ever()) == 4
    world.cluster.until(lambda: not world.cluster.jobs(NAMESPACE) and not world.cluster.pods(NAMESPACE))


def test_a_job_is_removed_after_the_summing_up_which_need_not_wait_for_thousands_of_pods_to_go(
    world: World,
) -> None:
    world.run(fleet(world))
    removed = [request.path.split("/")[-2] for request in world.cluster.requests if request.verb == "DELETE"]
    # The pod that sums up, when it had ended, and the Job.
    assert removed.index("jobs") > removed.index("pods")


def test_while_it_sums_up_its_job_is_one_that_kubernetes_removes_soon_whatever_becomes_of_the_task(
    world: World,
) -> None:
    attempt = world.try_(fleet(world))
    trigger = attempt.deferred()
    while isinstance(trigger, FleetJobTrigger):
        with pytest.raises(TaskDeferred) as deferred:
            attempt.leg(fired(trigger))
        trigger = deferred.value.trigger
    [job] = world.cluster.jobs(NAMESPACE)
    assert job["spec"]["ttlSecondsAfterFinished"] == 600
    assert finish(attempt, fired(trigger))["metrics"]["items_done"] == 6
    world.cluster.until(lambda: not world.cluster.jobs(NAMESPACE))


def test_a_job_that_cannot_be_removed_fails_no_fleet_that_is_summed_up(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.cluster.faults.add(verb="DELETE", path=r"/jobs/", times=1, status=403)
    assert world.run(fleet(world))["metrics"]["items_done"] == 6
    assert "could not be removed, Kubernetes will" in caplog.text
    assert world.cluster.jobs(NAMESPACE)[0]["spec"]["ttlSecondsAfterFinished"]


def test_a_look_at_pods_that_may_still_start_asks_for_no_events(world: World) -> None:
    world.cluster.node_capacity = {"cpu": 2, "memory": "4Gi", "pods": 10}
    running = world.try_(fleet(world, compute={"resources": {"cpu": 1000}, "start_timeout": 60}))
    running.deferred()
    world.cluster.until(lambda: world.cluster.pods(NAMESPACE))
    with pytest.raises(TaskDeferred):
        running.leg({"phase": "fleet", "status": "look", "message": ""})
    assert any("/pods" in request.path for request in world.cluster.requests)
    assert not [request.path for request in world.cluster.requests if "/events" in request.path]


def test_a_retry_after_the_worker_died_adopts_the_job(world: World) -> None:
    task = fleet(world, hyperparameters={"seconds": 1.5})
    world.try_(task).deferred()
    assert world.run(task, 2)["metrics"]["items_done"] == 6
    assert len(world.cluster.ever("jobs")) == 1


def test_a_failed_item_is_named_and_the_retry_runs_only_what_is_missing(world: World) -> None:
    (world.folder / "broken").write_text("")
    code = f"""
        import pathlib

        def square(item):
            if item["n"] == 3 and pathlib.Path({str(world.folder / "broken")!r}).exists():
                raise ConnectionError("the third is not there yet")
            return {{"square": item["n"] ** 2}}
        """
    task = fleet(world, code, items_per_index=1)
    with pytest.raises(MLError, match="the third is not there yet"):
        world.run(task)
    world.cluster.until(lambda: not world.cluster.jobs(NAMESPACE))
    (world.folder / "broken").unlink()
    assert world.run(task, 2)["metrics"]["items_done"] == 6
    assert [job["spec"]["completions"] for job in world.cluster.ever("jobs")] == [6, 1]


def test_a_job_in_a_queue_waits_until_it_is_admitted_and_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.cluster.suspend_jobs = True
    task = fleet(world, compute={"queue": "ml-queue", "deferrable": False})
    import threading

    def admit() -> None:
        job = world.cluster.until(lambda: world.cluster.jobs(NAMESPACE))[0]
        world.cluster.until(lambda: "until Kueue admits it" in caplog.text)
        assert not [p for p in world.cluster.pods(NAMESPACE) if p["metadata"].get("ownerReferences")]
        world.cluster.admit(job)
        for _ in range(200):
            for pod in world.cluster.pods(NAMESPACE):
                world.cluster.admit(pod)
            threading.Event().wait(0.1)

    thread = threading.Thread(target=admit, daemon=True)
    with caplog.at_level("INFO"):
        thread.start()
        assert world.run(task)["metrics"]["items_done"] == 6
    assert "it waits in the queue 'ml-queue' until Kueue admits it" in caplog.text


def test_ending_a_fleet_deletes_its_job_and_pods(world: World) -> None:
    trigger = world.try_(fleet(world, hyperparameters={"seconds": 60})).deferred()
    ended_by_a_user(trigger)
    world.cluster.until(lambda: not world.cluster.jobs(NAMESPACE) and not world.cluster.pods(NAMESPACE))


def test_an_image_that_does_not_exist_ends_the_fleet(world: World) -> None:
    with pytest.raises(ConfigError, match="nowhere/steps:9"):
        world.run(fleet(world, compute={"image": "nowhere/steps:9", "start_timeout": 4}))
    world.cluster.until(lambda: not world.cluster.jobs(NAMESPACE))


def test_a_job_removed_by_hand_is_what_a_retry_makes_up_for(world: World) -> None:
    task = fleet(world, hyperparameters={"seconds": 1})
    attempt = world.try_(task)
    trigger = attempt.deferred()
    world.cluster.delete("jobs", NAMESPACE, world.cluster.jobs(NAMESPACE)[0]["metadata"]["name"])
    with pytest.raises(MLError) as failed:
        finish(attempt, fired(trigger))
    assert failed.value.retryable
    assert world.run(task, 2)["metrics"]["items_done"] == 6


@pytest.mark.parametrize(
    "how", [{"status": 500, "processed": True}, {"after_bytes": 0}, {"status": 429}], ids=str
)
def test_an_api_that_stumbles_at_creation_makes_one_job(world: World, how: dict[str, Any]) -> None:
    world.cluster.faults.add(verb="POST", path=r"/jobs$", times=2, **how)
    assert world.run(fleet(world))["metrics"]["items_done"] == 6
    assert len(world.cluster.ever("jobs")) == 1


def test_many_items_cost_one_task_and_are_not_in_the_manifest(world: World) -> None:
    output = world.run(fleet(world, count=400, items_per_index=100))
    assert output["metrics"]["items_done"] == 400
    assert len(str(output)) < 20_000


def test_a_fleets_job_ends_with_the_time_of_its_task(world: World) -> None:
    from datetime import timedelta

    task = fleet(world, hyperparameters={"seconds": 60}, execution_timeout=timedelta(seconds=6))
    with pytest.raises(MLError, match="execution_timeout of 6 s and was ended") as failed:
        world.run(task)
    assert "a retry runs only what is missing" in str(failed.value)
    assert world.cluster.ever("jobs")[0]["spec"]["activeDeadlineSeconds"] == 606
    world.cluster.until(lambda: not world.cluster.jobs(NAMESPACE) and not world.cluster.pods(NAMESPACE))
