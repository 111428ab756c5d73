"""Waits for a step's pod, in the triggerer: Airflow's own trigger for pods, its log told exactly once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger

from airflow_ml_provider.compute.pod_logs import StepAsyncPodManager
from airflow_ml_provider.triggers.kubernetes_hook import async_hook

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook


class StepPodTrigger(KubernetesPodTrigger):
    """:class:`KubernetesPodTrigger`, whose ``last_log_time`` is a cursor to a line instead of a time.

    The pod is deleted when a user ends the task (failed, cleared, its run deleted), and kept when only the
    triggerer ends.
    """

    def __init__(self, *, kubeconfig: str = "", **given: Any) -> None:
        super().__init__(**given)
        self.kubeconfig = kubeconfig

    @classmethod
    def like(cls, trigger: KubernetesPodTrigger, kubeconfig: str) -> StepPodTrigger:
        """The same, as ours. How to reach the cluster is named, not copied into the database."""
        given = {**trigger.serialize()[1], "config_dict": None, "connection_extras": None}
        return cls(kubeconfig=kubeconfig, **given)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Under our name."""
        given = {**super().serialize()[1], "kubeconfig": self.kubeconfig}
        return f"{type(self).__module__}.{type(self).__qualname__}", given

    @cached_property
    def hook(self) -> AsyncKubernetesHook:
        """The provider's."""
        return async_hook(self.kubernetes_conn_id, self.kubeconfig, self.cluster_context)

    @cached_property
    def pod_manager(self) -> StepAsyncPodManager:
        """Ours."""
        return StepAsyncPodManager(async_hook=self.hook)
