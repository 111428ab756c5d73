"""What goes wrong with a pod, by name: what happened, what was kept, what a retry does, what to do next."""

from __future__ import annotations

from typing import Any

import pytest
from on_cluster import NAMESPACE, World
from test_pods import SLOW, running

from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError, MLError, TransientError

Act = Any


@pytest.mark.parametrize("deferrable", [True, False])
def test_out_of_memory_names_limit_and_peak_and_the_retry_asks_for_more(
    world: World, deferrable: bool
) -> None:
    greedy = """
        import time
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            taken = bytearray(600 * 2**20)
            time.sleep(3)
            return rows
        """
    where = {"resources": {"memory": "500Mi"}, "memory_growth": 4, "deferrable": deferrable}
    task = world.task(greedy, compute=where)
    with pytest.raises(InfrastructureError, match="ran out of memory: its limit is 500Mi") as failed:
        world.run(task)
    assert "memory_growth" in str(failed.value)
    assert "publication is whole or not there" in str(failed.value)
    assert world.run(task, 2)["table"]["rows"] == 2
    limits = [pod["spec"]["containers"][0]["resources"]["limits"]["memory"] for pod in world.pods_ever()]
    assert limits == ["500Mi", "2000Mi"]


@pytest.mark.parametrize("deferrable", [True, False])
def test_an_image_that_does_not_exist_is_a_mistake_in_the_settings(world: World, deferrable: bool) -> None:
    task = world.task(compute={"image": "nowhere/steps:9", "deferrable": deferrable})
    with pytest.raises(ConfigError, match="the image 'nowhere/steps:9' cannot be pulled") as failed:
        world.run(task)
    assert "image_pull_secrets=" in str(failed.value)
    assert not failed.value.retryable
    world.cluster.until(lambda: not world.cluster.pods(NAMESPACE))


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_pod_that_finds_no_place_says_what_is_missing_and_how_long_it_waited(
    world: World, deferrable: bool
) -> None:
    world.cluster.node_capacity = {"cpu": 2, "memory": "8Gi", "pods": 10}
    task = world.task(compute={"resources": {"cpu": 500}, "start_timeout": 3, "deferrable": deferrable})
    with pytest.raises(
        InfrastructureError, match=r"found no place to run for \d+ s: .*Insufficient cpu"
    ) as failed:
        world.run(task)
    assert "start_timeout=" in str(failed.value)
    world.cluster.until(lambda: not world.cluster.pods(NAMESPACE))


def test_a_missing_secret_is_named(world: World) -> None:
    task = world.task(compute={"secrets": ["store-keys"], "start_timeout": 3})
    with pytest.raises(ConfigError, match="store-keys"):
        world.run(task)
    world.cluster.until(lambda: not world.cluster.pods(NAMESPACE))


def test_an_exceeded_quota_is_worth_a_retry(world: World) -> None:
    world.cluster.quota(NAMESPACE, {"pods": 0})
    with pytest.raises(TransientError, match="exceeded quota") as failed:
        world.run(world.task())
    assert "raise the ResourceQuota" in str(failed.value)


@pytest.mark.parametrize("deferrable", [True, False])
def test_an_evicted_pod_says_why(world: World, deferrable: bool) -> None:
    failed = befallen(world, lambda cluster, pod: cluster.evict(pod), compute={"deferrable": deferrable})
    assert isinstance(failed, InfrastructureError)
    assert "evicted from its node: The node was low on resource: memory" in str(failed)


@pytest.mark.parametrize("what", ["preempt", "drain", "lose_node"])
@pytest.mark.parametrize("deferrable", [True, False])
def test_a_place_taken_away_costs_no_retry(world: World, what: str, deferrable: bool) -> None:
    task = world.task(SLOW.format(seconds=4), compute={"deferrable": deferrable})
    befall_once(world, lambda cluster, pod: getattr(cluster, what)(pod))
    assert world.run(task)["table"]["rows"] == 2
    assert len(world.pods_ever()) == 2
    assert world.rows() == 2


def test_a_deadline_is_named(world: World) -> None:
    with pytest.raises(InfrastructureError, match="ran for longer than its deadline of 3 s") as failed:
        world.run(world.task(SLOW.format(seconds=60), compute={"max_runtime": 3}))
    assert "max_runtime=" in str(failed.value)
    world.cluster.until(lambda: not world.cluster.pods(NAMESPACE))


@pytest.mark.parametrize("deferrable", [True])
def test_the_tasks_own_timeout_ends_the_pod(world: World, deferrable: bool) -> None:
    from datetime import timedelta

    task = world.task(
        SLOW.format(seconds=60), execution_timeout=timedelta(seconds=5), compute={"deferrable": deferrable}
    )
    with pytest.raises(InfrastructureError, match="execution_timeout of 5 s"):
        world.run(task)
    world.cluster.until(lambda: not world.cluster.pods(NAMESPACE))


