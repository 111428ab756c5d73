"""Waits for the driver of a step's SparkApplication, in the triggerer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute.spark_application import GROUP, PLURAL, VERSION
from airflow_ml_provider.triggers.pod import StepPodTrigger

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger


class SparkDriverTrigger(StepPodTrigger):
    """:class:`StepPodTrigger`, which deletes the application with its driver when a user ends the task."""

    def __init__(self, *, application: str, **given: Any) -> None:
        super().__init__(**given)
        self.application = application

    @classmethod
    def of(cls, trigger: KubernetesPodTrigger, kubeconfig: str, application: str) -> SparkDriverTrigger:
        """:meth:`StepPodTrigger.like`, for an application's driver."""
        given = {**trigger.serialize()[1], "config_dict": None, "connection_extras": None}
        return cls(application=application, kubeconfig=kubeconfig, **given)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """With the application's name."""
        path, given = super().serialize()
        return path, {**given, "application": self.application}

    async def on_kill(self) -> None:
        """Delete the application first: nobody starts its driver again then."""
        from kubernetes_asyncio.client import ApiException, CustomObjectsApi

        if self._fired_event:
            return
        try:
            async with self.hook.get_conn() as connection:
                await CustomObjectsApi(connection).delete_namespaced_custom_object(
                    GROUP, VERSION, self.pod_namespace, PLURAL, self.application
                )
        except ApiException as error:
            if error.status != 404:
                self.log.warning("application %s could not be deleted: %s", self.application, error.reason)
        await super().on_kill()
