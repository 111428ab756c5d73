"""What the Airflow side asks of the Kubernetes API, and why: the Role in helm/ grants exactly this, and what Spark
needs where its values say so.

Steps themselves ask nothing of it: their service account needs no permission at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airflow_ml_provider.compute.spark_kubernetes import SparkKubernetesCompute

if TYPE_CHECKING:
    from airflow_ml_provider.compute.kubernetes import KubernetesCompute


class Permission(NamedTuple):
    """One rule of a Role.

    :param group: API group, "" for the core.
    :param resource: resource or resource/subresource.
    :param verbs: as RBAC spells them.
    :param why: what they are needed for.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str


PERMISSIONS: tuple[Permission, ...] = (
    Permission("", "pods", ("create", "get", "list", "patch", "delete"), "steps run as pods"),
    Permission("", "pods/log", ("get",), "a step's output goes to the task log"),
    Permission("", "events", ("list", "watch"), "why a pod does not start"),
    Permission("", "secrets", ("create", "get", "delete"), "credentials of one pod, owned by it"),
    Permission("batch", "jobs", ("create", "get", "patch", "delete"), "fleets run as Indexed Jobs"),
)
# In addition, with a SparkKubernetesCompute.
SPARK_PERMISSIONS: tuple[Permission, ...] = (
    Permission(
        "sparkoperator.k8s.io",
        "sparkapplications",
        ("create", "get", "patch", "delete"),
        "steps run as applications of the Spark operator",
    ),
)


def needed_by(compute: KubernetesCompute) -> tuple[Permission, ...]:
    """All that steps of a compute need."""
    spark = isinstance(compute, SparkKubernetesCompute)
    return (*PERMISSIONS, *(SPARK_PERMISSIONS if spark else ()))
