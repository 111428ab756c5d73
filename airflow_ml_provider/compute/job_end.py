"""How far a Job is, and how it ended: from its status, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ml_provider.compute import pod_end


@dataclass(frozen=True)
class Progress:
    """A Job at one moment.

    :param indexes: how many it has to run.
    :param suspended: why it does not run; empty if it may.
    :param ended: how it ended; empty while it has not.
    """

    exists: bool = True
    indexes: int = 0
    succeeded: int = 0
    failed: int = 0
    ready: int = 0
    active: int = 0
    suspended: str = ""
    ended: str = ""
    over: bool = False

    @property
    def stands_still(self) -> bool:
        """Whether it may run, and no pod of it does or ever did."""
        return self.exists and not (
            self.suspended or self.over or self.ready or self.succeeded or self.failed
        )

    def __str__(self) -> str:
        if not self.exists:
            return "it is gone"
        counts = f"{self.succeeded:,} of {self.indexes:,} indexes done"
        if self.failed:
            counts += f", {self.failed:,} failed"
        if self.suspended:
            return f"{counts}; {self.suspended}"
        if self.over:
            return f"{counts}; {self.ended}"
        return f"{counts}, {self.ready:,} running, {max(0, self.active - self.ready):,} starting"


def progress_of(job: Mapping[str, Any] | None, queue: str = "") -> Progress:
    """A Job's progress; one that is not there is over."""
    if job is None:
        return Progress(exists=False)
    spec, status = job.get("spec") or {}, job.get("status") or {}
    conditions = [each for each in status.get("conditions") or [] if each.get("status") == "True"]
    final = next((each for each in conditions if each.get("type") in ("Complete", "Failed")), None)
    ended = ""
    if final is not None:
        ended = (
            "complete" if final["type"] == "Complete" else f"{final.get('reason')}: {final.get('message')}"
        )
    suspended = ""
    if spec.get("suspend"):
        suspended = (
            f"it waits in the queue {queue!r} until Kueue admits it"
            if queue
            else "it is suspended by somebody"
        )
    return Progress(
        indexes=int(spec.get("completions") or 0),
        succeeded=int(status.get("succeeded") or 0),
        failed=_count(status.get("failedIndexes") or ""),
        ready=int(status.get("ready") or 0),
        active=int(status.get("active") or 0),
        suspended=suspended,
        ended=ended,
        over=final is not None,
    )


def failures_of(pods: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Why pods failed that could not say so themselves, and how many of them."""
    found: dict[str, int] = {}
    for pod in pods:
        error = pod_end.end_of(pod).error
        if error is not None:
            why = error.what.partition("' in namespace ")[2].partition("' ")[2] or error.what
            found[why] = found.get(why, 0) + 1
    return found


def owner_of(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """A pod as if it were its Job."""
    job: Mapping[str, Any] = next(iter(pod["metadata"].get("ownerReferences") or []), {})
    return {**pod, "metadata": {**pod["metadata"], "uid": job.get("uid")}}


def _count(indexes: str) -> int:
    """How many are in ``"1,3-5"``."""
    total = 0
    for part in filter(None, indexes.split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total
