"""What the Airflow side asks of the Kubernetes API, and why: the Role in helm/ grants exactly this.

Steps themselves ask nothing of it: their service account needs no permission at all.
"""

from __future__ import annotations

from typing import NamedTuple


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
