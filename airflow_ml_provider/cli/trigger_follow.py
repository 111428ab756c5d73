"""Follows a run of Airflow until it ends, and reads what its tasks left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from airflow_ml_provider.cli.airflow_client import AirflowClient, path
from airflow_ml_provider.cli.trigger_log import last_lines
from airflow_ml_provider.cli.trigger_progress import Progress
from airflow_ml_provider.cli.trigger_story import FINAL_RUN, Story, Task
from airflow_ml_provider.contract.errors import ConfigError

# Logs of failed tasks, and outputs of a mapped task's parts, beyond these are not read.
MOST_LOGS = 5
MOST_OUTPUTS = 300
SHORTEST_POLL = 0.2


class StillRunning(Exception):
    """The time that the run was waited for is over."""


def follow(
    client: AirflowClient, story: Story, progress: Progress, *, poll: float, timeout: float | None
) -> None:
    """Follow the run until it has ended, keeping the story up to date.

    :param poll: seconds between two looks.
    :param timeout: seconds after which to give up; None for never.
    :raises StillRunning: the time is over and the run is not.
    :raises Unreachable: Airflow has not answered within the client's patience.
    """
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        look(client, story)
        failed = progress.tasks(story.tasks, lambda task: approval_page(client, story, task))
        _show_logs(client, story, progress, failed)
        now = time.monotonic()
        story.seconds = story.seconds or now - began
        if story.state in FINAL_RUN:
            # A log that is kept elsewhere is complete a moment after its task has ended.
            _show_logs(client, story, progress, story.failed_tasks)
            return
        # A run of many tasks takes an API server a while to list.
        pause = max(poll, SHORTEST_POLL, 2 * (now - asked))
        if timeout is not None and now + pause - began > timeout:
            raise StillRunning
        time.sleep(pause)


def look(client: AirflowClient, story: Story) -> None:
    """Bring the story up to date: the run first, so that the tasks of one that has ended have too."""
    run = client.run(story.dag_id, story.run_id)
    if run is None:
        raise ConfigError(f"the run {story.run_id} of {story.dag_id} is gone: somebody deleted it")
    story.state = run["state"]
    story.began = _moment(run.get("start_date") or run.get("queued_at"))
    story.seconds = float(run.get("duration") or 0.0)
    where = path("dags", story.dag_id, "dagRuns", story.run_id, "taskInstances")
    tasks = client.pages(where, "task_instances", params={"order_by": "id"})
    # In the order in which they began, those that have not begun last.
    tasks.sort(key=lambda task: (task.get("start_date") or "~", task["task_id"], task.get("map_index", -1)))
    story.tasks = [Task.of(task) for task in tasks]


def read_outputs(client: AirflowClient, story: Story, progress: Progress) -> dict[str, Any]:
    """What the tasks returned, by their names: our steps' manifests among them."""
    base = ("dags", story.dag_id, "dagRuns", story.run_id, "taskInstances")
    listed = client.pages(
        path(*base, "~", "xcomEntries"), "xcom_entries", params={"xcom_key": "return_value"}
    )
    has = {(entry["task_id"], entry["map_index"]) for entry in listed if entry["key"] == "return_value"}
    outputs: dict[str, Any] = {}
    for task in [task for task in story.tasks if (task.task_id, task.map_index) in has][:MOST_OUTPUTS]:
        where = path(*base, task.task_id, "xcomEntries", "return_value")
        params = {"deserialize": "true", "map_index": task.map_index}
        document, trouble = client.optional(where, params=params)
        if trouble:
            progress.say(f"warning: what {task.name} returned cannot be read: {trouble}")
        else:
            outputs[task.name] = document["value"]
    return outputs


def approval_page(client: AirflowClient, story: Story, task: Task) -> str:
    """Where people answer a task's question."""
    return client.link(story.dag_id, story.run_id, task.task_id) + "/required_actions"


def _show_logs(client: AirflowClient, story: Story, progress: Progress, tasks: Sequence[Task]) -> None:
    """Show the end of failed tasks' logs, again where there is more of it now."""
    for task in tasks:
        if task.name not in story.logs and len(story.logs) >= MOST_LOGS:
            continue
        lines = last_lines(client, story.dag_id, story.run_id, task)
        if lines != story.logs.get(task.name):
            story.logs = {**story.logs, task.name: lines}
            progress.block(f"the last lines of {task.name}:", lines)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
