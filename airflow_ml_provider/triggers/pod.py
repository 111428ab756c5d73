"""Waits for a step's pod, in the triggerer: Airflow's own trigger for pods, its log told exactly once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger

from airflow_ml_provider.compute.pod_logs import StepAsyncPodManager


class StepPodTrigger(KubernetesPodTrigger):
    """:class:`KubernetesPodTrigger`, whose ``last_log_time`` is a cursor to a line instead of a time.

    The pod is deleted when a user ends the task (failed, cleared, its run deleted), and kept when only the
    triggerer ends.
    """

    @classmethod
    def like(cls, trigger: KubernetesPodTrigger) -> StepPodTrigger:
        """The same, as ours."""
        return cls(**trigger.serialize()[1])

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Under our name."""
        return f"{type(self).__module__}.{type(self).__qualname__}", super().serialize()[1]

    @cached_property
    def pod_manager(self) -> StepAsyncPodManager:
        """Ours."""
        return StepAsyncPodManager(async_hook=self.hook)
