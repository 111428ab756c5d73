"""More memory for the next try of a step that ran out of it; noted in the store, beside the step's spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute import pod_end

if TYPE_CHECKING:
    from airflow_ml_provider.contract.store import Store

_NOTE = "memory.json"


def factor(folder: Store, growth: float) -> float:
    """By how much the memory of the next pod is raised."""
    if growth <= 1:
        return 1.0
    noted = folder.read_json(_NOTE) or {}
    return float(growth ** int(noted.get("times", 0)))


def note(folder: Store, growth: float, pod: Mapping[str, Any]) -> None:
    """That a pod ran out of memory; a pod counts once, however often it is looked at."""
    if growth <= 1:
        return
    noted, uid = folder.read_json(_NOTE) or {}, pod["metadata"].get("uid")
    if noted.get("pod") != uid:
        times = int(noted.get("times", 0)) + 1
        folder.write_json(_NOTE, {"times": times, "pod": uid, "limit": pod_end.memory_limit(pod)})
