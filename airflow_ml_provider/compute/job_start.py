"""Why no pod of a Job starts: asked of the cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_ml_provider.compute import pod_end

if TYPE_CHECKING:
    from airflow_ml_provider.compute.cluster import Cluster
    from airflow_ml_provider.contract.errors import MLError


def never_started(cluster: Cluster, job: str, start_timeout: int) -> MLError | None:
    """Why a pod of a Job cannot start or has not in time; None if all may still.

    :param start_timeout: seconds that one may take.
    """
    for pod in cluster.pods_of_job(job, "Pending"):
        waited = time.time() - pod_end.created_at(pod)
        if not pod_end.cannot_be_pulled(pod) and waited <= start_timeout:
            # Its events are not asked for: the API server reads those of the whole namespace for each pod.
            continue
        events = cluster.events_of(pod["metadata"]["name"])
        late = pod_end.never_started(pod, events, waited)
        if late is not None:
            return late
    return None
