"""Carries a plan out: at most so many runs at once, each found again by its id, however often this is started."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec

from airflow_ml_provider.cli.airflow_answers import Refused
from airflow_ml_provider.cli.airflow_client import AirflowClient, path
from airflow_ml_provider.cli.backfill_document import PARTITION, Item, Plan, now, save
from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.store import Store

# As operators/events.py reads it from the run's conf.
MUTE = "mute_events"
_OTHER_DATES = 60


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How hard a backfill may push.

    :param wave: runs at once.
    :param max_failures: failed runs after which no further one is started.
    :param poll: seconds between two looks at the runs.
    """

    wave: int = 5
    max_failures: int = 3
    retry_failed: bool = False
    poll: float = 3.0


def body_of(plan: Plan, item: Item, later: int = 0) -> dict[str, Any]:
    """What is posted to start the run of a partition.

    A logical date belongs to one run of a DAG: where the scheduled run has it, this one's is ``later`` seconds
    later, with the data interval of the partition all the same.
    """
    conf = {name: _filled(value, item.partition) for name, value in plan.choice.conf.items()}
    if plan.choice.events == "mute":
        conf[MUTE] = True
    if plan.reason:
        # Where a step looks for why its run exists.
        conf.setdefault("reason", f"backfill {plan.plan_id}: {plan.reason}")
    body: dict[str, Any] = {
        "dag_run_id": plan.run_id(item.partition),
        "logical_date": None,
        "conf": conf,
        "note": f"backfill {plan.plan_id}: {plan.reason or item.why or item.state}"[:1000],
    }
    if plan.kind == "partitioned":
        body["partition_key"] = item.partition
    elif plan.kind == "time":
        body["logical_date"] = (item.start + timedelta(seconds=later)).isoformat()
        body["data_interval_start"] = item.start.isoformat()
        body["data_interval_end"] = item.end.isoformat()
    return body


class Backfill:
    """A plan being carried out."""

    def __init__(
        self, client: AirflowClient, store: Store, plan: Plan, limits: Limits, say: Callable[[str], None]
    ) -> None:
        self.client = client
        self.store = store
        self.plan = plan
        self.limits = limits
        self.say = say
        self._failed_before = 0

    def carry_out(self) -> str:
        """Start what is to be run, wave by wave, and wait for it; gives why it stopped early, empty if it did not.

        Ended in the middle, nothing is lost: the plan says what was started, and starting a run again finds it.
        """
        self._begin()
        while True:
            if self.look():
                save(self.store, self.plan)
            running, paused = self._in("submitted"), is_paused(self.client, self.plan.choice.dag_id)
            stopped = self._why_stop(paused)
            waiting = [] if stopped else self._in("")
            if not waiting and (paused or not running):
                break
            for item in waiting[: max(0, self.limits.wave - len(running))]:
                self._start(item)
                save(self.store, self.plan)
            time.sleep(self.limits.poll)
        left = self._in("") or self._in("submitted")
        if not left and not self._in("failed"):
            self.plan.finished_at = now()
        save(self.store, self.plan)
        return stopped if left else ""

    def look(self) -> bool:
        """Ask how the runs that were started are; whether anything changed."""
        changed = False
        for item in self._in("submitted"):
            run = self.client.run(self.plan.choice.dag_id, item.run_id)
            if run is None:
                item.progress, item.why = "failed", "its run was deleted in Airflow"
            elif run["state"] == "success":
                item.progress = "success"
            elif run["state"] == "failed":
                item.progress, item.why = "failed", f"its run {item.run_id} failed"
            else:
                continue
            changed = True
            ended = sum(one.progress not in ("", "submitted") for one in self.plan.todo)
            self.say(f"{item.partition}: {item.progress} ({ended} of {len(self.plan.todo)} ended)")
        return changed

    def _begin(self) -> None:
        for item in self._in(""):
            if item.going and item.going != self.plan.run_id(item.partition):
                item.progress = "elsewhere"
                self.say(f"{item.partition}: left to the run {item.going}, which works on it already")
        if self.limits.retry_failed:
            for item in self._in("failed"):
                self._again(item)
        self._failed_before = len(self._in("failed"))
        save(self.store, self.plan)

    def _start(self, item: Item) -> None:
        dag_id, run_id = self.plan.choice.dag_id, self.plan.run_id(item.partition)
        for later in range(_OTHER_DATES):
            body = body_of(self.plan, item, later)
            try:
                # The id is the run's own, so that sending it again when the answer is lost doubles nothing.
                self.client.call("POST", path("dags", dag_id, "dagRuns"), json=body, repeatable=True)
                self.say(f"{item.partition}: started {run_id}")
                break
            except Refused as refused:
                if refused.status != 409:
                    raise
                if self.client.run(dag_id, run_id) is not None:
                    self.say(f"{item.partition}: {run_id} was started before")
                    break
                if body["logical_date"] is None:
                    raise
        else:
            raise InfrastructureError(
                f"Airflow has a run of {dag_id} for every second from {item.start.isoformat()} on",
                kept="the runs that were started go on",
            )
        item.run_id, item.logical_date, item.progress = run_id, body["logical_date"] or "", "submitted"

    def _again(self, item: Item) -> None:
        """Have a failed run's tasks run again, in the same run."""
        dag_id = self.plan.choice.dag_id
        if self.client.run(dag_id, item.run_id) is None:
            item.progress = ""
            return
        self.client.call(
            "POST",
            path("dags", dag_id, "dagRuns", item.run_id, "clear"),
            json={"dry_run": False, "only_failed": True},
            repeatable=True,
        )
        item.progress = "submitted"
        self.say(f"{item.partition}: its failed tasks run again in {item.run_id}")

    def _why_stop(self, paused: bool) -> str:
        failed = len(self._in("failed")) - self._failed_before
        if failed >= self.limits.max_failures > 0:
            return f"{failed} runs failed, so no further one is started (--max-failures {self.limits.max_failures})"
        if paused:
            return f"the DAG {self.plan.choice.dag_id} is paused: its runs would wait, and those started do"
        return ""

    def _in(self, progress: str) -> list[Item]:
        return [item for item in self.plan.todo if item.progress == progress]


def is_paused(client: AirflowClient, dag_id: str) -> bool:
    """Whether a DAG is paused."""
    return bool(client.call("GET", path("dags", dag_id))["is_paused"])


def _filled(value: Any, partition: str) -> Any:
    if isinstance(value, str):
        return value.replace(PARTITION, partition)
    if isinstance(value, dict):
        return {name: _filled(inner, partition) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, partition) for inner in value]
    return value
