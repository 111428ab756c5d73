"""What a compute's fields become in a pod, and who wins."""

from __future__ import annotations

from typing import Any

from airflow_ml_provider.compute import KubernetesCompute, Launch
from airflow_ml_provider.compute.pod_spec import pod_document, pod_name

LAUNCH = Launch("flights-train-0123456789abcdef", "train", "s3://ml/runs/x/spec.json", fingerprint="f")


def container(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pod["spec"]["containers"][0]
    return found


def test_a_pod_has_no_privileges_unless_it_is_given_some() -> None:
    pod = pod_document(KubernetesCompute(image="steps:1"), LAUNCH)
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    security = container(pod)["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_every_field_reaches_the_pod() -> None:
    compute = KubernetesCompute(
        image="steps:1", namespace="ml", service_account="ml-step", secrets=["store"], priority_class="high",
        resources={"cpu": 2, "memory": "4Gi", "nvidia.com/gpu": 1, "ephemeral-storage": "10Gi"},
        node_selector={"pool": "gpu"}, tolerations=[{"key": "gpu", "operator": "Exists"}],
        affinity={"nodeAffinity": {}}, labels={"team": "flights"}, annotations={"note": "x"}, queue="steps",
        volumes={"/data": "claim", "/cache": {"emptyDir": {}}}, environment={"MODE": "fast"},
        image_pull_secrets=["registry"], image_pull_policy="Always",
    )  # fmt: skip
    pod = pod_document(compute, LAUNCH, deadline=60)
    spec, step = pod["spec"], container(pod)
    wanted = {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1", "ephemeral-storage": "10Gi"}
    assert step["resources"] == {"requests": wanted, "limits": wanted}
    assert {"name": "OMP_NUM_THREADS", "value": "2"} in step["env"]
    assert {"name": "MODE", "value": "fast"} in step["env"]
    assert step["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert [mount["mountPath"] for mount in step["volumeMounts"]] == ["/tmp", "/cache", "/data"]
    assert {"name": "volume-1", "persistentVolumeClaim": {"claimName": "claim"}} in spec["volumes"]
    assert (spec["serviceAccountName"], spec["priorityClassName"]) == ("ml-step", "high")
    assert (spec["nodeSelector"], spec["activeDeadlineSeconds"]) == ({"pool": "gpu"}, 60)
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "steps"
    assert pod["metadata"]["labels"]["team"] == "flights"
    assert pod["metadata"]["annotations"]["note"] == "x"


def test_fields_win_over_the_template_and_the_template_over_the_defaults() -> None:
    template = {
        "metadata": {"labels": {"team": "other", "cost": "7"}},
        "spec": {
            "securityContext": {"fsGroup": 1},
            "nodeSelector": {"zone": "a"},
            "containers": [
                {"name": "step", "image": "other", "securityContext": {"readOnlyRootFilesystem": False}},
                {"name": "sidecar", "image": "proxy"},
            ],
        },
    }
    pod = pod_document(
        KubernetesCompute(image="steps:1", labels={"team": "ml"}, pod_template=template), LAUNCH
    )
    assert container(pod)["image"] == "steps:1"
    assert container(pod)["securityContext"]["readOnlyRootFilesystem"] is False
    assert container(pod)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["spec"]["securityContext"] == {
        "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, "fsGroup": 1,
    }  # fmt: skip
    assert [each["name"] for each in pod["spec"]["containers"]] == ["step", "sidecar"]
    assert pod["metadata"]["labels"]["team"] == "ml"
    assert pod["metadata"]["labels"]["cost"] == "7"


def test_a_name_is_the_same_for_all_tries_and_fits_an_indexed_job() -> None:
    long = Launch("a" * 44 + "-0123456789abcdef", "train", "s3://ml/spec.json")
    assert pod_name(long) == pod_name(long)
    assert len(pod_name(long)) <= 51
    assert pod_name(long) != pod_name(Launch(long.step_key, "train", "s3://other/spec.json"))
