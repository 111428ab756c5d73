"""KubernetesPodOperator, with a step's identity and log instead of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager
from airflow.sdk.exceptions import TaskDeferred

from airflow_ml_provider.compute.pod_claim import obtain
from airflow_ml_provider.compute.pod_spec import CONTAINER
from airflow_ml_provider.triggers.pod import StepPodTrigger

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.sdk import Context

    from airflow_ml_provider.compute.pods import StepPod

_CHECK_EVERY = 2
_LOG_EVERY = 5
# Waiting there is what a queue is for; the task's execution_timeout ends it.
_IN_A_QUEUE = 30 * 24 * 3600


class StepPodOperator(KubernetesPodOperator):
    """Waits for a step's pod within another operator's task: built in ``execute``, never part of a DAG.

    It neither makes nor removes pods by itself: :class:`~airflow_ml_provider.compute.pods.StepPod` does.
    """

    step_pod: StepPod

    @classmethod
    def of(cls, pod: StepPod, context: Context) -> StepPodOperator:
        """For one pod."""
        compute, task = pod.compute, context["task"]
        operator = cls(
            task_id=task.task_id,
            kubernetes_conn_id=compute.conn_id,
            config_file=compute.kubeconfig or None,
            cluster_context=compute.context or None,
            name=pod.name,
            namespace=pod.namespace,
            random_name_suffix=False,
            base_container_name=CONTAINER,
            pod_template_dict=pod.document(pod.deadline(context)),
            labels=pod.document(None)["metadata"]["labels"],
            durable=False,
            deferrable=compute.deferrable,
            execution_timeout=task.execution_timeout,
            schedule_timeout_seconds=_IN_A_QUEUE if compute.queue else compute.start_timeout,
            startup_timeout_seconds=compute.start_timeout,
            startup_check_interval_seconds=_CHECK_EVERY,
            poll_interval=_CHECK_EVERY,
            logging_interval=_LOG_EVERY,
            on_finish_action="keep_pod",
            on_kill_action="delete_pod",
            do_xcom_push=False,
        )
        operator.step_pod = pod
        return operator

    def run(self, context: Context) -> None:
        """Without the guard of ``execute``, which is for operators that are tasks."""
        if self.deferrable:
            self.execute_async(context)
        else:
            self.execute_sync(context)

    def convert_config_file_to_dict(self) -> None:
        """Nothing: the trigger reads the kubeconfig where it runs, and a KUBECONFIG of the worker's is not its own."""

    @cached_property
    def pod_manager(self) -> PodManager:
        """With our log."""
        return self.step_pod.pod_manager

    def get_or_create_pod(self, pod_request_obj: Any, context: Context) -> Any:
        """By its name."""
        return obtain(self.step_pod, pod_request_obj)

    def find_pod(self, namespace: str, context: Context, *, exclude_checked: bool = True) -> Any:
        """By its name."""
        return self.step_pod.find()

    def _write_logs(self, *_: Any, **__: Any) -> None:  # type: ignore[override] # it is wrapped for retries
        """Nothing: what is left of the log is told when the pod is concluded, from where the cursor is."""

    def defer(
        self, *, trigger: Any, method_name: str, kwargs: Mapping[str, Any] | None = None,
        timeout: timedelta | float | None = None,
    ) -> NoReturn:  # fmt: skip
        """As the task that this runs in, which goes on in its ``execute_complete``."""
        raise TaskDeferred(
            trigger=StepPodTrigger.like(trigger, self.step_pod.compute.kubeconfig),
            method_name="execute_complete",
            kwargs=dict(kwargs or {}),
            timeout=timeout,
        )
