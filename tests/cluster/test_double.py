"""The double, held to what a real cluster does; also how it is used."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster, Image

NS = "ml"
Spec = dict[str, Any]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster") as started:
        started.images["mlsteps:dev"] = Image(env={"BAKED": "in"})
        started.namespace(NS)
        yield started


@pytest.fixture
def core(cluster: Cluster) -> Any:
    from kubernetes import client, config

    return client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig)))


@pytest.fixture
def batch(cluster: Cluster) -> Any:
    from kubernetes import client, config

    return client.BatchV1Api(config.new_client_from_config(str(cluster.kubeconfig)))


def pod_of(
    code: str, name: str = "step", *, meta: Spec | None = None, pod: Spec | None = None, **base: Any
) -> Spec:
    container = {"name": "base", "image": "mlsteps:dev", "command": ["python", "-uc", code], **base}
    return {
        "metadata": {"name": name, **(meta or {})},
        "spec": {"restartPolicy": "Never", "containers": [container], **(pod or {})},
    }


def job_of(code: str, name: str = "train", **spec: Any) -> Spec:
    return {"metadata": {"name": name}, "spec": {"template": {"spec": pod_of(code)["spec"]}, **spec}}


def status_of(call: Callable[[], Any]) -> Spec:
    """The Status body of a call that is refused."""
    from kubernetes.client import ApiException

    with pytest.raises(ApiException) as refused:
        call()
    body = json.loads(refused.value.body)
    assert body["kind"] == "Status"
    assert body["code"] == refused.value.status
    return body


def ended(cluster: Cluster, name: str = "step") -> Spec:
    def look() -> Spec | None:
        pod = cluster.get("pods", NS, name)
        return pod if pod and pod["status"]["phase"] in ("Succeeded", "Failed") else None

    return cluster.until(look)


def terminated(pod: Spec) -> Spec:
    return pod["status"]["containerStatuses"][0]["state"]["terminated"]


def finished(cluster: Cluster, name: str = "train", timeout: float = 15) -> dict[str, Any]:
    """The Job's status, and its true conditions by type, once it is over."""

    def look() -> Spec | None:
        job = cluster.get("jobs", NS, name)
        found = {
            c["type"]: c
            for c in (job or {"status": {}})["status"].get("conditions", [])
            if c["status"] == "True"
        }
        return {**job["status"], "true": found} if job and found.keys() & {"Complete", "Failed"} else None

    return cluster.until(look, timeout)


def test_a_pod_runs_as_a_process_and_its_log_can_be_followed(cluster: Cluster, core: Any) -> None:
    code = "import time\nfor i in range(3): print('line', i); time.sleep(0.2)"
    core.create_namespaced_pod(NS, pod_of(code))
    cluster.until(lambda: cluster.pods(NS)[0]["status"]["phase"] == "Running")
    response = core.read_namespaced_pod_log("step", NS, follow=True, timestamps=True, _preload_content=False)
    lines = b"".join(response.stream()).decode().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["line 0", "line 1", "line 2"]
    assert len(lines[0].split(".")[1].split("Z")[0]) == 9
    assert terminated(ended(cluster))["reason"] == "Completed"
    last = core.read_namespaced_pod_log("step", NS, tail_lines=1, _preload_content=False)
    assert last.data == b"line 2\n"
    assert {"Scheduled", "Pulled", "Started"} <= {event["reason"] for event in cluster.events(NS)}


