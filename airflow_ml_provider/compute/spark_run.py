"""The life of a step's SparkApplication: found or made, its driver waited for by Airflow's own operator, understood,
removed.

It is that of a step's pod: the driver is the pod of the step, and what it says of its end is believed as any pod's.
The application is what is made and deleted, and is asked where there is no driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute import pod_end, pod_memory, spark_application
from airflow_ml_provider.compute.base import Exit, Launch
from airflow_ml_provider.compute.cluster import Cluster
from airflow_ml_provider.compute.pod_logs import LogCursor, StepPodManager
from airflow_ml_provider.compute.pods import StepPod
from airflow_ml_provider.compute.spark_application import DRIVER, GROUP, PLURAL, VERSION
from airflow_ml_provider.compute.spark_claim import message_of, state_of
from airflow_ml_provider.compute.spark_operator import StepSparkOperator
from airflow_ml_provider.contract.errors import InfrastructureError, MLError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.compute.spark_kubernetes import SparkKubernetesCompute


class SparkRun(StepPod):
    """One step's application, in the process of its task.

    :param compute: how it is to be.
    :param launch: which step.
    """

    compute: SparkKubernetesCompute

    def __init__(self, compute: SparkKubernetesCompute, launch: Launch) -> None:
        super().__init__(compute, launch)
        self.cluster = _Drivers(compute)
        self.application = spark_application.application_name(launch)
        # The pod of the step.
        self.name = spark_application.driver_name(launch)

    @cached_property
    def pod_manager(self) -> StepPodManager:
        """The provider's, with our log."""
        return _DriverPodManager(self.cluster.core, self.output, self.cursor)

    def run(self, context: Context) -> Exit:
        """To its end, or until it defers."""
        operator = StepSparkOperator.of(self, context)
        return self._through(context, lambda: operator.run(context))

    def resume(self, context: Context, event: Mapping[str, Any]) -> Exit:
        """From what the trigger saw, to its end."""
        self.cursor = LogCursor(str(event.get("last_log_time") or ""))
        operator = StepSparkOperator.of(self, context)
        told = {key: value for key, value in event.items() if key != "_redefer_count"}
        return self._through(context, lambda: operator.trigger_reentry(context, told), event)

    def read(self) -> Mapping[str, Any] | None:
        """The application as it is, None if there is none.

        :raises TransientError: it is unknown whether there is one.
        """
        found: Mapping[str, Any] | None = self.ask("get", "get_namespaced_custom_object")
        return found

    def delete(self, uid: str | None = None) -> None:
        """Have the application removed, if there is one, only that of ``uid`` if given; its Secret goes with it.

        Its driver is deleted as well: Spark operators before 2.4 do not make it go with its application.
        """
        body = {"preconditions": {"uid": uid}} if uid else None
        self.ask("delete", "delete_namespaced_custom_object", body=body)
        if uid is None:
            self.cluster.delete_pod(self.name)

    def document(self, deadline: int | None) -> dict[str, Any]:
        """The application to ask for."""
        factor = pod_memory.factor(self.folder, self.compute.memory_growth)
        return spark_application.application_document(
            self.compute, self.launch, memory_factor=factor, deadline=deadline
        )

    def ask(self, doing: str, method: str, **more: Any) -> Any | None:
        """The answer to a request about the application, None for "there is none"."""
        request = getattr(self.cluster.hook.custom_object_client, method)
        return self.cluster.ask(
            doing, PLURAL, self.application,
            lambda: request(GROUP, VERSION, self.namespace, PLURAL, self.application, **more),
        )  # fmt: skip

    def _gone(self) -> MLError:
        """Why there is no driver: of an application that was never submitted the Spark operator knows."""
        application = self.read()
        named = f"SparkApplication {self.application!r} in namespace {self.namespace!r}"
        said = message_of(application) if application is not None else ""
        state = state_of(application) if application is not None else ""
        if not self.compute.keep_failed:
            self.delete()
        if state in ("FAILED", "SUBMISSION_FAILED") and said and "driver pod not found" not in said:
            return InfrastructureError(
                f"{named} was not submitted: {said[-600:]}",
                kept="nothing was started",
                todo="correct what it names: often the image, service_account= and its permissions, or conf=",
            )
        events = [f"driver of {named}: {said}"] if said else self.cluster.events_of(self.application)
        return pod_end.gone(f"pod {self.name!r}, the driver of {named},", events)


class _Drivers(Cluster):
    """A cluster whose pods are drivers."""

    def document(self, found: Any) -> Mapping[str, Any]:
        """An object as plain data, a driver's container named as that of any step."""
        return spark_application.as_step(super().document(found))


class _DriverPodManager(StepPodManager):
    """Reads the driver's container."""

    def read_pod_logs(self, pod: Any, container_name: str, **options: Any) -> Any:
        """The log of Spark's driver, whatever the container of a step is called elsewhere."""
        return super().read_pod_logs(pod, DRIVER, **options)
