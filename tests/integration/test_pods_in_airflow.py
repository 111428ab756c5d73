"""Steps as pods under a real scheduler, worker and triggerer: no second pod, none left behind, whatever happens."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from cluster import Cluster
from deltalake import DeltaTable

from airflow_api import AirflowApi
from deployment import Deployment

pytestmark = pytest.mark.timeout(300)

NAMESPACE = "ml"


@pytest.fixture(autouse=True)
def raw(deployment: Deployment, cluster: Cluster) -> Iterator[None]:
    """Something to read, and a cluster where nothing is left over."""
    folder = deployment.home / "faults" / "pods"
    folder.mkdir(exist_ok=True)
    (folder / "rows.csv").write_text("ds,x\n2013-01-01,1\n2013-01-01,2\n")
    yield
    cluster.until(lambda: not leftovers(cluster), 30)


def start(api: AirflowApi, name: str) -> tuple[str, str]:
    dag_id = f"pod_{name}"
    api.wait_for_dags({dag_id})
    api.pause(dag_id, False)
    return dag_id, api.trigger(dag_id, "once")["dag_run_id"]


def leftovers(cluster: Cluster) -> list[str]:
    kinds = (cluster.pods, cluster.jobs, cluster.secrets)
    return [each["metadata"]["name"] for kind in kinds for each in kind(NAMESPACE)]


def pods_of(cluster: Cluster, dag_id: str) -> list[dict[str, Any]]:
    """All pods that a DAG ever had."""
    return [pod for pod in cluster.ever("pods") if pod["metadata"]["labels"].get("dag_id") == dag_id]


def running(cluster: Cluster, dag_id: str) -> Any:
    alive = [pod for pod in cluster.pods(NAMESPACE) if pod["metadata"]["labels"].get("dag_id") == dag_id]
    return [pod for pod in alive if pod["status"].get("phase") == "Running"]


def state_of(api: AirflowApi, dag_id: str, run_id: str) -> str:
    return str(api.tasks(dag_id, run_id)[0]["state"])


def is_watched(api: AirflowApi, dag_id: str, run_id: str) -> bool:
    """Whether a triggerer waits for the task; ended before, nobody hears of it."""
    deferred = state_of(api, dag_id, run_id) == "deferred"
    return deferred and "Pod has reached Running phase" in api.log(dag_id, run_id, "rows", 1)


def rows_of(deployment: Deployment, name: str) -> int:
    return DeltaTable(str(deployment.home / "store" / "tables" / name)).to_pyarrow_table().num_rows


def test_a_pods_log_is_the_tasks_log_each_line_once(
    api: AirflowApi, cluster: Cluster, deployment: Deployment
) -> None:
    dag_id, run_id = start(api, "quick")
    cluster.until(lambda: state_of(api, dag_id, run_id) in ("success", "failed"), 120)
    log = api.log(dag_id, run_id, "rows", 1)
    assert state_of(api, dag_id, run_id) == "success", log
    assert [int(n) for n in re.findall(r"\bline (\d+)\b", log)] == list(range(20))
    assert len(pods_of(cluster, dag_id)) == 1
    assert rows_of(deployment, "pod_quick") == 2


def test_a_killed_worker_costs_a_try_and_no_second_pod(
    api: AirflowApi, cluster: Cluster, deployment: Deployment
) -> None:
    dag_id, run_id = start(api, "killed")
    cluster.until(lambda: running(cluster, dag_id), 120)
    for pid in busy(deployment):
        os.kill(pid, signal.SIGKILL)
    # The next try adopts it, long before it ends.
    cluster.until(lambda: state_of(api, dag_id, run_id) in ("success", "failed"), 180)
    assert state_of(api, dag_id, run_id) == "success"
    assert "adopted pod" in api.log(dag_id, run_id, "rows", 2)
    assert len(pods_of(cluster, dag_id)) == 1
    assert rows_of(deployment, "pod_killed") == 2


def test_a_cleared_task_runs_again_and_never_beside_itself(
    api: AirflowApi, cluster: Cluster, deployment: Deployment
) -> None:
    dag_id, run_id = start(api, "cleared")
    cluster.until(lambda: running(cluster, dag_id), 120)
    most = 0
    asked = {"dag_run_id": run_id, "only_failed": False, "dry_run": False, "reset_dag_runs": True}
    api.call("POST", f"/dags/{dag_id}/clearTaskInstances", json=asked)

    def ended() -> bool:
        nonlocal most
        most = max(most, len(running(cluster, dag_id)))
        return state_of(api, dag_id, run_id) in ("success", "failed")

    cluster.until(ended, 180)
    assert state_of(api, dag_id, run_id) == "success"
    assert most <= 1
    assert rows_of(deployment, "pod_cleared") == 2


def test_a_task_marked_as_failed_takes_its_pod_with_it(api: AirflowApi, cluster: Cluster) -> None:
    dag_id, run_id = start(api, "failed")
    cluster.until(lambda: running(cluster, dag_id) and is_watched(api, dag_id, run_id), 120)
    api.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/rows", json={"new_state": "failed"})
    cluster.until(lambda: not leftovers(cluster), 60)


def test_a_deleted_run_takes_its_pod_with_it(api: AirflowApi, cluster: Cluster) -> None:
    dag_id, run_id = start(api, "deleted")
    cluster.until(lambda: running(cluster, dag_id) and is_watched(api, dag_id, run_id), 120)
    # Airflow deletes no run that is running.
    api.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})
    api.call("DELETE", f"/dags/{dag_id}/dagRuns/{run_id}")
    cluster.until(lambda: not leftovers(cluster), 60)


def test_a_task_that_is_late_takes_its_pod_with_it(api: AirflowApi, cluster: Cluster) -> None:
    dag_id, run_id = start(api, "late")
    cluster.until(lambda: state_of(api, dag_id, run_id) == "failed", 120)
    assert "reached the task's execution_timeout deadline" in api.log(dag_id, run_id, "rows", 1)


def busy(deployment: Deployment) -> list[int]:
    """The processes of running tasks, and the workers that supervise them: those first."""
    workers = deployment.pids_of("worker")
    tasks = {pid: psutil.Process(pid).ppid() for pid in workers if psutil.Process(pid).ppid() in workers}
    assert tasks, "no task runs on a worker"
    return [*tasks.values(), *tasks]
