"""The SparkApplication of a step, as the Spark operator has it: plain data, made without speaking to anything.

Driver and executors are the step's pod as any, given as pod templates: so they need no webhook of the operator's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute.frozen import thawed
from airflow_ml_provider.compute.pod_spec import CONTAINER, annotations_of, labels_of, pod_document, pod_name
from airflow_ml_provider.compute.quantities import quantity, requests_and_limits
from airflow_ml_provider.compute.spark import ENGINE

if TYPE_CHECKING:
    from airflow_ml_provider.compute.base import Launch
    from airflow_ml_provider.compute.spark_kubernetes import SparkKubernetesCompute

GROUP, VERSION, PLURAL = "sparkoperator.k8s.io", "v1beta2", "sparkapplications"
# What Spark calls the containers of its pods.
DRIVER, EXECUTOR = "spark-kubernetes-driver", "spark-kubernetes-executor"
# Removed by the Spark operator after so long if nobody else does.
_KEPT_SECONDS = 24 * 3600
# Set by Spark itself, from fields of their own.
_OF_SPARK = ("cpu", "memory")


def application_name(launch: Launch) -> str:
    """The name of a step's application, the same for all its tries: it begins with a letter, as the operator asks,
    is at most 53 characters, and is not that of the pod which the step would have on a KubernetesCompute.
    """
    return f"s-{pod_name(launch)}"


def driver_name(launch: Launch) -> str:
    """The driver's pod, as the operator names it."""
    return f"{application_name(launch)}-driver"


def application_document(
    compute: SparkKubernetesCompute,
    launch: Launch,
    *,
    memory_factor: float = 1.0,
    deadline: int | None = None,
) -> dict[str, Any]:
    """The application that runs a step as its driver.

    :param memory_factor: by how much the driver's memory is raised, after it ran out of it.
    :param deadline: seconds after which Kubernetes ends the driver.
    """
    driver = _template(compute, launch, DRIVER, deadline)
    # The driver asks Kubernetes for its executors; they ask it for nothing.
    driver["spec"]["automountServiceAccountToken"] = True
    executors = replace(compute, resources=compute.executor_resources)
    executor = _template(executors, launch, EXECUTOR, None)
    executor["metadata"]["labels"]["app.kubernetes.io/component"] = "executor"
    # Spark does not ask a template for it.
    pull = {"imagePullPolicy": compute.image_pull_policy} if compute.image_pull_policy else {}
    account = {"serviceAccount": compute.service_account} if compute.service_account else {}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "SparkApplication",
        "metadata": {
            "name": application_name(launch),
            "labels": labels_of(compute, launch),
            "annotations": annotations_of(compute, launch),
        },
        "spec": {
            "type": "Python",
            "mode": "cluster",
            "pythonVersion": "3",
            "sparkVersion": compute.spark_version,
            "image": compute.image,
            **pull,
            "mainApplicationFile": f"local://{compute.application}",
            "arguments": launch.arguments[2:],
            # Tries are the task's.
            "restartPolicy": {"type": "Never"},
            "timeToLiveSeconds": _KEPT_SECONDS,
            # Not submitted before its credentials are there.
            "suspend": bool(launch.credentials),
            "sparkConf": {name: str(value) for name, value in compute.conf.items()},
            "driver": {**_size(compute.resources, memory_factor), **account, "template": driver},
            "executor": {
                **_size(compute.executor_resources), **account, "instances": compute.executors,
                "template": executor,
            },
        },
    }  # fmt: skip


def as_step(pod: Mapping[str, Any]) -> dict[str, Any]:
    """A driver's pod as if its container were named as that of any step."""
    spec, status = dict(pod.get("spec") or {}), dict(pod.get("status") or {})
    spec["containers"] = _renamed(spec.get("containers"))
    status["containerStatuses"] = _renamed(status.get("containerStatuses"))
    return {**pod, "spec": spec, "status": status}


def _renamed(named: Any) -> list[dict[str, Any]]:
    return [{**each, "name": CONTAINER} if each.get("name") == DRIVER else each for each in named or []]


def _template(
    compute: SparkKubernetesCompute, launch: Launch, name: str, deadline: int | None
) -> dict[str, Any]:
    secret = application_name(launch) if launch.credentials else ""
    pod = pod_document(compute, launch, deadline=deadline, credentials_from=secret)
    container, *others = pod["spec"]["containers"]
    # The command is that of Spark's image, which starts a driver or an executor.
    for field in ("command", "args"):
        container.pop(field, None)
    given = thawed(compute.pod_template).get("spec", {}).get("containers") or []
    own: dict[str, Any] = next((each for each in given if each.get("name") == CONTAINER), {})
    if "readOnlyRootFilesystem" not in own.get("securityContext", {}):
        # Spark's image writes beside its programs.
        container["securityContext"].pop("readOnlyRootFilesystem", None)
    resources = {
        kind: {resource: amount for resource, amount in amounts.items() if resource not in _OF_SPARK}
        for kind, amounts in container.pop("resources", {}).items()
    }
    if any(resources.values()):
        container["resources"] = {kind: amounts for kind, amounts in resources.items() if amounts}
    # No fleet has a Job here: the step runs its items itself.
    container["env"] = [each for each in container["env"] if each["name"] != "AIRFLOW_ML_FLEET"]
    if name == DRIVER:
        container["env"].append({"name": ENGINE, "value": "spark"})
    container["name"] = name
    metadata = {"labels": pod["metadata"]["labels"], "annotations": pod["metadata"]["annotations"]}
    return {"metadata": metadata, "spec": {**pod["spec"], "containers": [container, *others]}}


def _size(resources: Mapping[str, Any], memory_factor: float = 1.0) -> dict[str, Any]:
    """Processors and memory in Spark's own fields. A pod gets heap and overhead together: half of its memory is
    Java's, half is left to Python, which holds rows and models too.
    """
    both = requests_and_limits(resources, memory_factor)
    asked, most = both.get("requests", {}), both.get("limits", {})
    size: dict[str, Any] = {}
    if cpu := asked.get("cpu") or most.get("cpu"):
        size |= {"cores": max(1, math.floor(quantity(cpu))), "coreRequest": cpu}
    if "cpu" in most:
        size["coreLimit"] = most["cpu"]
    if memory := most.get("memory") or asked.get("memory"):
        megabytes = int(quantity(memory) // 2**20)
        size |= {"memory": f"{megabytes // 2}m", "memoryOverhead": f"{megabytes - megabytes // 2}m"}
    return size
