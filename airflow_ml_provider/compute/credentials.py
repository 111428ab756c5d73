"""A step's credentials as a Secret that lives as long as its pod or Job.

Kubernetes removes an object with its owner, and an owner has to exist first. So a pod is created held back by
a scheduling gate, a Job suspended; then comes the Secret, owned by it; then it is let go. Whoever dies in
between leaves a pod that does not run, and the next try goes on where it stopped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute.kubernetes_errors import api_error, is_unknown
from airflow_ml_provider.compute.pod_spec import MANAGED_BY

if TYPE_CHECKING:
    from airflow_ml_provider.compute.cluster import Cluster

_ATTEMPTS = 4


def provide(cluster: Cluster, owner: Any, api_version: str, kind: str, values: Mapping[str, str]) -> None:
    """Make the Secret of a pod or a Job; one that it owns already is left as it is.

    :param owner: the object, as the API gave it.
    :raises MLError: it could not be made.
    """
    name, namespace = owner.metadata.name, owner.metadata.namespace
    reference = {
        "apiVersion": api_version, "kind": kind, "name": name, "uid": owner.metadata.uid,
        "controller": True, "blockOwnerDeletion": False,
    }  # fmt: skip
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": MANAGED_BY},
            "ownerReferences": [reference],
        },
        "immutable": True,
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }
    failure: Exception = RuntimeError("it exists, and belongs to another pod")
    for attempt in range(_ATTEMPTS):
        try:
            cluster.core.create_namespaced_secret(namespace, secret)
            return
        except Exception as error:
            failure = error
            if not is_unknown(error):
                break
            if getattr(error, "status", None) != 409 and attempt < _ATTEMPTS - 1:
                # It may have been made all the same; the next answer is then that it exists.
                cluster.pause(error, attempt)
        if _is_owned_by(cluster, name, owner.metadata.uid):
            return
    raise api_error(failure, "create", "secrets", name, namespace) from None


def _is_owned_by(cluster: Cluster, name: str, uid: str) -> bool:
    """Whether the Secret is there and is that of this owner; one of an earlier pod of this name is removed."""
    found = cluster.ask(
        "get", "secrets", name, lambda: cluster.core.read_namespaced_secret(name, cluster.namespace)
    )
    if found is None:
        return False
    if any(owner.uid == uid for owner in found.metadata.owner_references or []):
        return True
    cluster.ask(
        "delete", "secrets", name, lambda: cluster.core.delete_namespaced_secret(name, cluster.namespace)
    )
    return False
