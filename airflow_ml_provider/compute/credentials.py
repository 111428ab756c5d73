"""A step's credentials as a Secret that lives as long as its pod or Job.

Kubernetes removes an object with its owner, and an owner has to exist first. So a pod is created held back by
a scheduling gate, a Job suspended; then comes the Secret, owned by it; then it is let go. Whoever dies in
between leaves a pod that does not run, and the next try goes on where it stopped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute.kubernetes_errors import api_error
from airflow_ml_provider.compute.pod_spec import MANAGED_BY

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api


def provide(client: CoreV1Api, owner: Any, api_version: str, kind: str, values: Mapping[str, str]) -> None:
    """Make the Secret of a pod or a Job; one that it owns already is left as it is.

    :param owner: the object, as the API gave it.
    :raises MLError: it could not be made.
    """
    from kubernetes.client import ApiException

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
    for _ in range(2):
        try:
            client.create_namespaced_secret(namespace, secret)
            return
        except ApiException as error:
            if error.status != 409:
                raise api_error(error, "create", "secrets", name, namespace) from None
        if _is_owned_by(client, name, namespace, owner.metadata.uid):
            return
        # Of an earlier pod of this name, and about to be removed with it.
        _delete(client, name, namespace)
    raise api_error(
        RuntimeError("it exists and belongs to another pod"), "create", "secrets", name, namespace
    )


def _is_owned_by(client: CoreV1Api, name: str, namespace: str, uid: str) -> bool:
    from kubernetes.client import ApiException

    try:
        found = client.read_namespaced_secret(name, namespace)
    except ApiException as error:
        if error.status == 404:
            return False
        raise api_error(error, "get", "secrets", name, namespace) from None
    return any(owner.uid == uid for owner in found.metadata.owner_references or [])


def _delete(client: CoreV1Api, name: str, namespace: str) -> None:
    from kubernetes.client import ApiException

    try:
        client.delete_namespaced_secret(name, namespace)
    except ApiException as error:
        if error.status != 404:
            raise api_error(error, "delete", "secrets", name, namespace) from None
