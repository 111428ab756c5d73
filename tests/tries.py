"""A try of a task as Airflow's task runner and triggerer would run it, without either of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow.sdk.exceptions import TaskDeferred


class FakeTaskInstance(SimpleNamespace):
    """As much of Airflow's task instance as operators see."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, **_: Any) -> Any:
        return None


class Try:
    """A try of a task: each leg in a fresh operator, as in a fresh process; the trigger as after a restart."""

    def __init__(self, task: Any, number: int = 1, run_id: str = "manual__1") -> None:
        self.task, self.number = task, number
        self.ti = FakeTaskInstance(
            dag_id=task.dag_id, task_id=task.task_id, run_id=run_id, map_index=-1, try_number=number,
            log_url="http://airflow/x", bundle_instance=None, pushed={}, start_date=datetime.now(UTC), task=task,
        )  # fmt: skip
        self.running: Any = None
        self.deferrals = 0

    def leg(self, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """In a worker: to the end, or to a deferral."""
        from airflow.sdk.execution_time.context import OutletEventAccessors

        self.running = self.task.prepare_for_execution()
        self.ti.task = self.running
        dag_run = SimpleNamespace(
            partition_key=None, triggering_user_name=None, run_type="manual", run_id=self.ti.run_id
        )
        context: Any = {
            "ti": self.ti, "task_instance": self.ti, "task": self.running, "dag": self.task.dag, "dag_run": dag_run,
            "run_id": self.ti.run_id, "params": {}, "outlet_events": OutletEventAccessors(), "expanded_ti_count": None,
        }  # fmt: skip
        output: dict[str, Any]
        if event is None:
            self.running.render_template_fields(context)
            output = self.running.execute(context)
        else:
            output = self.running.execute_complete(context, event=event)
        return output

    def to_the_end(self, meanwhile: Callable[[Any], None] | None = None) -> dict[str, Any]:
        """Through all deferrals; ``meanwhile`` is told each trigger before it waits."""
        event: dict[str, Any] | None = None
        while True:
            try:
                return self.leg(event)
            except TaskDeferred as deferred:
                self.deferrals += 1
                if meanwhile is not None:
                    meanwhile(deferred.trigger)
                event = fired(deferred.trigger)

    def deferred(self) -> Any:
        """To its first deferral; gives the trigger."""
        try:
            self.leg()
        except TaskDeferred as deferred:
            self.deferrals += 1
            return deferred.trigger
        raise AssertionError("the task did not defer")


def fired(trigger: Any) -> dict[str, Any]:
    """What a trigger says, after a journey through the database."""
    return asyncio.run(first_event(restarted(trigger)))


def restarted(trigger: Any) -> Any:
    """The trigger as another triggerer has it."""
    from airflow.sdk.module_loading import import_string
    from airflow.sdk.serde import deserialize, serialize

    path, kwargs = trigger.serialize()
    return import_string(path)(**deserialize(serialize(kwargs)))


async def first_event(trigger: Any) -> dict[str, Any]:
    async for event in trigger.run():
        payload: dict[str, Any] = event.payload
        return payload
    raise AssertionError("the trigger ended without an event")


def ended_by_a_user(trigger: Any) -> None:
    """What a triggerer does with a trigger whose task somebody ended."""

    async def end() -> None:
        running = restarted(trigger)
        waiting = asyncio.create_task(anext(running.run()))
        await asyncio.sleep(1)
        waiting.cancel()
        await running.on_kill()

    asyncio.run(end())
