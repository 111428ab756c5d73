"""One pod for a step: the one that runs already, or a new one, and never two.

The name is the claim: Kubernetes makes one object of a name, whoever asks first. So submitting twice, after a
lost answer or from two schedulers, finds the pod instead of making a second.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute import credentials, pod_end, pod_memory, pod_spec
from airflow_ml_provider.compute.kubernetes_errors import api_error, is_unknown
from airflow_ml_provider.contract.errors import TransientError

if TYPE_CHECKING:
    from airflow_ml_provider.compute.pods import StepPod

log = logging.getLogger("airflow_ml_provider.compute")

_ATTEMPTS = 6
# Beyond the time that a pod has to end by itself.
_TERMINATING = 90


def obtain(step: StepPod, request: Any) -> Any:
    """A step's pod, as it is in the cluster.

    :param request: the pod to make if there is none.
    :raises MLError: the cluster refuses it, or it is unknown whether there is one.
    """
    failure: Exception | None = None
    for attempt in range(_ATTEMPTS):
        pod = step.find()
        if pod is None:
            try:
                pod = step.cluster.core.create_namespaced_pod(step.namespace, request)
                log.info("created pod %s in namespace %s", step.name, step.namespace)
            except Exception as error:
                failure = error
                if not is_unknown(error):
                    raise api_error(error, "create", "pods", step.name, step.namespace) from None
                # It may have been created all the same, or by another submission of this step: look again.
                step.cluster.pause(error, attempt)
                continue
        elif not _is_current(step, pod):
            _remove(step, pod)
            continue
        else:
            log.info("adopted pod %s in namespace %s, phase %s", step.name, step.namespace, pod.status.phase)
        _let_go(step, pod)
        return pod
    raise api_error(
        failure or RuntimeError("it keeps being replaced"), "create", "pods", step.name, step.namespace
    )


def _is_current(step: StepPod, pod: Any) -> bool:
    """Whether a pod of this name does what is asked for now, and is worth waiting for."""
    if pod.metadata.deletion_timestamp is not None:
        log.info("pod %s of an earlier try is still ending; waiting for it", step.name)
        return False
    annotations = pod.metadata.annotations or {}
    if annotations.get(pod_spec.FINGERPRINT) != step.launch.fingerprint:
        log.info("pod %s computes something else than is asked for now; it is replaced", step.name)
        return False
    document = step.cluster.document(pod)
    if pod_end.is_over(document) and step.folder.read("result.json") is None:
        if pod_end.ran_out_of_memory(document):
            pod_memory.note(step.folder, step.compute.memory_growth, document)
        log.info("pod %s of an earlier try has ended without a result; it is replaced", step.name)
        return False
    return True


def _remove(step: StepPod, pod: Any) -> None:
    """Delete a pod and wait until it is gone."""
    grace = pod.spec.termination_grace_period_seconds or 30
    until = time.monotonic() + grace + _TERMINATING
    if pod.metadata.deletion_timestamp is None:
        step.cluster.delete_pod(step.name, uid=pod.metadata.uid)
    while (now := step.find()) is not None and now.metadata.uid == pod.metadata.uid:
        if time.monotonic() > until:
            raise TransientError(
                f"pod {step.name!r} in namespace {step.namespace!r} of an earlier try does not end; node "
                f"{now.spec.node_name!r} may be lost",
                kept="nothing was started: two of them might write at once",
                retry="a retry waits for it again",
                todo=f"once it surely runs no more: kubectl delete pod {step.name} -n {step.namespace} --force",
            )
        time.sleep(1)


def _let_go(step: StepPod, pod: Any) -> None:
    """Give a pod that is held back its credentials, and have it scheduled."""
    gates = [gate.name for gate in pod.spec.scheduling_gates or []]
    if pod_spec.GATE not in gates:
        return
    credentials.provide(step.cluster, pod, "v1", "Pod", step.launch.credentials)
    left = [{"name": gate} for gate in gates if gate != pod_spec.GATE]
    step.cluster.patch_pod(step.name, [{"op": "replace", "path": "/spec/schedulingGates", "value": left}])