def test_a_container_gets_the_environment_its_pod_declares_and_none_of_the_tests(
    cluster: Cluster, core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_TEST", "1")
    core.create_namespaced_secret(
        NS, {"metadata": {"name": "keys"}, "stringData": {"TOKEN": "t", "OTHER": "o"}}
    )
    env = [
        {"name": "ONE", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "TOKEN"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "BOTH", "value": "$(NAME)-$(ONE)"},
    ]
    volumes = [{"name": "scratch", "emptyDir": {}}, {"name": "data", "hostPath": {"path": str(tmp_path)}}]
    mounts = [{"name": "scratch", "mountPath": "/tmp"}, {"name": "data", "mountPath": str(tmp_path)}]
    code = (
        "import json, os, tempfile, pathlib; e = {**os.environ, 'tmp': tempfile.gettempdir()}; "
        f"pathlib.Path({str(tmp_path / 'out')!r}).write_text(json.dumps(e))"
    )
    source = [{"secretRef": {"name": "keys"}}]
    body = pod_of(code, env=env, envFrom=source, volumeMounts=mounts, pod={"volumes": volumes})
    core.create_namespaced_pod(NS, body)
    ended(cluster)
    got = json.loads((tmp_path / "out").read_text())
    assert (got["ONE"], got["OTHER"], got["BOTH"], got["BAKED"]) == ("t", "o", "step-t", "in")
    assert "OF_THE_TEST" not in got
    assert got["tmp"] == got["TMPDIR"] != "/tmp"


def test_a_taken_name_is_a_conflict_also_while_its_holder_terminates(cluster: Cluster, core: Any) -> None:
    body = pod_of(
        "import signal, time; signal.signal(15, lambda *_: time.sleep(1)); print('up'); time.sleep(60)"
    )
    core.create_namespaced_pod(NS, body)
    refused = status_of(lambda: core.create_namespaced_pod(NS, body))
    assert (refused["reason"], refused["message"]) == ("AlreadyExists", 'pods "step" already exists')
    cluster.until(
        lambda: "up" in cluster.logs("step") if cluster.pods()[0]["status"]["phase"] == "Running" else ""
    )
    core.delete_namespaced_pod("step", NS, grace_period_seconds=1)
    refused = status_of(lambda: core.create_namespaced_pod(NS, body))
    assert refused["message"] == 'object is being deleted: pods "step" already exists'
    cluster.until(lambda: not cluster.pods())
    assert status_of(lambda: core.read_namespaced_pod("step", NS))["message"] == 'pods "step" not found'
    assert cluster.ever("pods")[0]["status"]["phase"] == "Failed"


def test_process_one_ignores_a_sigterm_it_does_not_handle(cluster: Cluster, core: Any) -> None:
    core.create_namespaced_pod(
        NS, pod_of("import time; time.sleep(60)", pod={"terminationGracePeriodSeconds": 1})
    )
    cluster.until(lambda: cluster.pods()[0]["status"]["phase"] == "Running")
    core.delete_namespaced_pod("step", NS)
    cluster.until(lambda: not cluster.pods())
    assert terminated(cluster.ever("pods")[0])["exitCode"] == 137


def test_a_watch_resumes_where_it_stopped_and_expires_with_410(cluster: Cluster, core: Any) -> None:
    from kubernetes import watch
    from kubernetes.client import ApiException

    seen = core.list_namespaced_pod(NS).metadata.resource_version
    core.create_namespaced_pod(NS, pod_of("pass"))
    ended(cluster)
    again = watch.Watch().stream(core.list_namespaced_pod, NS, resource_version=seen, timeout_seconds=1)
    kinds = [(event["type"], event["object"].status.phase) for event in again]
    assert kinds[0] == ("ADDED", "Pending")
    assert kinds[-1] == ("MODIFIED", "Succeeded")
    cluster.expire_watches()
    with pytest.raises(ApiException) as gone:
        list(watch.Watch().stream(core.list_namespaced_pod, NS, resource_version=seen, timeout_seconds=1))
    assert gone.value.status == 410
    assert "too old resource version" in gone.value.reason


def test_a_stale_update_is_a_conflict(cluster: Cluster, core: Any) -> None:
    made = core.create_namespaced_config_map(NS, {"metadata": {"name": "c"}, "data": {"a": "1"}})
    core.patch_namespaced_config_map("c", NS, {"data": {"a": "2"}})
    refused = status_of(lambda: core.replace_namespaced_config_map("c", NS, made))
    assert refused["reason"] == "Conflict"
    assert "the object has been modified" in refused["message"]


def test_a_process_beyond_its_memory_limit_is_killed(cluster: Cluster, core: Any) -> None:
    code = "x = bytearray(200 << 20); import time; time.sleep(30)"
    core.create_namespaced_pod(NS, pod_of(code, resources={"limits": {"memory": "100Mi"}}))
    pod = ended(cluster)
    assert (terminated(pod)["reason"], terminated(pod)["exitCode"]) == ("OOMKilled", 137)
    assert pod["status"]["phase"] == "Failed"


def test_a_failed_container_reports_the_end_of_its_log(cluster: Cluster, core: Any) -> None:
    code = "print('why it failed'); raise SystemExit(3)"
    core.create_namespaced_pod(NS, pod_of(code, terminationMessagePolicy="FallbackToLogsOnError"))
    assert terminated(ended(cluster))["message"] == "why it failed\n"


def test_a_quota_refuses_the_pod_too_many(cluster: Cluster, core: Any) -> None:
    cluster.quota(NS, {"pods": 1})
    core.create_namespaced_pod(NS, pod_of("import time; time.sleep(60)", "one"))
    refused = status_of(lambda: core.create_namespaced_pod(NS, pod_of("pass", "two")))
    assert refused["code"] == 403
    over = "exceeded quota: quota, requested: pods=1, used: pods=1, limited: pods=1"
    assert refused["message"] == f'pods "two" is forbidden: {over}'


def test_a_missing_permission_and_a_missing_service_account_say_so(cluster: Cluster, core: Any) -> None:
    body = pod_of("pass", pod={"serviceAccountName": "ml-step"})
    refused = status_of(lambda: core.create_namespaced_pod(NS, body))
    missing = 'error looking up service account ml/ml-step: serviceaccount "ml-step" not found'
    assert refused["message"] == f'pods "step" is forbidden: {missing}'
    cluster.service_accounts.add((NS, "ml-step"))
    cluster.forbid("create", "pods")
    refused = status_of(lambda: core.create_namespaced_pod(NS, body))
    who = 'User "system:serviceaccount:default:airflow" cannot create resource "pods" in API group ""'
    assert refused["message"] == f'pods is forbidden: {who} in the namespace "ml"'
    cluster.allow("create", "pods")
    core.create_namespaced_pod(NS, body)


def test_a_pod_that_does_not_fit_waits_until_there_is_room(cluster: Cluster, core: Any) -> None:
    cluster.node_capacity = {"cpu": 1}
    core.create_namespaced_pod(NS, pod_of("pass", resources={"requests": {"cpu": "1500m"}}))
    cluster.until(lambda: cluster.pods()[0]["status"].get("conditions"))
    status = cluster.pods()[0]["status"]
    assert status["phase"] == "Pending"
    assert status["conditions"][0]["reason"] == "Unschedulable"
    assert status["conditions"][0]["message"].startswith("0/1 nodes are available: 1 Insufficient cpu.")
    assert cluster.events(NS)[0]["reason"] == "FailedScheduling"
    cluster.node_capacity = {"cpu": 2}
    assert ended(cluster)["status"]["phase"] == "Succeeded"


def test_an_unknown_image_backs_off_and_its_log_is_refused(cluster: Cluster, core: Any) -> None:
    core.create_namespaced_pod(NS, pod_of("pass", image="nowhere:1"))

    def reason() -> str:
        statuses = cluster.pods()[0]["status"].get("containerStatuses") or [{}]
        return statuses[0].get("state", {}).get("waiting", {}).get("reason", "")

    cluster.until(lambda: reason() == "ErrImagePull")
    cluster.until(lambda: reason() == "ImagePullBackOff")
    assert "is waiting to start" in status_of(lambda: core.read_namespaced_pod_log("step", NS))["message"]


def test_dependents_go_with_their_owner_and_with_an_owner_that_never_was(cluster: Cluster, core: Any) -> None:
    made = core.create_namespaced_pod(NS, pod_of("import time; time.sleep(60)"))
    for name, uid in (("mine", made.metadata.uid), ("stray", "no-such-uid")):
        owner = {"apiVersion": "v1", "kind": "Pod", "name": "step", "uid": uid}
        core.create_namespaced_secret(NS, {"metadata": {"name": name, "ownerReferences": [owner]}})
    cluster.until(lambda: [s["metadata"]["name"] for s in cluster.secrets()] == ["mine"])
    core.delete_namespaced_pod("step", NS, grace_period_seconds=0)
    cluster.until(lambda: not cluster.secrets())


def test_disruptions_leave_the_traces_a_cluster_leaves(cluster: Cluster, core: Any) -> None:
    names = ("evicted", "preempted", "drained", "lost", "vanished")
    for name in names:
        core.create_namespaced_pod(
            NS, pod_of("import time; time.sleep(60)", name, pod={"terminationGracePeriodSeconds": 0})
        )
    cluster.until(lambda: all(pod["status"]["phase"] == "Running" for pod in cluster.pods()))
    for act, name in zip(
        (cluster.evict, cluster.preempt, cluster.drain, cluster.lose_node, cluster.vanish), names, strict=True
    ):
        act(name)
    assert cluster.get("pods", NS, "vanished") is None
    assert cluster.get("pods", NS, "lost")["status"]["phase"] == "Unknown"
    assert ended(cluster, "evicted")["status"]["reason"] == "Evicted"
    cluster.until(lambda: [pod["metadata"]["name"] for pod in cluster.pods()] == ["evicted"])
    last = {pod["metadata"]["name"]: pod["status"] for pod in cluster.ever("pods")}
    reasons = {
        name: next((c["reason"] for c in status["conditions"] if c["type"] == "DisruptionTarget"), "")
        for name, status in last.items()
    }
    assert reasons["preempted"] == "PreemptionByScheduler"
    assert reasons["drained"] == "EvictionByEvictionAPI"


def test_an_indexed_job_retries_the_index_that_failed(cluster: Cluster, batch: Any, tmp_path: Path) -> None:
    code = f"""
import os, pathlib, sys
index = os.environ["JOB_COMPLETION_INDEX"]
mark = pathlib.Path({str(tmp_path)!r}, index)
if index == "1" and not mark.exists():
    mark.write_text("")
    sys.exit(1)
"""
    batch.create_namespaced_job(NS, job_of(code, completions=4, parallelism=2, completionMode="Indexed"))
    status = finished(cluster)
    assert (status["succeeded"], status["failed"], status["completedIndexes"]) == (4, 1, "0-3")
    assert status["true"]["Complete"]["reason"] == "CompletionsReached"
    indexes = [
        pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for pod in cluster.ever("pods")
    ]
    assert sorted(indexes) == ["0", "1", "1", "2", "3"]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"backoffLimit": 1}, "BackoffLimitExceeded"),
        ({"activeDeadlineSeconds": 1, "backoffLimit": 99}, "DeadlineExceeded"),
        ({"completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 0}, "FailedIndexes"),
        (
            {
                "podFailurePolicy": {
                    "rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [7]}}]
                }
            },
            "PodFailurePolicy",
        ),
    ],
)
def test_a_job_fails_for_the_reason_its_spec_gives(
    cluster: Cluster, batch: Any, spec: Spec, reason: str
) -> None:
    batch.create_namespaced_job(NS, job_of("raise SystemExit(7)", **spec))
    assert finished(cluster)["true"]["Failed"]["reason"] == reason