def test_a_failed_pod_is_left_to_look_at_if_wanted_and_the_next_try_replaces_it(world: World) -> None:
    failing_once = """
        import pathlib
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            mark = pathlib.Path(__file__ + ".once") if False else pathlib.Path({mark!r})
            if not mark.exists():
                mark.write_text("")
                raise ValueError("the first time")
            return rows
        """.format(mark=str(world.folder / "once"))
    task = world.task(failing_once, compute={"keep_failed": True})
    with pytest.raises(MLError, match="the first time"):
        world.run(task)
    assert [pod["status"]["phase"] for pod in world.cluster.pods(NAMESPACE)] == ["Failed"]
    assert world.run(task, 2)["table"]["rows"] == 2
    assert not world.cluster.pods(NAMESPACE)


@pytest.mark.parametrize(
    ("arrange", "compute", "said", "todo"),
    [
        (lambda c: c.forbid("create", "pods"), {}, "refused to create pod .* in namespace 'ml'", 'verbs: ["create"]'),
        (lambda c: None, {"service_account": "nobody"}, "nobody", "kubectl create serviceaccount nobody -n ml"),
        (lambda c: None, {"namespace": "nowhere"}, "namespaces .nowhere. not found", "create namespace nowhere"),
        (lambda c: c.limits(NAMESPACE, max={"memory": "1Gi"}), {"resources": {"memory": "2Gi"}}, "maximum", "limits"),
    ],
    ids=["forbidden", "service account", "namespace", "limit range"],
)  # fmt: skip
def test_a_refusal_names_object_namespace_verb_and_fix(
    world: World, arrange: Act, compute: dict[str, Any], said: str, todo: str
) -> None:
    arrange(world.cluster)
    with pytest.raises(ConfigError, match=said) as failed:
        world.run(world.task(compute=compute))
    assert todo in str(failed.value)
    assert "shop-rows-" in str(failed.value)


@pytest.mark.parametrize("path", [r"/pods/[^/]+$", r"/log$", r"/events$"])
@pytest.mark.parametrize("deferrable", [True, False])
def test_an_api_that_stumbles_while_a_pod_runs_changes_nothing(
    world: World, path: str, deferrable: bool
) -> None:
    task = world.task(SLOW.format(seconds=3), compute={"deferrable": deferrable})
    for how in ({"status": 429, "retry_after": 1}, {"status": 500}, {"drop": True}):
        world.cluster.faults.add(verb="GET", path=path, times=1, skip=1, **how)
    assert world.run(task)["table"]["rows"] == 2
    assert len(world.pods_ever()) == 1


@pytest.mark.parametrize(
    "how",
    [{"status": 429, "retry_after": 1}, {"status": 500}, {"status": 500, "processed": True}, {"drop": True},
     {"after_bytes": 0}, {"status": 409}],
    ids=str,
)  # fmt: skip
def test_an_api_that_stumbles_at_creation_makes_one_pod(world: World, how: dict[str, Any]) -> None:
    world.cluster.faults.add(verb="POST", path=r"/pods$", times=2, **how)
    assert world.run(world.task())["table"]["rows"] == 2
    assert len(world.pods_ever()) == 1


def test_an_api_that_is_down_at_creation_is_unknown_not_absent(world: World) -> None:
    world.cluster.faults.add(verb="GET", path=r"/pods/", times=None, status=503)
    with pytest.raises(TransientError, match="it is unknown") as failed:
        world.run(world.task())
    assert "a retry looks for the step's pod first" in str(failed.value)
    assert not world.pods_ever()


def test_watches_that_expire_change_nothing(world: World) -> None:
    task = world.task(SLOW.format(seconds=3))
    attempt = world.try_(task)

    def expire(_: Any) -> None:
        import threading

        threading.Timer(1.0, world.cluster.expire_watches).start()

    assert attempt.to_the_end(expire)["table"]["rows"] == 2
    assert len(world.pods_ever()) == 1


def befall_once(world: World, what: Act) -> None:
    """Something happens to the first pod, some time after its container has started."""
    import threading
    import time

    def act() -> None:
        pod = world.cluster.until(lambda: running(world), 30)
        time.sleep(1.0)
        what(world.cluster, pod)

    threading.Thread(target=act, daemon=True).start()


def befallen(world: World, what: Act, compute: dict[str, Any]) -> MLError:
    """How a task fails to whose pod something happens."""
    befall_once(world, what)
    with pytest.raises(MLError) as failed:
        world.run(world.task(SLOW.format(seconds=30), compute=compute))
    return failed.value
