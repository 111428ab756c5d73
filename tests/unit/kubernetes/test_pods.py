"""A step as a pod: there is one, it is found again, and it is gone in the end."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from on_cluster import NAMESPACE, Try, World, fired, restarted
from tries import ended_by_a_user

from airflow_ml_provider.contract.errors import PreemptedError, TransientError, UserCodeError

SLOW = """
    import time
    import polars as pl

    def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
        time.sleep({seconds})
        return rows
    """
RAISES = """
    import polars as pl

    def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
        raise ValueError("a user's mistake")
    """


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_step_runs_in_a_pod_and_its_result_comes_through_the_store(world: World, deferrable: bool) -> None:
    attempt = world.try_(world.task(compute={"deferrable": deferrable}))
    output = attempt.to_the_end()
    assert output["table"]["rows"] == world.rows() == 2
    assert output["place"]["namespace"] == "ml"
    assert bool(attempt.deferrals) == deferrable
    assert len(world.pods_ever()) == 1
    assert not world.cluster.pods(NAMESPACE)


@pytest.mark.parametrize("deferrable", [True, False])
def test_the_users_traceback_is_the_last_thing_shown_and_the_pod_is_gone(
    world: World, deferrable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"), pytest.raises(UserCodeError) as failed:
        world.run(world.task(RAISES, compute={"deferrable": deferrable}))
    assert "mine:transform raised ValueError: a user's mistake" in str(failed.value)
    assert 'raise ValueError("a user\'s mistake")' in failed.value.__notes__[-1]
    assert failed.value.__suppress_context__ or failed.value.__context__ is None
    assert not world.cluster.pods(NAMESPACE)


def test_a_retry_after_the_worker_died_adopts_the_pod_that_runs(world: World) -> None:
    task = world.task(SLOW.format(seconds=3))
    world.try_(task).deferred()  # The worker and its trigger are heard of no more.
    again = world.try_(task, 2)
    assert again.to_the_end()["table"]["rows"] == 2
    assert len(world.pods_ever()) == 1


def test_a_retry_reads_the_result_of_a_pod_that_ended_meanwhile(world: World) -> None:
    task = world.task()
    world.try_(task).deferred()
    world.cluster.until(lambda: world.cluster.pods(NAMESPACE)[0]["status"]["phase"] == "Succeeded", 30)
    assert world.run(task, 2)["table"]["rows"] == 2
    assert len(world.pods_ever()) == 1


def test_a_result_is_believed_although_its_pod_was_collected(world: World) -> None:
    attempt = world.try_(world.task())
    trigger = attempt.deferred()
    world.cluster.until(lambda: world.cluster.pods(NAMESPACE)[0]["status"]["phase"] == "Succeeded", 30)
    world.cluster.vanish(world.cluster.pods(NAMESPACE)[0])
    output = finish(attempt, fired(trigger))
    assert output["table"]["rows"] == 2


def test_a_triggerer_that_is_restarted_goes_on_waiting(world: World) -> None:
    attempt = world.try_(world.task(SLOW.format(seconds=4)))
    trigger = attempt.deferred()

    async def interrupted() -> None:
        waiting = asyncio.create_task(anext(restarted(trigger).run()))
        await asyncio.sleep(1.5)
        waiting.cancel()

    asyncio.run(interrupted())
    assert finish(attempt, fired(trigger))["table"]["rows"] == 2
    assert len(world.pods_ever()) == 1


def test_two_submissions_at_once_share_one_pod(world: World) -> None:
    task = world.task(SLOW.format(seconds=2))
    outputs: list[Any] = []

    def submit() -> None:
        outputs.append(world.run(task))

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [output["table"]["rows"] for output in outputs] == [2, 2, 2]
    running = [pod for pod in world.pods_ever() if pod["status"]["phase"] == "Succeeded"]
    assert len(running) == len(world.pods_ever()) == 1
    assert world.rows() == 2


def test_ending_a_deferred_task_deletes_its_pod(world: World) -> None:
    trigger = world.try_(world.task(SLOW.format(seconds=60))).deferred()
    ended_by_a_user(trigger)
    world.cluster.until(lambda: not world.cluster.pods(NAMESPACE))


def test_ending_a_task_on_a_worker_deletes_its_pod(world: World) -> None:
    attempt = world.try_(world.task(SLOW.format(seconds=60), compute={"deferrable": False}))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            attempt.leg()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    world.cluster.until(lambda: running(world))
    attempt.running.on_kill()
    thread.join(30)
    assert failures
    assert isinstance(failures[0], Exception)
    assert len(world.pods_ever()) == 1, "a task that was ended must not start its step again"
    world.cluster.until(lambda: not world.cluster.pods(NAMESPACE))


def test_a_cleared_task_waits_until_its_old_pod_is_gone(world: World) -> None:
    task = world.task(SLOW.format(seconds=1))
    world.try_(task).deferred()
    pod = world.cluster.until(lambda: running(world))
    world.cluster.delete("pods", NAMESPACE, pod["metadata"]["name"])
    assert world.run(task, 2)["table"]["rows"] == 2
    first, second = world.pods_ever()
    assert first["metadata"]["name"] == second["metadata"]["name"]


def test_a_pod_of_older_code_is_replaced(world: World) -> None:
    world.try_(world.task(SLOW.format(seconds=60))).deferred()
    world.cluster.until(lambda: running(world))
    assert world.run(world.task(), 2)["table"]["rows"] == 2
    assert len(world.pods_ever()) == 2


def test_a_pod_deleted_by_hand_is_started_again_within_the_same_try(world: World) -> None:
    task = world.task(SLOW.format(seconds=3))
    attempt = world.try_(task)
    deleted = []

    def delete_once(_: Any) -> None:
        if not deleted:
            deleted.append(world.cluster.until(lambda: running(world)))
            time.sleep(1.5)  # Python has started, and can leave word.
            world.cluster.delete("pods", NAMESPACE, deleted[0]["metadata"]["name"])

    assert attempt.to_the_end(delete_once)["table"]["rows"] == 2
    assert len(world.pods_ever()) == 2


def test_a_pod_that_vanished_without_a_word_is_started_again_so_often_and_no_more(world: World) -> None:
    task = world.task(SLOW.format(seconds=30), compute={"resumptions": 1})
    attempt = world.try_(task)
    with pytest.raises(PreemptedError, match="is gone, and the step left no result"):
        attempt.to_the_end(lambda _: world.cluster.vanish(world.cluster.until(lambda: running(world))))
    assert len(world.pods_ever()) == 2


def test_a_deployment_that_shares_the_namespace_and_the_dag_has_pods_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    task = world.task(SLOW.format(seconds=2))
    first = world.try_(task)
    trigger = first.deferred()
    monkeypatch.setenv("AIRFLOW__ML__STORE", str(tmp_path / "another-store"))
    world.try_(task).to_the_end()
    assert len({pod["metadata"]["name"] for pod in world.pods_ever()}) == 2
    monkeypatch.setenv("AIRFLOW__ML__STORE", world.store.uri)
    assert finish(first, fired(trigger))["table"]["rows"] == 2


def test_an_api_that_fails_while_it_waits_leaves_the_pod_running_for_the_retry(world: World) -> None:
    task = world.task(SLOW.format(seconds=8))
    attempt = world.try_(task)
    trigger = attempt.deferred()
    world.cluster.until(lambda: running(world))
    fault = world.cluster.faults.add(verb="GET", path=r"/pods/", status=500, times=60)
    event = fired(trigger)
    assert event["status"] == "error"
    with pytest.raises(TransientError, match="did not answer clearly"):
        finish(attempt, event)
    world.cluster.faults.clear()
    del fault
    assert world.run(task, 2)["table"]["rows"] == 2
    assert len(world.pods_ever()) == 1


def running(world: World) -> Any:
    """The pod that runs, once its container has started."""
    found = [pod for pod in world.cluster.pods(NAMESPACE) if pod["status"].get("phase") == "Running"]
    return found[0] if found else None


def finish(attempt: Try, event: dict[str, Any]) -> dict[str, Any]:
    """The rest of a try, from what its trigger said."""
    from airflow.sdk.exceptions import TaskDeferred

    while True:
        try:
            return attempt.leg(event)
        except TaskDeferred as deferred:
            event = fired(deferred.trigger)


def test_a_kubeconfig_instead_of_a_connection_serves_worker_and_triggerer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_fleet_job import fleet

    monkeypatch.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT")
    # The worker's own, and no way to this cluster.
    monkeypatch.setenv("KUBECONFIG", "/dev/null")
    where = {"kubeconfig": str(world.cluster.kubeconfig), "namespace": NAMESPACE}
    triggers: list[Any] = []
    attempt = world.try_(world.task(compute=where))
    assert attempt.to_the_end(lambda trigger: triggers.append(trigger.serialize()))["table"]["rows"] == 2
    assert world.run(fleet(world, compute=where))["metrics"]["items_done"] == 6
    assert world.cluster.token not in str(triggers)


def test_a_kubeconfig_of_the_workers_environment_does_not_get_in_the_way_of_the_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(world.cluster.kubeconfig))
    assert world.run(world.task())["table"]["rows"] == 2
