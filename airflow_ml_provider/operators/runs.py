"""Which Airflow run a step belongs to, as its spec tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.documents import RunOf
from airflow_ml_provider.contract.identity import step_key

if TYPE_CHECKING:
    from airflow.sdk import Context


def step_key_of(context: Context) -> str:
    """The step's identity: the same for all tries of a task instance."""
    ti = context["ti"]
    return step_key(ti.dag_id, ti.task_id, ti.run_id, _map_index(ti))


def run_of(context: Context) -> RunOf:
    """The names of the run; nothing in them changes with the try."""
    ti = context["ti"]
    return RunOf(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=_map_index(ti),
        partition_key=partition_key_of(context),
        url=str(getattr(ti, "log_url", "") or "").partition("?")[0] or None,
        triggered_by=triggered_by(context),
    )


def partition_key_of(context: Context) -> str | None:
    """The partition that Airflow runs the DAG for, if its schedule has partitions."""
    key = getattr(context.get("dag_run"), "partition_key", None)
    return str(key) if key is not None else None


def triggered_by(context: Context) -> str:
    """Who asked for the run: a user's name, or the kind of run."""
    run = context.get("dag_run")
    user = getattr(run, "triggering_user_name", None)
    kind: Any = getattr(run, "run_type", "")
    return str(user or getattr(kind, "value", kind) or "")


def bundle_of(context: Context) -> str | None:
    """The folder of the DAG bundle that the task was loaded from."""
    path = getattr(getattr(context["ti"], "bundle_instance", None), "path", None)
    return str(path) if path else None


def was_tried_before(context: Context) -> bool:
    """Whether an earlier try, or the task before it was cleared, may have done part of the work."""
    return int(getattr(context["ti"], "try_number", 1) or 1) > 1


def _map_index(ti: Any) -> int:
    index = getattr(ti, "map_index", None)
    return -1 if index is None else int(index)
