"""Which Airflow run a step belongs to, as its spec tells it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.documents import RunOf
from airflow_ml_provider.contract.identity import step_key

if TYPE_CHECKING:
    from airflow.sdk import Context

_BY_ITSELF = {"scheduled": "schedule", "backfill": "backfill"}
# MLflow's tags hold more, and nobody reads more.
_LONGEST_REASON = 1_000


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
        reason=reason_of(context),
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


def reason_of(context: Context) -> str:
    """Why the DAG run exists: what the events say that triggered it, "schedule", "backfill" or "by <user>".

    A param named ``reason`` is added, as somebody who triggers the DAG by hand gives it.
    """
    kind = getattr(getattr(context.get("dag_run"), "run_type", ""), "value", None) or str(
        getattr(context.get("dag_run"), "run_type", "")
    )
    by = triggered_by(context)
    if told := list(_told(context)):
        why = "; ".join(dict.fromkeys(told))
    elif kind in _BY_ITSELF:
        why = _BY_ITSELF[kind]
    else:
        why = f"by {by}" if by and by != kind else "by hand" if kind == "manual" else kind.replace("_", " ")
    given = context.get("params")
    added = given.get("reason") if isinstance(given, Mapping) else None
    said = f"{why}: {added}" if isinstance(added, str) and added.strip() else why
    return said if len(said) <= _LONGEST_REASON else f"{said[: _LONGEST_REASON - 1]}…"


def _told(context: Context) -> Iterator[str]:
    """What triggering events say: their reasons, or which assets they are of."""
    for asset, events in (context.get("triggering_asset_events") or {}).items():
        for event in events:
            extra = getattr(event, "extra", None) or {}
            # An event that a watcher told has the facts of the announcement one level below.
            facts = extra.get("payload") if extra.get("from_trigger") else extra
            facts = facts if isinstance(facts, Mapping) else {}
            verdict = facts.get("verdict")
            within = verdict.get("reasons") if isinstance(verdict, Mapping) else None
            reasons = facts.get("reasons") or within
            if not isinstance(reasons, (list, tuple)):
                reasons = [reasons] if reasons else []
            about = f"{asset.name} {facts['partitions']}" if facts.get("partitions") else str(asset.name)
            yield f"{about}: {'; '.join(map(str, reasons))}" if reasons else about


def bundle_of(context: Context) -> str | None:
    """The folder of the DAG bundle that the task was loaded from."""
    path = getattr(getattr(context["ti"], "bundle_instance", None), "path", None)
    return str(path) if path else None


def clearing_of(context: Context) -> int:
    """A number that is another one after the task was cleared, and the same over its retries."""
    return int(getattr(context["ti"], "max_tries", 0) or 0)


def was_tried_before(context: Context) -> bool:
    """Whether an earlier try, or the task before it was cleared, may have done part of the work."""
    return int(getattr(context["ti"], "try_number", 1) or 1) > 1


def _map_index(ti: Any) -> int:
    index = getattr(ti, "map_index", None)
    return -1 if index is None else int(index)
