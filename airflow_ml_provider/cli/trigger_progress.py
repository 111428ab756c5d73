"""What a person or a build server sees while a run is followed: a line a change, and a live line on a terminal."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

from airflow_ml_provider.cli.trigger_log import cleaned
from airflow_ml_provider.cli.trigger_story import AWAITING, FINAL_TASK, Task, lasting

# Parts of a mapped task beyond so many are told only when they fail.
TOLD_PARTS = 20
_SAID = {
    "upstream_failed": "not run: a task before it failed",
    "up_for_retry": "failed, is tried again",
    "up_for_reschedule": "waits",
    "deferred": "waits (deferred)",
    "removed": "removed from the DAG",
}
# A state before anything happens.
_SILENT = frozenset({"none", "scheduled", "queued", "restarting"})


class Progress:
    """Writes lines to a stream, and keeps one live line below them where the stream is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._began = time.monotonic()
        self._told: dict[tuple[str, int], tuple[str, int]] = {}

    def say(self, text: str) -> None:
        """A line of its own, with the time."""
        self._write(f"{time.strftime('%H:%M:%S')}  {cleaned(text)}\n")

    def block(self, title: str, lines: Iterable[str]) -> None:
        """Lines of a log; each is marked, so that none is taken for a command to the build server."""
        self._write("".join([f"{cleaned(title)}\n", *(f"  | {cleaned(line)}\n" for line in lines)]))

    def tasks(self, tasks: Sequence[Task], approval: Callable[[Task], str]) -> list[Task]:
        """Tell what has changed; gives the tasks that newly failed.

        :param approval: the page where a task's question is answered.
        """
        parts = Counter(task.task_id for task in tasks if task.map_index >= 0)
        failed = []
        for task in tasks:
            now = (task.state, task.try_number)
            at = (task.task_id, task.map_index)
            if self._told.get(at) == now:
                continue
            self._told[at] = now
            if task.state == "failed":
                failed.append(task)
            if task.state not in _SILENT and (parts[task.task_id] <= TOLD_PARTS or task.state == "failed"):
                self.say(f"{task.name:<24}  {_said(task, approval)}")
        self._show(tasks)
        return failed

    def close(self) -> None:
        """Take the live line away."""
        self._write("")

    def _show(self, tasks: Sequence[Task]) -> None:
        if not self._live:
            return
        done = sum(task.state in FINAL_TASK for task in tasks)
        now = [task.name for task in tasks if task.state in ("running", "deferred", AWAITING)]
        text = (
            f"{lasting(time.monotonic() - self._began)}  {done} of {len(tasks)} tasks done  {', '.join(now)}"
        )
        self._stream.write(f"\r\x1b[2K{cleaned(text)[: shutil.get_terminal_size().columns - 1]}")
        self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write(f"\r\x1b[2K{text}" if self._live else text)
        self._stream.flush()


def _said(task: Task, approval: Callable[[Task], str]) -> str:
    if task.state == AWAITING:
        return f"waits for an approval: {approval(task)}"
    said = _SAID.get(task.state, task.state)
    if task.try_number > 1 and task.state in ("running", "failed", "success"):
        said += f" (try {task.try_number})"
    ended = task.state in FINAL_TASK or task.state == "up_for_retry"
    return f"{said}  {lasting(task.seconds)}" if ended and task.seconds else said
