"""What a real kubelet, scheduler and API server say when something goes wrong, and what we make of it."""

from __future__ import annotations

import re
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from places import RealCluster
from scenario_shop import greedy_ingest, plain_ingest, slow_ingest
from tries import Try

from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError, TransientError
from airflow_ml_provider.operators import FleetOperator

GREEDY = """
    import time

    def work(item):
        taken = []
        for _ in range(200):
            taken.append(bytearray(10 * 2**20))
            time.sleep(0.1)
        return {}
    """
SLEEPS = """
    import time

    def work(item):
        time.sleep(item["seconds"])
        return {"slept": item["seconds"]}
    """


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    return folder


def task(place: RealCluster, code: Path, text: str, compute: dict[str, Any], **item: Any) -> Any:
    """A fleet of one item: the lightest step that runs a user's function."""
    (code / "mine.py").write_text(textwrap.dedent(text))
    with DAG("real"):
        return FleetOperator(
            task_id="one", function="mine:work", over=[item or {"n": 1}], code=str(code),
            compute=place.compute(**{"start_timeout": 30, **compute}),
        )  # fmt: skip


def test_a_step_out_of_memory_names_limit_and_peak(place: RealCluster, tmp_path: Path) -> None:
    """In a pod of its own: an ingest step whose function takes what it can."""
    with pytest.raises(InfrastructureError) as failed:
        Try(greedy_ingest(place, tmp_path, {"resources": {"memory": "400Mi"}})).to_the_end()
    said = str(failed.value)
    assert "ran out of memory: its limit is 400Mi" in said
    peak = re.search(r"it had used ([\d,]+) MiB a moment before", said)
    assert peak
    assert 250 < int(peak[1].replace(",", "")) <= 400
    place.until(lambda: not place.leftovers())


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize(
    ("compute", "kind", "said"),
    [
        ({"image": "localhost:1/nope:9"}, InfrastructureError, "cannot be pulled"),
        ({"resources": {"cpu": 500}, "start_timeout": 5}, InfrastructureError, "Insufficient cpu"),
        ({"node_selector": {"disk": "none"}, "start_timeout": 5}, InfrastructureError, "found no place to run for"),
        ({"secrets": ["not-there"], "start_timeout": 8}, ConfigError, 'secret "not-there" not found'),
        ({"service_account": "nobody"}, ConfigError, "create serviceaccount nobody"),
        ({"namespace": "nowhere-at-all"}, ConfigError, "nowhere-at-all"),
        ({"labels": {"not a label": "x"}}, ConfigError, "correct what it names"),
        ({"pod_template": {"spec": {"hostNetwork": True}}}, ConfigError, "violates PodSecurity"),
        ({"priority_class": "nobodys"}, ConfigError, "nobodys"),
    ],
    ids=["image", "cpu", "node selector", "secret", "service account", "namespace", "label", "security", "priority"],
)  # fmt: skip
def test_a_pod_that_cannot_be_is_named_with_its_fix(
    place: RealCluster,
    tmp_path: Path,
    compute: dict[str, Any],
    kind: type[Exception],
    said: str,
    deferrable: bool,
) -> None:
    with pytest.raises(kind, match=re.escape(said)):
        Try(plain_ingest(place, tmp_path, {**compute, "deferrable": deferrable})).to_the_end()
    place.until(lambda: not place.leftovers())


def test_an_exceeded_quota_is_worth_a_retry(place: RealCluster, tmp_path: Path) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    place.core.create_namespaced_resource_quota(place.namespace, quota)
    try:
        place.until(lambda: place.core.read_namespaced_resource_quota("none", place.namespace).status.hard)
        with pytest.raises(TransientError, match="exceeded quota"):
            Try(plain_ingest(place, tmp_path, {})).to_the_end()
    finally:
        place.core.delete_namespaced_resource_quota("none", place.namespace)
    # The controller forgets it a moment later.
    time.sleep(2)


def test_a_deadline_of_the_cluster_is_named(place: RealCluster, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="longer than its deadline of 6 s"):
        Try(slow_ingest(place, tmp_path, {"max_runtime": 6}, seconds=120)).to_the_end()
    place.until(lambda: not place.leftovers())


def test_a_retry_adopts_the_pod_of_a_worker_that_died(place: RealCluster, tmp_path: Path) -> None:
    slow = slow_ingest(place, tmp_path, {}, seconds=8)
    Try(slow).deferred()
    uid = place.until(place.running)[0].metadata.uid
    second = Try(slow, 2)
    seen: list[str] = []
    second.to_the_end(lambda _: seen.extend(pod.metadata.uid for pod in place.running()))
    assert set(seen) == {uid}
    place.until(lambda: not place.leftovers())


def test_a_fleet_that_cannot_start_says_why(place: RealCluster, code: Path) -> None:
    with pytest.raises(InfrastructureError, match="cannot be pulled"):
        Try(task(place, code, SLEEPS, {"image": "localhost:1/nope:9"}, seconds=0)).to_the_end()
    place.until(lambda: not place.leftovers())


def test_an_index_out_of_memory_is_told_and_the_retry_gets_more(place: RealCluster, code: Path) -> None:
    fleet = task(
        place,
        code,
        GREEDY.replace("range(200)", "range(60)"),
        {"resources": {"memory": "450Mi"}, "memory_growth": 4},
    )
    with pytest.raises(InfrastructureError):
        Try(fleet).to_the_end()
    assert Try(fleet, 2).to_the_end()["metrics"]["items_done"] == 1
    place.until(lambda: not place.leftovers())
