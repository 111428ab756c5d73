"""Steps as pods, fleets as Indexed Jobs, by the operators of Airflow's own Kubernetes provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

from airflow_ml_provider.compute.base import Compute, Exit, Launch
from airflow_ml_provider.compute.frozen import frozen
from airflow_ml_provider.compute.quantities import requests_and_limits
from airflow_ml_provider.contract.errors import ConfigError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.fleets import FleetPlan


_MAPPINGS = (
    "resources", "environment", "volumes", "node_selector", "affinity", "labels", "annotations", "pod_template",
)  # fmt: skip
_LISTS = ("secrets", "image_pull_secrets", "tolerations")


@dataclass(frozen=True)
class KubernetesCompute(Compute):
    """A pod for each step, found again by its name: there is never a second one for a step.

    The pod runs as a user without privileges, with a root file system that cannot be written to, and may not
    speak to the Kubernetes API. Its result comes through the store. A retry adopts a pod that still runs or
    reads the result it left; killing, clearing or failing the task deletes the pod. When the cluster takes a
    pod's place away (preempted, drained), the step is started again within the same try of the task.

    :param image: what steps run in: this package and the libraries of the user's code. Best by its digest.
    :param namespace: where pods go; the connection's, or the one Airflow itself runs in, when left out.
    :param conn_id: an Airflow connection of type Kubernetes. Without one of this name, the service account
        of the pod that Airflow runs in is used, or else the default kubeconfig.
    :param kubeconfig: path of a kubeconfig, instead of a connection's.
    :param context: which context of the kubeconfig.
    :param resources: both requests and limits: ``{"cpu": 2, "memory": "4Gi", "nvidia.com/gpu": 1}``; or
        ``{"requests": {...}, "limits": {...}}``.
    :param memory_growth: the factor by which a retry after "out of memory" raises the memory; 1 keeps it.
    :param service_account: whose identity a step has towards the cloud (S3, MLflow); needs no permissions.
    :param secrets: names of Secrets whose keys become environment variables.
    :param environment: plain environment variables. They show in the DAG: no secrets.
    :param volumes: mount path to a claim's name, or to a volume source:
        ``{"/data": "claim", "/cache": {"hostPath": {"path": "/mnt/cache"}}}``.
    :param node_selector: labels that a node must have.
    :param tolerations: as in a pod's spec.
    :param affinity: as in a pod's spec.
    :param priority_class: name of a PriorityClass.
    :param labels: more labels for pods and Jobs.
    :param annotations: more annotations for pods and Jobs.
    :param queue: a Kueue LocalQueue that admits pods and Jobs; they wait for it as long as it takes.
    :param image_pull_secrets: names of Secrets for the registry.
    :param image_pull_policy: as in a pod's spec.
    :param code_in_image: the image holds the user's code on its import path; none is packed and sent.
    :param deferrable: wait in the triggerer instead of on a worker.
    :param start_timeout: seconds that a pod may take to be scheduled (outside of a queue), and then to start.
    :param max_runtime: seconds after which Kubernetes ends the pod, whatever Airflow does; by default ten
        minutes more than the task's ``execution_timeout``, if it has one.
    :param resumptions: how often a step that the cluster interrupted is started again within one try.
    :param keep_failed: leave failed pods and Jobs in place, to look at. The next try replaces them.
    :param pod_template: a pod as Kubernetes has it, for all that the rest does not say. The container is
        named ``step``. The fields above win over it.
    """

    image: str
    namespace: str = ""
    conn_id: str = "kubernetes_default"
    kubeconfig: str = ""
    context: str = ""
    resources: Mapping[str, Any] = field(default_factory=dict)
    memory_growth: float = 1.0
    service_account: str = ""
    secrets: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, Any] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)
    priority_class: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    queue: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    image_pull_policy: str = ""
    code_in_image: bool = False
    deferrable: bool = True
    start_timeout: int = 600
    max_runtime: int | None = None
    resumptions: int = 10
    keep_failed: bool = False
    pod_template: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*_MAPPINGS, *_LISTS):
            object.__setattr__(self, name, frozen(_checked(name, getattr(self, name))))
        if not self.image:
            raise ConfigError(
                "KubernetesCompute has no image", todo='give it one: KubernetesCompute(image="...")'
            )
        if self.memory_growth < 1:
            raise ConfigError(
                f"memory_growth={self.memory_growth} would shrink the memory", todo="give 1 or more"
            )

    def __repr__(self) -> str:
        changed = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if _is_set(self, f))
        return f"KubernetesCompute({', '.join(changed)})"

    def but(self, changes: Mapping[str, Any]) -> Self:
        """:meth:`Compute.but`; resources of both forms are merged name by name."""
        if "resources" in changes and self.resources:
            below, above = requests_and_limits(self.resources), requests_and_limits(changes["resources"])
            both = {kind: {**below.get(kind, {}), **above.get(kind, {})} for kind in ("requests", "limits")}
            flat = both["requests"] == both["limits"]
            changes = {**changes, "resources": both["limits"] if flat else both}
            return replace(super().but({**changes, "resources": {}}), resources=changes["resources"])
        return super().but(changes)

    @property
    def ships_code(self) -> bool:
        """Unless the image holds it."""
        return not self.code_in_image

    def content(self) -> Mapping[str, str]:
        """The image is part of what a result depends on."""
        return {"image": self.image}

    def run(self, launch: Launch, context: Context) -> Exit:
        """Run the step's pod to its end, or defer until then; adopts a pod of this step that runs already."""
        from airflow_ml_provider.compute.pods import StepPod

        return self._with_job_removed(launch, StepPod(self, launch).run(context))

    def resume(self, launch: Launch, context: Context, event: Mapping[str, Any]) -> Exit:
        """Carry on after a deferral: the last output, and how the pod ended."""
        if event.get("phase") == "fleet":
            from airflow_ml_provider.compute.fleet_job import FleetJob

            return FleetJob(self, launch).resume(event, context)
        from airflow_ml_provider.compute.pods import StepPod

        return self._with_job_removed(launch, StepPod(self, launch).resume(context, event))

    def run_fleet(self, launch: Launch, plan: FleetPlan, context: Context) -> None:
        """Run a fleet's indexes as one Indexed Job, or defer until it is over; adopts one that runs already."""
        from airflow_ml_provider.compute.fleet_job import FleetJob

        FleetJob(self, launch).run(plan, context)

    def cancel(self, launch: Launch) -> None:
        """Delete the step's pod, and its Job if it is a fleet."""
        from airflow_ml_provider.compute.pods import StepPod

        StepPod(self, launch).delete()
        if _may_have_job(launch):
            from airflow_ml_provider.compute.fleet_job import FleetJob

            FleetJob(self, launch).delete()

    def _with_job_removed(self, launch: Launch, ended: Exit) -> Exit:
        if _may_have_job(launch):
            from airflow_ml_provider.compute.fleet_job import FleetJob

            FleetJob(self, launch).clear()
        return ended


def _may_have_job(launch: Launch) -> bool:
    return launch.indexed or launch.verb == "fleet"


def _checked(name: str, value: Any) -> Any:
    if name in _LISTS:
        if isinstance(value, (str, Mapping)):
            raise ConfigError(
                f"KubernetesCompute({name}={value!r}) is not a list", todo=f"write {name}=[...]"
            )
        return tuple(value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"KubernetesCompute({name}={value!r}) is not a mapping")
    return value


def _is_set(compute: KubernetesCompute, one: Any) -> bool:
    value = getattr(compute, one.name)
    return value != one.default and value not in ({}, ())
