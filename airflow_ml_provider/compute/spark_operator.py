"""SparkKubernetesOperator, with a step's identity, claim and log instead of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.cncf.kubernetes.operators.spark_kubernetes import SparkKubernetesOperator
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager
from airflow.sdk.exceptions import TaskDeferred

from airflow_ml_provider.compute.spark_application import DRIVER
from airflow_ml_provider.compute.spark_claim import obtain
from airflow_ml_provider.triggers.spark import SparkDriverTrigger

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    from airflow.sdk import Context
    from kubernetes.client import CustomObjectsApi

    from airflow_ml_provider.compute.spark_run import SparkRun

_CHECK_EVERY = 2
_LOG_EVERY = 5


class StepSparkOperator(SparkKubernetesOperator):
    """Waits for a step's driver within another operator's task: built in ``execute``, never part of a DAG.

    What it does by itself is replaced where two applications of a step could come of it: its random names, its
    search by labels of a try, its launcher, which fails when there is an application of the name already.
    """

    spark_run: SparkRun

    @classmethod
    def of(cls, run: SparkRun, context: Context) -> StepSparkOperator:
        """For one application."""
        compute, task = run.compute, context["task"]
        operator = cls(
            task_id=task.task_id,
            kubernetes_conn_id=compute.conn_id,
            config_file=compute.kubeconfig or None,
            cluster_context=compute.context or None,
            name=run.application,
            namespace=run.namespace,
            random_name_suffix=False,
            reattach_on_restart=False,
            delete_on_termination=False,
            template_spec={"spark": run.document(run.deadline(context))},
            base_container_name=DRIVER,
            deferrable=compute.deferrable,
            execution_timeout=task.execution_timeout,
            schedule_timeout_seconds=compute.start_timeout,
            startup_timeout_seconds=compute.start_timeout,
            startup_check_interval_seconds=_CHECK_EVERY,
            poll_interval=_CHECK_EVERY,
            logging_interval=_LOG_EVERY,
            on_finish_action="keep_pod",
            on_kill_action="delete_pod",
            do_xcom_push=False,
        )
        operator.spark_run = run
        return operator

    def run(self, context: Context) -> None:
        """Without the guard of ``execute``, which is for operators that are tasks."""
        self.name = self.create_job_name()
        self._setup_spark_configuration(context)
        # Otherwise it puts together a pod that nobody asks for.
        self.pod_request_obj = self.pod
        if self.deferrable:
            self.execute_async(context)
        else:
            self.execute_sync(context)

    @cached_property
    def hook(self) -> KubernetesHook:
        """The compute's: the provider's own would not let a connection say ``in_cluster``."""
        return self.spark_run.cluster.hook

    @cached_property
    def custom_obj_api(self) -> CustomObjectsApi:
        """Of the same cluster: the provider's own speaks to the one that the process spoke to last."""
        return self.hook.custom_object_client

    @cached_property
    def pod_manager(self) -> PodManager:
        """With our log."""
        return self.spark_run.pod_manager

    def get_or_create_spark_crd(self, launcher: Any, context: Context) -> Any:
        """By its name; gives the driver's pod."""
        return obtain(self.spark_run, launcher.body)

    def find_pod(self, namespace: str, context: Context, *, exclude_checked: bool = True) -> Any:
        """By its name."""
        return self.spark_run.find()

    def convert_config_file_to_dict(self) -> None:
        """Nothing: the trigger reads the kubeconfig where it runs, and a KUBECONFIG of the worker's is not its own."""

    def patch_already_checked(self, pod: Any, *, reraise: bool = True) -> None:
        """Nothing: a driver is found by its name."""

    def process_pod_deletion(self, pod: Any, *, reraise: bool = True) -> bool:
        """Nothing: the application is deleted when its end is understood."""
        return False

    def _write_logs(self, *_: Any, **__: Any) -> None:  # type: ignore[override] # it is wrapped for retries
        """Nothing: what is left of the log is told when the driver is concluded, from where the cursor is."""

    def defer(
        self, *, trigger: Any, method_name: str, kwargs: Mapping[str, Any] | None = None,
        timeout: timedelta | float | None = None,
    ) -> NoReturn:  # fmt: skip
        """As the task that this runs in, which goes on in its ``execute_complete``."""
        run = self.spark_run
        raise TaskDeferred(
            trigger=SparkDriverTrigger.of(trigger, run.compute.kubeconfig, run.application),
            method_name="execute_complete",
            kwargs=dict(kwargs or {}),
            timeout=timeout,
        )
