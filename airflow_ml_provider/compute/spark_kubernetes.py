"""Steps as applications of the Spark operator, by the operator of Airflow's own Kubernetes provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute.base import Compute, Exit, Launch
from airflow_ml_provider.compute.frozen import frozen
from airflow_ml_provider.compute.kubernetes import KubernetesCompute
from airflow_ml_provider.contract.errors import ConfigError

if TYPE_CHECKING:
    from airflow.sdk import Context

# Settings that have a field, or that make the driver what it is.
_NOT_HERE = {
    "spark.master": "nothing: it is the cluster",
    "spark.submit.deployMode": "nothing: the driver is a pod",
    "spark.kubernetes.namespace": "namespace=",
    "spark.kubernetes.driver.pod.name": "nothing: the name is what a retry finds it by",
    "spark.kubernetes.container.image": "image=",
    "spark.kubernetes.driver.podTemplateFile": "pod_template=",
    "spark.kubernetes.executor.podTemplateFile": "pod_template=",
    "spark.executor.instances": "executors=",
    "spark.driver.memory": "resources=",
    "spark.driver.memoryOverhead": "resources=",
    "spark.executor.memory": "executor_resources=",
    "spark.executor.memoryOverhead": "executor_resources=",
}


@dataclass(frozen=True)
class SparkKubernetesCompute(KubernetesCompute):
    """A SparkApplication for each step, found again by its name: there is never a second one for a step.

    The step is the driver; feature sets whose functions ask for Spark frames run on the executors, and so does
    prediction. The other verbs run in the driver alone. The cluster needs the Spark operator (kubeflow, 2.4 or newer).
    A retry adopts a driver that still runs or reads the result it left; killing, clearing or failing the task deletes
    the application with its pods.

    What :class:`KubernetesCompute` takes is said of the driver's pod and of the executors', but for ``resources``
    and ``max_runtime``, which are the driver's. A worker waits for the driver's pod to be there, ``start_timeout``
    at most; then the triggerer does.

    :param image: one of Spark's own images with this package in it, PySpark's version that of ``spark_version``.
    :param service_account: whose identity the driver has; it has to be allowed to make pods, services and
        ConfigMaps. It is the executors' too.
    :param executors: how many there are.
    :param executor_resources: of each executor, as ``resources``. Of the memory, half is Java's and half Python's.
    :param conf: Spark's settings: ``{"spark.sql.shuffle.partitions": "400"}``. They show in the DAG: no secrets.
    :param spark_version: Spark's version in the image.
    :param application: the path of ``airflow_ml_provider/steps/spark_driver.py`` in the image.
    """

    executors: int = 2
    executor_resources: Mapping[str, Any] = field(default_factory=dict)
    conf: Mapping[str, str] = field(default_factory=dict)
    spark_version: str = "4.0.0"
    application: str = "/opt/venv/lib/python3.11/site-packages/airflow_ml_provider/steps/spark_driver.py"

    # Shards are tasks of Spark, and no indexes of a Job.
    run_fleet = Compute.run_fleet

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("executor_resources", "conf"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise ConfigError(f"SparkKubernetesCompute({name}={value!r}) is not a mapping")
            object.__setattr__(self, name, frozen(value))
        for name, value in self.conf.items():
            if not name.startswith("spark."):
                raise ConfigError(
                    f"{name!r} is no setting of Spark",
                    todo='their names begin with "spark.": SparkKubernetesCompute(conf=...)',
                )
            if name in _NOT_HERE:
                raise ConfigError(
                    f"SparkKubernetesCompute(conf=...) sets {name}={value}", todo=f"give {_NOT_HERE[name]}"
                )
        if not self.service_account:
            raise ConfigError(
                "SparkKubernetesCompute has no service_account, and a driver has to make its executors' pods",
                todo='name the one that the Spark operator made for drivers: service_account="..."',
            )
        if self.executors < 1:
            raise ConfigError(f"SparkKubernetesCompute(executors={self.executors})", todo="give 1 or more")
        if self.queue:
            raise ConfigError(
                f"SparkKubernetesCompute(queue={self.queue!r}): applications do not go through a queue",
                todo='leave queue= out, or have pods wait elsewhere: pod_template={"spec": {"schedulerName": ...}}',
            )
        if not self.application.startswith("/"):
            raise ConfigError(
                f"application={self.application!r} is no path in the image", todo="begin it with /"
            )

    def __repr__(self) -> str:
        return f"Spark{super().__repr__()}"

    def run(self, launch: Launch, context: Context) -> Exit:
        """Run the step's application to its end, or defer until then; adopts one of this step that runs already."""
        from airflow_ml_provider.compute.spark_run import SparkRun

        return SparkRun(self, launch).run(context)

    def resume(self, launch: Launch, context: Context, event: Mapping[str, Any]) -> Exit:
        """Carry on after a deferral: the last output, and how the driver ended."""
        from airflow_ml_provider.compute.spark_run import SparkRun

        return SparkRun(self, launch).resume(context, event)

    def cancel(self, launch: Launch) -> None:
        """Delete the step's application with its pods."""
        from airflow_ml_provider.compute.spark_run import SparkRun

        SparkRun(self, launch).delete()
