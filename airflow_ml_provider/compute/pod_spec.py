"""The pod of a step, as Kubernetes has it: plain data, made without speaking to anything.

Three layers, the later winning: what is safe by default, the deployment's pod template, what the compute's
own fields say. Identity, arguments and credentials are ours whatever a template says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute.frozen import thawed
from airflow_ml_provider.compute.quantities import quantity, requests_and_limits
from airflow_ml_provider.contract.identity import digest

if TYPE_CHECKING:
    from airflow_ml_provider.compute.base import Launch
    from airflow_ml_provider.compute.kubernetes import KubernetesCompute

CONTAINER = "step"
MANAGED_BY = "airflow-ml-provider"
STEP_KEY = "airflow-ml/step-key"
VERB = "airflow-ml/verb"
FINGERPRINT = "airflow-ml/fingerprint"
SPEC = "airflow-ml/spec"
QUEUE = "kueue.x-k8s.io/queue-name"
# Holds a pod back until its credentials are there; see :mod:`airflow_ml_provider.compute.credentials`.
GATE = "airflow-ml/credentials"
TERMINATION_LOG = "/dev/termination-log"
_NAME_HEAD = 34


def pod_name(launch: Launch) -> str:
    """The name of a step's pod or Job: the same for all its tries, at most 51 characters.

    The store is part of it: two deployments that share a namespace and run the same DAG do not meet. It is
    short enough for an Indexed Job, which adds an index of up to five digits to its pods' host names.
    """
    head = launch.step_key[:-17][:_NAME_HEAD].strip("-")
    return f"{head or 'step'}-{digest(launch.spec_uri, launch.step_key)[:16]}"


def pod_document(
    compute: KubernetesCompute,
    launch: Launch,
    *,
    memory_factor: float = 1.0,
    deadline: int | None = None,
    credentials_from: str = "",
) -> dict[str, Any]:
    """The pod of a step.

    :param memory_factor: by how much its memory is raised, after it ran out of it.
    :param deadline: seconds after which Kubernetes ends it.
    :param credentials_from: the Secret with its credentials.
    """
    container = merged(_default_container(), _template_container(compute))
    container = merged(container, _own_container(compute, launch, memory_factor, credentials_from))
    template = thawed(compute.pod_template)
    pod: dict[str, Any] = merged(_default_pod(), template)
    pod = merged(pod, _own_pod(compute, launch, deadline))
    others = [
        each for each in (template.get("spec") or {}).get("containers") or [] if each.get("name") != CONTAINER
    ]
    pod["spec"]["containers"] = [container, *others]
    return pod


def held_back(pod: dict[str, Any]) -> dict[str, Any]:
    """A pod that is not scheduled before its credentials are there."""
    gates = [*pod["spec"].get("schedulingGates", []), {"name": GATE}]
    return {**pod, "spec": {**pod["spec"], "schedulingGates": gates}}


def merged(below: Any, above: Any) -> Any:
    """Two documents as one: mappings key by key, lists of named things by name, all else from above."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {
            key: merged(below[key], above[key])
            if key in below and key in above
            else above.get(key, below.get(key))
            for key in [*below, *(key for key in above if key not in below)]
        }
    if isinstance(below, list) and isinstance(above, list):
        name = (
            "mountPath"
            if all("mountPath" in each for each in [*below, *above] if isinstance(each, dict))
            else "name"
        )
        taken = {each.get(name) for each in above if isinstance(each, dict)} - {None}
        return [each for each in below if not (isinstance(each, dict) and each.get(name) in taken)] + above
    return above


def labels_of(compute: KubernetesCompute, launch: Launch) -> dict[str, str]:
    """The labels of all that belongs to a step."""
    return {
        **compute.labels,
        "app.kubernetes.io/managed-by": MANAGED_BY,
        "app.kubernetes.io/component": "step",
        VERB: launch.verb,
        STEP_KEY: launch.step_key,
        **({QUEUE: compute.queue} if compute.queue else {}),
    }


def annotations_of(compute: KubernetesCompute, launch: Launch) -> dict[str, str]:
    """What tells a pod of this step and spec from one of an older spec."""
    return {**compute.annotations, FINGERPRINT: launch.fingerprint, SPEC: launch.spec_uri}


def _default_container() -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "command": ["python", "-P"],
        "env": [
            # The root file system cannot be written to; libraries that keep caches keep them here.
            *({"name": name, "value": "/tmp"} for name in ("HOME", "TMPDIR", "MPLCONFIGDIR")),  # noqa: S108
            {"name": "PYTHONUNBUFFERED", "value": "1"},
        ],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _default_pod() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


def _template_container(compute: KubernetesCompute) -> dict[str, Any]:
    containers = thawed((compute.pod_template.get("spec") or {}).get("containers") or ())
    return next((each for each in containers if each.get("name") == CONTAINER), {})


def _own_container(
    compute: KubernetesCompute, launch: Launch, memory_factor: float, credentials_from: str
) -> dict[str, Any]:
    resources = requests_and_limits(compute.resources, memory_factor)
    own_secret = [credentials_from] if credentials_from else []
    variables = {
        **_threads(resources),
        "AIRFLOW_ML_TERMINATION_LOG": TERMINATION_LOG,
        "AIRFLOW_ML_IMAGE": compute.image,
        # A fleet's and a search's own pod sums up what a Job has run.
        **({"AIRFLOW_ML_FLEET": "job"} if launch.verb in ("fleet", "search") else {}),
        **compute.environment,
    }
    found: dict[str, Any] = {
        "name": CONTAINER,
        "image": compute.image,
        "args": launch.arguments,
        "env": [{"name": name, "value": str(value)} for name, value in sorted(variables.items())],
        "volumeMounts": [
            {"name": f"volume-{number}", "mountPath": path} for number, path in enumerate(compute.volumes)
        ],
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
    }
    if resources:
        found["resources"] = resources
    if compute.image_pull_policy:
        found["imagePullPolicy"] = compute.image_pull_policy
    # The pod's own come last, and the last one wins.
    sources = [{"secretRef": {"name": name}} for name in (*compute.secrets, *own_secret)]
    if sources:
        found["envFrom"] = sources
    return found


def _own_pod(compute: KubernetesCompute, launch: Launch, deadline: int | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": pod_name(launch),
        "labels": labels_of(compute, launch),
        "annotations": annotations_of(compute, launch),
    }
    if compute.namespace:
        metadata["namespace"] = compute.namespace
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "volumes": [
            {"name": f"volume-{number}", **_source(source)}
            for number, source in enumerate(compute.volumes.values())
        ],
    }
    optional = {
        "serviceAccountName": compute.service_account,
        "nodeSelector": thawed(compute.node_selector),
        "tolerations": thawed(compute.tolerations),
        "affinity": thawed(compute.affinity),
        "priorityClassName": compute.priority_class,
        "imagePullSecrets": [{"name": name} for name in compute.image_pull_secrets],
        "activeDeadlineSeconds": deadline,
    }
    spec.update({name: value for name, value in optional.items() if value})
    return {"metadata": metadata, "spec": spec}


def _source(source: Any) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": source}} if isinstance(source, str) else thawed(source)


def _threads(resources: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """As many threads as processors were asked for: libraries count those of the whole node instead."""
    asked = (resources.get("limits") or {}).get("cpu") or (resources.get("requests") or {}).get("cpu")
    if asked is None:
        return {}
    threads = str(max(1, math.ceil(quantity(asked))))
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), threads)
