"""A task's ``execution_timeout``, which Airflow itself does not apply while a task is deferred."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Context

_AFTER = 600


def time_limit(context: Context) -> int | None:
    """The seconds that the task may take, all its deferrals together."""
    timeout = getattr(context.get("task"), "execution_timeout", None)
    return int(timeout.total_seconds()) if timeout else None


def last_resort(context: Context) -> int | None:
    """When Kubernetes ends what the task started, should nobody else: ten minutes after its time."""
    limit = time_limit(context)
    return limit + _AFTER if limit else None


def ends_at(context: Context) -> float | None:
    """When they are over, in seconds since 1970."""
    limit, began = time_limit(context), context["ti"].start_date
    return began.timestamp() + limit if limit and began else None
