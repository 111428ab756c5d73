"""How a pod ended, and what that means: from its status, as plain data, to an error of one of our kinds.

The step's own result is believed before any of this.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow_ml_provider.compute.base import Exit
from airflow_ml_provider.compute.pod_spec import CONTAINER
from airflow_ml_provider.compute.quantities import quantity
from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError, MLError, PreemptedError

# Reasons of the condition DisruptionTarget: the cluster takes the place away, the pod did nothing wrong.
_TAKEN_AWAY = {
    "PreemptionByScheduler": "a pod of higher priority took its place",
    "EvictionByEvictionAPI": "its node is drained",
    "DeletionByTaintManager": "its node became unusable",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node shuts down or makes room for others",
}
_NODE_GONE = frozenset({"NodeLost", "Shutdown", "NodeShutdown", "Terminated", "Preempting"})
_NOT_PULLED = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
# What a registry says that answers, and has no such image for us.
_NO_SUCH_IMAGE = ("not found", "manifest unknown", "unauthorized", "denied", "forbidden", "invalid reference",
                  "couldn't parse image", "no such host", "not present with pull policy")  # fmt: skip
_KEPT = "whatever it published before it ended; a publication is whole or not there"


def is_over(pod: Mapping[str, Any]) -> bool:
    """Whether the pod will run no more."""
    return _status(pod).get("phase") in ("Succeeded", "Failed")


def end_of(pod: Mapping[str, Any]) -> Exit:
    """How a pod that is over ended."""
    ended = _terminated(pod)
    code = int(ended.get("exitCode", 0 if _status(pod).get("phase") == "Succeeded" else 1))
    return Exit(code, _error(pod, ended, code), place=place_of(pod))


def never_started(pod: Mapping[str, Any], events: list[str], waited: float) -> MLError | None:
    """Why a pod that still waits has not started; None if it has.

    :param events: what the cluster said about it, the newest last.
    :param waited: seconds since it was created.
    """
    if _status(pod).get("phase") not in (None, "Pending"):
        return None
    name = _named(pod)
    waiting = _container_status(pod).get("state", {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), " ".join(str(waiting.get("message", "")).split())
    if reason in _NOT_PULLED:
        return _not_pulled(pod, reason, message)
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") != "True":
        why = scheduled.get("message") or next(reversed(events), "the cluster does not say why")
        if scheduled.get("reason") == "SchedulingGated":
            why = f"it is held back: {why}; a queue that has not admitted it, or a gate that nobody removed"
        if "persistentvolumeclaim" in why and "not found" in why:
            return ConfigError(
                f"{name} asks for a claim that does not exist: {why}",
                kept="nothing was started",
                todo="create the PersistentVolumeClaim, or correct volumes= of the KubernetesCompute",
            )
        return InfrastructureError(
            f"{name} found no place to run for {waited:.0f} s: {why}",
            kept="nothing was started",
            todo="give the cluster such a node, ask for less in resources=, correct node_selector= or tolerations=, "
            "or wait longer with start_timeout=",
        )
    said = f"{reason}: {message}" if reason else next(reversed(events), "the cluster does not say why")
    kind = ConfigError if reason == "CreateContainerConfigError" else InfrastructureError
    return kind(
        f"{name} was placed on a node and did not start for {waited:.0f} s: {said}",
        kept="nothing was started",
        todo="create what it names (a Secret, a claim)"
        if kind is ConfigError
        else "look at its node, its volumes and its image's size",
    )


def cannot_be_pulled(pod: Mapping[str, Any]) -> bool:
    """Whether the kubelet says that it cannot get the image, so that waiting is of no use."""
    waiting = _container_status(pod).get("state", {}).get("waiting") or {}
    return waiting.get("reason") in _NOT_PULLED


def disruption_of(pod: Mapping[str, Any]) -> str | None:
    """Why the cluster takes the pod's place away; None if it does not."""
    condition = _condition(pod, "DisruptionTarget")
    if condition.get("status") == "True" and _status(pod).get("reason") != "Evicted":
        return _TAKEN_AWAY.get(
            condition.get("reason", ""), condition.get("reason") or "the cluster disrupts it"
        )
    if _status(pod).get("reason") in _NODE_GONE:
        return _status(pod).get("message") or _TAKEN_AWAY["DeletionByPodGC"]
    return None


def ran_out_of_memory(pod: Mapping[str, Any]) -> bool:
    """Whether the kernel killed it for its memory."""
    return _terminated(pod).get("reason") == "OOMKilled"


def created_at(pod: Mapping[str, Any]) -> float:
    """When it was created, in seconds since 1970."""
    stamp = str((pod.get("metadata") or {}).get("creationTimestamp") or "")
    return datetime.fromisoformat(stamp).timestamp() if stamp else time.time()


