"""The last lines of a task's log, as people and build servers can read them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow_ml_provider.cli.airflow_client import AirflowClient, path
from airflow_ml_provider.cli.trigger_story import Task

LAST_LINES = 30
LONGEST_LINE = 500
_FRAMES = 4
# Airflow's own folding of its page.
_MARKS = ("::group::", "::endgroup::")
_AIRFLOW = "/site-packages/airflow/"
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def last_lines(
    client: AirflowClient, dag_id: str, run_id: str, task: Task, most: int = LAST_LINES
) -> list[str]:
    """The end of the log of a task's last try; a line that says so where there is none."""
    where = path(
        "dags", dag_id, "dagRuns", run_id, "taskInstances", task.task_id, "logs", str(task.try_number)
    )
    params = {"full_content": "true", "map_index": task.map_index}
    document, trouble = client.optional(where, params=params)
    if trouble:
        return [f"(the log cannot be read: {trouble})"]
    return lines_of((document or {}).get("content") or [])[-most:]


def lines_of(content: Sequence[Any]) -> list[str]:
    """A log of Airflow's API as lines: texts, or records whose exception is in a field of its own."""
    lines: list[str] = []
    for record in content:
        if isinstance(record, Mapping):
            lines += str(record.get("event", "")).splitlines()
            lines += _exceptions(record.get("error_detail"))
        else:
            lines += str(record).splitlines()
    return [cleaned(line) for line in lines if line.strip() and not line.startswith(_MARKS)]


def cleaned(line: str) -> str:
    """A line without terminal codes, and without what a build server would take for a command of its own."""
    plain = _TERMINAL.sub("", line).replace("##[", "# #[")
    return plain if len(plain) <= LONGEST_LINE else f"{plain[:LONGEST_LINE]} ..."


def _exceptions(detail: Any) -> Iterator[str]:
    for error in detail if isinstance(detail, list) else ():
        if not isinstance(error, Mapping):
            continue
        # The first frames are Airflow's own; the last ones are where it happened.
        frames = [frame for frame in error.get("frames") or [] if _AIRFLOW not in str(frame.get("filename"))]
        for frame in frames[-_FRAMES:]:
            yield f'  File "{frame.get("filename")}", line {frame.get("lineno")}, in {frame.get("name")}'
        yield from f"{error.get('exc_type')}: {error.get('exc_value')}".splitlines()
        for note in error.get("exc_notes") or ():
            yield from str(note).splitlines()
