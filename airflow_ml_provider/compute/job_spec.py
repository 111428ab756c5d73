"""The Indexed Job of a fleet, as Kubernetes has it: plain data, made without speaking to anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute.pod_spec import annotations_of, labels_of, pod_document, pod_name
from airflow_ml_provider.contract.errors import ERRORS_BY_KIND

if TYPE_CHECKING:
    from airflow_ml_provider.compute.base import Launch
    from airflow_ml_provider.compute.kubernetes import KubernetesCompute
    from airflow_ml_provider.contract.fleets import FleetPlan

PLAN = "airflow-ml/plan"
# Kept by Kubernetes for so long if nobody removes it.
_KEPT_SECONDS = 24 * 3600
_FINAL = sorted(error.exit_code for error in ERRORS_BY_KIND.values() if not error.retryable)


def job_name(launch: Launch) -> str:
    """The name of a fleet's Job: at most 57 characters, its pods' host names at most 63."""
    return f"{pod_name(launch)}-fleet"


def job_document(
    compute: KubernetesCompute,
    launch: Launch,
    plan: FleetPlan,
    *,
    memory_factor: float = 1.0,
    deadline: int | None = None,
) -> dict[str, Any]:
    """The Job that runs the pending indexes of a plan.

    An index is tried again only for what a retry can help, and a place taken away does not count as a try.
    """
    template = pod_document(
        compute, launch, memory_factor=memory_factor, deadline=compute.max_runtime,
        credentials_from=job_name(launch) if launch.credentials else "",
    )  # fmt: skip
    del template["apiVersion"], template["kind"], template["metadata"]["name"]
    template["metadata"].pop("namespace", None)
    container = template["spec"]["containers"][0]
    # A pod of the Job runs one index; only the pod that sums up is told that there is a Job.
    container["env"] = [each for each in container["env"] if each["name"] != "AIRFLOW_ML_FLEET"]
    container["env"].append({"name": "AIRFLOW_ML_FLEET_PLAN", "value": plan.name})
    annotations = {**annotations_of(compute, launch), PLAN: plan.name}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(launch),
            "labels": {**labels_of(compute, launch), "app.kubernetes.io/component": "fleet"},
            "annotations": annotations,
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": plan.indexes,
            "parallelism": min(plan.parallelism, plan.indexes),
            "backoffLimitPerIndex": max(0, plan.tries - 1),
            "maxFailedIndexes": min(plan.max_failed_indexes, plan.indexes),
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "suspend": bool(compute.queue or launch.credentials),
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    _on_exit("FailIndex", *_FINAL),
                ]
            },
            **({"activeDeadlineSeconds": deadline} if deadline else {}),
            "template": template,
        },
    }


def _on_exit(action: str, *codes: int) -> dict[str, Any]:
    return {
        "action": action,
        "onExitCodes": {"containerName": "step", "operator": "In", "values": list(codes)},
    }