def place_of(pod: Mapping[str, Any]) -> dict[str, str]:
    """Where it ran, for people."""
    metadata = pod.get("metadata") or {}
    found = {
        "pod": metadata.get("name"),
        "namespace": metadata.get("namespace"),
        "node": (pod.get("spec") or {}).get("nodeName"),
        "image": _container_status(pod).get("imageID") or _container_status(pod).get("image"),
    }
    return {name: str(value) for name, value in found.items() if value}


def taken_away(name: str, why: str) -> PreemptedError:
    """The cluster took the place of a pod away."""
    return PreemptedError(f"{name} was ended by the cluster: {why}", kept=_KEPT + "; saved checkpoints")


def gone(name: str, events: list[str]) -> PreemptedError:
    """A pod that is not there any more, and whose end nobody saw."""
    said = f"; the cluster last said: {events[-1]}" if events else ""
    return PreemptedError(
        f"{name} is gone, and the step left no result: it was deleted while it ran, or went with its node{said}",
        kept=_KEPT + "; saved checkpoints",
        retry="it is started again, from its newest checkpoint if it has one",
    )


def _error(pod: Mapping[str, Any], ended: Mapping[str, Any], code: int) -> MLError | None:
    name, status = _named(pod), _status(pod)
    if status.get("phase") == "Succeeded":
        return None
    disruption = disruption_of(pod)
    if disruption:
        return taken_away(name, disruption)
    if status.get("reason") == "DeadlineExceeded":
        limit = (pod.get("spec") or {}).get("activeDeadlineSeconds")
        return InfrastructureError(
            f"{name} ran for longer than its deadline of {limit} s and was ended", kept=_KEPT,
            todo="raise max_runtime= (or the task's execution_timeout=), or give the step more resources",
        )  # fmt: skip
    if status.get("reason") == "Evicted":
        return InfrastructureError(
            f"{name} was evicted from its node: {' '.join(str(status.get('message', '')).split())}", kept=_KEPT,
            todo="ask for the memory and the ephemeral-storage that it needs in resources=",
        )  # fmt: skip
    if ran_out_of_memory(pod):
        return _out_of_memory(pod, ended)
    if code == 137 or ended.get("signal") == 9:
        return InfrastructureError(
            f"{name} was killed (exit code 137)", kept=_KEPT, todo="look at its node's events and memory"
        )
    return None


def _out_of_memory(pod: Mapping[str, Any], ended: Mapping[str, Any]) -> InfrastructureError:
    limit = (_container(pod).get("resources", {}).get("limits") or {}).get("memory")
    peak = peak_memory(str(ended.get("message") or ""))
    said = f"its limit is {limit}" if limit else "it has no limit, so its node's memory was used up"
    used = f", and it had used {peak / 2**20:,.0f} MiB a moment before" if peak else ""
    return InfrastructureError(
        f"{_named(pod)} ran out of memory: {said}{used}", kept=_KEPT,
        todo='give the step more: resources={"memory": ...}, or let retries raise it with memory_growth=1.5',
    )  # fmt: skip


def peak_memory(termination_message: str) -> int | None:
    """The bytes that a step had used at most, as it noted while it ran."""
    try:
        return int(json.loads(termination_message)["peak_memory"])
    except (ValueError, KeyError, TypeError):
        return None


def memory_limit(pod: Mapping[str, Any]) -> float | None:
    """The container's limit in bytes."""
    limit = (_container(pod).get("resources", {}).get("limits") or {}).get("memory")
    return quantity(limit) if limit else None


def _not_pulled(pod: Mapping[str, Any], reason: str, message: str) -> MLError:
    image, low = _container(pod).get("image"), message.lower()
    final = reason in ("InvalidImageName", "ErrImageNeverPull") or any(word in low for word in _NO_SUCH_IMAGE)
    kind = ConfigError if final else InfrastructureError
    return kind(
        f"{_named(pod)}: the image {image!r} cannot be pulled: {message or reason}", kept="nothing was started",
        todo="check image=, that it was pushed, and image_pull_secrets= for a private registry",
    )  # fmt: skip


def _named(pod: Mapping[str, Any]) -> str:
    metadata = pod.get("metadata") or {}
    return f"pod {metadata.get('name')!r} in namespace {metadata.get('namespace')!r}"


def _status(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return pod.get("status") or {}


def _container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    containers = (pod.get("spec") or {}).get("containers") or []
    return next((each for each in containers if each.get("name") == CONTAINER), {})


def _container_status(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    statuses = _status(pod).get("containerStatuses") or []
    return next((each for each in statuses if each.get("name") == CONTAINER), {})


def _terminated(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return (_container_status(pod).get("state") or {}).get("terminated") or {}


def _condition(pod: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((each for each in _status(pod).get("conditions") or [] if each.get("type") == kind), {})
