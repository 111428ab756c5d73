"""A cluster as a compute sees it: the provider's hook, and answers that are never guessed.

Unknown is not absent: a request that failed without a clear answer is tried again for a while, and then raises.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute.kubernetes_errors import api_error, is_unknown
from airflow_ml_provider.contract.errors import ConfigError

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    from airflow_ml_provider.compute.kubernetes import KubernetesCompute

log = logging.getLogger("airflow_ml_provider.compute")

_ATTEMPTS = 5
_LONGEST_PAUSE = 15.0
_LOOKED_AT = 50


class Cluster:
    """The cluster and namespace of a compute."""

    def __init__(self, compute: KubernetesCompute) -> None:
        self._compute = compute

    @cached_property
    def hook(self) -> KubernetesHook:
        """The provider's.

        :raises ConfigError: there is no way to reach a cluster.
        """
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
        from kubernetes.config import ConfigException

        hook = KubernetesHook(
            conn_id=self._compute.conn_id,
            config_file=self._compute.kubeconfig or None,
            cluster_context=self._compute.context or None,
        )
        try:
            hook.api_client  # noqa: B018 - made now, so that a missing configuration is known here
        except ConfigException as error:
            raise ConfigError(
                f"no Kubernetes cluster is configured: {error}",
                todo=f"add the Airflow connection {self._compute.conn_id!r} (type Kubernetes), run Airflow in the "
                "cluster, or give KubernetesCompute a kubeconfig=",
            ) from None
        return hook

    @property
    def core(self) -> Any:
        """Client of the core API."""
        return self.hook.core_v1_client

    @property
    def batch(self) -> Any:
        """Client of the batch API."""
        return self.hook.batch_v1_client

    @cached_property
    def namespace(self) -> str:
        """The compute's, the connection's, the one that Airflow runs in, or ``default``."""
        return self._compute.namespace or self.hook.get_namespace() or _own_namespace() or "default"

    def read_pod(self, name: str) -> Any | None:
        """A pod, None if there is none."""
        return self.ask("get", "pods", name, lambda: self.core.read_namespaced_pod(name, self.namespace))

    def delete_pod(self, name: str, uid: str | None = None) -> None:
        """Delete a pod, only that of ``uid`` if given; one that is gone is no error."""
        body = {"preconditions": {"uid": uid}} if uid else None
        self.ask(
            "delete", "pods", name, lambda: self.core.delete_namespaced_pod(name, self.namespace, body=body)
        )

    def patch_pod(self, name: str, operations: list[dict[str, Any]]) -> None:
        """Change a pod by JSON patch."""
        self.ask(
            "patch", "pods", name, lambda: self.core.patch_namespaced_pod(name, self.namespace, operations)
        )

    def events_of(self, name: str) -> list[str]:
        """What the cluster says about an object, the newest last; nothing if it cannot be asked."""
        try:
            found = self.core.list_namespaced_event(
                self.namespace, field_selector=f"involvedObject.name={name}"
            )
        except Exception as error:
            log.debug("events of %s could not be read: %r", name, error)
            return []
        return [f"{event.reason}: {' '.join((event.message or '').split())}" for event in found.items]

    def pods_of_job(self, name: str, phase: str) -> list[Mapping[str, Any]]:
        """Some pods of a Job in a phase; none if they cannot be listed, which fails nothing."""
        try:
            found = self.core.list_namespaced_pod(
                self.namespace, label_selector=f"batch.kubernetes.io/job-name={name}",
                field_selector=f"status.phase={phase}", limit=_LOOKED_AT,
            )  # fmt: skip
        except Exception as error:
            log.warning("the pods of job %s could not be listed: %s", name, type(error).__name__)
            return []
        return [self.document(pod) for pod in found.items]

    def document(self, found: Any) -> Mapping[str, Any]:
        """An object of the client's as plain data."""
        document: Mapping[str, Any] = self.hook.api_client.sanitize_for_serialization(found)
        return document

    def ask(self, doing: str, kind: str, name: str, request: Callable[[], Any]) -> Any | None:
        """The answer to a request, None for "there is no such object".

        :raises TransientError: no clear answer, after several tries.
        :raises ConfigError: the cluster refuses.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return request()
            except Exception as error:
                if getattr(error, "status", None) == 404:
                    return None
                if not is_unknown(error) or attempt == _ATTEMPTS - 1:
                    raise api_error(error, doing, kind, name, self.namespace) from None
                self.pause(error, attempt)
        raise AssertionError("unreachable")

    @staticmethod
    def pause(error: Exception, attempt: int) -> None:
        """Wait before asking again: as long as the server asks for, or twice as long each time."""
        asked = (getattr(error, "headers", None) or {}).get("Retry-After", "")
        seconds = float(asked) if str(asked).isdigit() else 0.5 * 2**attempt
        log.warning("the Kubernetes API did not answer clearly (%s); asking again", _said(error))
        time.sleep(min(seconds, _LONGEST_PAUSE))


def _said(error: Exception) -> str:
    status = getattr(error, "status", None)
    return f"HTTP {status}" if status else type(error).__name__


def _own_namespace() -> str | None:
    from pathlib import Path

    path = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return path.read_text().strip() if path.is_file() else None