def test_a_disruption_that_the_policy_ignores_costs_no_retry(
    cluster: Cluster, batch: Any, tmp_path: Path
) -> None:
    rules = [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
    code = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.05)"
    batch.create_namespaced_job(NS, job_of(code, backoffLimit=0, podFailurePolicy={"rules": rules}))
    cluster.until(lambda: cluster.pods() and cluster.pods()[0]["status"]["phase"] == "Running")
    cluster.evict(cluster.pods()[0])
    cluster.until(lambda: len(cluster.ever("pods")) == 2)
    (tmp_path / "go").write_text("")
    assert "failed" not in finished(cluster)


def test_a_suspended_job_runs_once_it_is_admitted(cluster: Cluster, batch: Any) -> None:
    cluster.suspend_jobs = True
    body = job_of("pass")
    body["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "training"}
    batch.create_namespaced_job(NS, body)
    cluster.until(lambda: cluster.jobs()[0]["status"].get("conditions", [{}])[0].get("type") == "Suspended")
    assert not cluster.pods()
    cluster.admit("train")
    assert finished(cluster)["succeeded"] == 1


def test_a_job_deleted_without_a_policy_orphans_its_pods(cluster: Cluster, batch: Any) -> None:
    for name, policy, left in (("kept", {}, 1), ("taken", {"propagation_policy": "Foreground"}, 0)):
        batch.create_namespaced_job(NS, job_of("pass", name))
        finished(cluster, name)
        batch.delete_namespaced_job(name, NS, **policy)
        cluster.until(lambda name=name: not cluster.get("jobs", NS, name))
        assert len(cluster.pods(labels=f"job-name={name}")) == left


def test_a_job_takes_itself_away_after_its_time_to_live(cluster: Cluster, batch: Any) -> None:
    batch.create_namespaced_job(NS, job_of("pass", ttlSecondsAfterFinished=0))
    cluster.until(lambda: cluster.ever("pods") and not cluster.jobs() and not cluster.pods())


def test_faults_befall_the_requests_they_name(cluster: Cluster, core: Any) -> None:
    def call(path: str, body: Spec | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {cluster.token}"}
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"{cluster.url}/api/v1/namespaces/{NS}/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.read()

    cluster.faults.add("GET", r"/pods$", status=429, retry_after=7)
    with pytest.raises(urllib.error.HTTPError) as refused:
        call("pods")
    assert (refused.value.code, refused.value.headers["Retry-After"]) == (429, "7")
    assert json.loads(call("pods"))["items"] == []
    cluster.faults.add("GET", r"/pods$", drop=True)
    with pytest.raises(OSError):
        call("pods")
    assert cluster.requests[-1].status == 0
    cluster.faults.add("POST", r"/secrets$", after_bytes=0)
    with pytest.raises(OSError):
        call("secrets", {"metadata": {"name": "made"}})
    assert [secret["metadata"]["name"] for secret in cluster.secrets()] == ["made"]
    core.create_namespaced_pod(NS, pod_of("print('0123456789')"))
    ended(cluster)
    cluster.faults.add("GET", r"/log$", after_bytes=4)
    with pytest.raises(http.client.IncompleteRead) as cut:
        call("pods/step/log")
    assert cut.value.partial == b"0123"


def test_the_asynchronous_client_reads_watches_and_logs(cluster: Cluster) -> None:
    from kubernetes_asyncio import client, config, watch

    async def run() -> tuple[list[str], str]:
        settings = client.Configuration()
        await config.load_kube_config(str(cluster.kubeconfig), client_configuration=settings)
        async with client.ApiClient(settings) as connection:
            core = client.CoreV1Api(connection)
            await core.create_namespaced_pod(NS, pod_of("print('hello')"))
            phases = []
            async with watch.Watch() as watching:
                async for event in watching.stream(core.list_namespaced_pod, NS, timeout_seconds=10):
                    phases.append(event["object"].status.phase)
                    if phases[-1] == "Succeeded":
                        break
            return phases, await core.read_namespaced_pod_log("step", NS)

    phases, log = asyncio.run(run())
    assert phases[-1] == "Succeeded"
    assert log == "hello\n"


def test_the_provider_runs_a_pod_to_success_over_a_connection(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, context = operator_of(cluster, monkeypatch, "print('from the pod')")
    operator.execute(context)
    pod = cluster.ever("pods")[0]
    assert pod["status"]["phase"] == "Succeeded"
    assert pod["metadata"]["labels"]["task_id"] == "step"
    assert cluster.pods() == []


def test_the_provider_reports_a_pod_that_fails(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, context = operator_of(cluster, monkeypatch, "raise SystemExit(3)", on_finish_action="keep_pod")
    with pytest.raises(Exception, match="returned a failure"):
        operator.execute(context)
    assert terminated(cluster.pods()[0])["exitCode"] == 3


def test_the_provider_waits_in_its_trigger_for_a_deferred_pod(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    code = "import time; time.sleep(1); print('from the pod')"
    operator, context = operator_of(cluster, monkeypatch, code, deferrable=True, poll_interval=0.2)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    event = asyncio.run(first_event(deferred.value.trigger))
    assert event["status"] == "success"
    operator.trigger_reentry(context, event)
    assert cluster.pods() == []


def test_the_provider_runs_a_job_to_success(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator

    how = {"completions": 2, "parallelism": 2, "completion_mode": "Indexed", "wait_until_job_complete": True}
    # It looks for its pods a few times without a pause, which a Job controller may not outrun.
    how["discover_pods_retry_number"] = 1000
    operator, context = operator_of(
        cluster, monkeypatch, "print('part')", of=KubernetesJobOperator, job_poll_interval=0.2, **how
    )
    operator.execute(context)
    assert cluster.jobs()[0]["status"]["completedIndexes"] == "0,1"


def operator_of(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, code: str, *, of: Any = None, **how: Any
) -> tuple[Any, dict[str, Any]]:
    """The provider's own operator on a connection to the double, and the little context that it reads."""
    from datetime import UTC, datetime
    from unittest.mock import MagicMock

    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    extra = {"extra": {"kube_config_path": str(cluster.kubeconfig), "namespace": NS}}
    monkeypatch.setenv("AIRFLOW_CONN_DOUBLE", json.dumps({"conn_type": "kubernetes", **extra}))
    operator = (of or KubernetesPodOperator)(
        task_id="step",
        kubernetes_conn_id="double",
        namespace=NS,
        name="step",
        image="mlsteps:dev",
        cmds=["python", "-uc", code],
        **how,
    )
    ti = MagicMock(
        dag_id="d", task_id="step", run_id="r", try_number=1, map_index=-1, xcom_pull=lambda **_: None
    )
    dag = MagicMock(dag_id="d")
    run = MagicMock(run_id="r", logical_date=datetime.now(UTC))
    return operator, {"ti": ti, "task_instance": ti, "dag": dag, "run_id": "r", "dag_run": run}


async def first_event(trigger: Any) -> dict[str, Any]:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")
