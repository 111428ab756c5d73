"""What is known of a run that is followed: its tasks, what they returned, its gates; the reports are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from airflow_ml_provider.cli.conditions import Judged

FINAL_RUN = frozenset({"success", "failed"})
FINAL_TASK = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
AWAITING = "awaiting_input"


@dataclass(frozen=True)
class Task:
    """A task of the run, or one part of a mapped one."""

    task_id: str
    map_index: int
    state: str
    try_number: int
    seconds: float | None
    label: str = ""

    @property
    def name(self) -> str:
        """As people tell it from others."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.label or self.map_index}]"

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Task:
        """A task instance of Airflow's API."""
        return cls(
            task_id=document["task_id"],
            map_index=int(document.get("map_index", -1)),
            state=document.get("state") or "none",
            try_number=int(document.get("try_number") or 0),
            seconds=document.get("duration"),
            label=document.get("rendered_map_index") or "",
        )


@dataclass
class Story:
    """A run as far as it has been followed.

    :ivar found: whether the run was there already.
    :ivar state: Airflow's; empty before a run was asked for, "unknown" until Airflow has answered.
    :ivar outputs: what each task returned, by the task's name.
    :ivar logs: the last lines of each failed task, by the task's name.
    :ivar trouble: why the following ended before the run did; empty when the run has ended.
    """

    dag_id: str
    run_id: str
    url: str
    found: bool = False
    state: str = ""
    began: datetime | None = None
    seconds: float = 0.0
    tasks: Sequence[Task] = ()
    outputs: Mapping[str, Any] = field(default_factory=dict)
    logs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    gates: Sequence[Judged] = ()
    trouble: str = ""

    @property
    def failed_tasks(self) -> list[Task]:
        """Those that failed themselves, not for another's sake."""
        return [task for task in self.tasks if task.state == "failed"]

    @property
    def failed_gates(self) -> list[Judged]:
        """Those that were not met."""
        return [gate for gate in self.gates if not gate.passed]


def lasting(seconds: float) -> str:
    """A duration as people read it: 4.2 s, 3:07 min, 2:15:00 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"
