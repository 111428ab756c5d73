"""What a backfill says: at the end: what was asked for against what is there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import msgspec

from airflow_ml_provider.cli.airflow_client import AirflowClient
from airflow_ml_provider.cli.backfill_document import Plan, now
from airflow_ml_provider.cli.backfill_text import CAME_OF_IT, counts, many


class Events(msgspec.Struct, frozen=True):
    """Asset events of a backfill's runs.

    :param assets: asset to the DAGs that are scheduled on it.
    :param emitted: task to how many events Airflow recorded of these runs.
    """

    choice: str
    assets: dict[str, list[str]] = {}
    emitted: dict[str, int] = {}


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, what came of it, and what is there now."""

    plan_id: str
    dag_id: str
    first: str
    last: str
    reason: str
    at: str
    asked: int
    progress: dict[str, list[str]]
    before: dict[str, int]
    now: dict[str, int]
    unexpected: dict[str, str]
    stopped: str
    events: Events
    notes: list[str]

    @property
    def as_planned(self) -> bool:
        """Whether everything asked for was done and is fine now."""
        return not self.unexpected and not self.stopped and self.asked == len(self.progress.get("done", ()))


def reconcile(client: AirflowClient, plan: Plan, again: Plan, stopped: str = "") -> Reconciliation:
    """Compare a plan that was carried out with the same plan made again."""
    after = {item.partition: item for item in again.items}
    progress: dict[str, list[str]] = {}
    for item in plan.todo:
        progress.setdefault(CAME_OF_IT[item.progress], []).append(item.partition)
    unexpected = {}
    for item in plan.todo:
        left = after.get(item.partition)
        if left is not None and left.state != "fine":
            came = CAME_OF_IT[item.progress]
            unexpected[item.partition] = f"{came}, and {left.state} now: {left.why or item.why}".rstrip(": ")
        elif item.progress in ("failed", ""):
            unexpected[item.partition] = f"{CAME_OF_IT[item.progress]}{': ' if item.why else ''}{item.why}"
    return Reconciliation(
        plan_id=plan.plan_id,
        dag_id=plan.choice.dag_id,
        first=plan.choice.first,
        last=plan.choice.last,
        reason=plan.reason,
        at=now(),
        asked=len(plan.todo),
        progress=progress,
        before=counts(plan.items),
        now=counts(again.items),
        unexpected=unexpected,
        stopped=stopped,
        events=events_of(client, plan),
        notes=again.notes,
    )


def events_of(client: AirflowClient, plan: Plan) -> Events:
    """The asset events that the plan's runs emitted, and who is scheduled on their assets."""
    dag_id = plan.choice.dag_id
    assets = {}
    for asset in client.pages("/assets", "assets", params={"dag_ids": [dag_id]}):
        if any(task["dag_id"] == dag_id for task in asset["producing_tasks"]):
            assets[str(asset["name"])] = sorted(each["dag_id"] for each in asset["scheduled_dags"])
    own = {item.run_id for item in plan.items if item.run_id}
    found = client.pages(
        "/assets/events", "asset_events", params={"source_dag_id": dag_id, "timestamp_gte": plan.made_at}
    )
    emitted = Counter(str(event["source_task_id"]) for event in found if event["source_run_id"] in own)
    return Events(plan.choice.events, assets, dict(sorted(emitted.items())))


def report_lines(found: Reconciliation) -> list[tuple[str, str]]:
    """The reconciliation as names and values."""
    done = {name: found.progress.get(name, []) for name in CAME_OF_IT.values()}
    lines = [
        ("asked for", f"{many(found.asked, 'partition')} of {found.dag_id}, {found.first} to {found.last}"),
        *((name, _list(keys)) for name, keys in done.items() if keys),
        ("before", _states(found.before)),
        ("now", _states(found.now)),
        ("downstream events", _events(found.events)),
    ]
    if found.reason:
        lines.insert(1, ("reason", found.reason))
    if found.stopped:
        lines.append(("stopped", found.stopped))
    return lines


def report_text(found: Reconciliation) -> str:
    """The reconciliation for a terminal."""
    lines = [f"reconciliation of the backfill {found.plan_id}"]
    lines += [f"  {name}: {value}" for name, value in report_lines(found)]
    if found.unexpected:
        lines.append("  not as planned:")
        lines += [f"    {key}: {why}" for key, why in found.unexpected.items()]
        if found.progress.get("failed"):
            lines.append("  next: run with --retry-failed (the same runs), or with --afresh (a new plan)")
    else:
        lines.append(
            "  everything came out as planned" if found.as_planned else "  nothing else is known to be wrong"
        )
    return "\n".join(lines)


def report_markdown(found: Reconciliation) -> str:
    """The reconciliation as Markdown."""
    lines = [f"## Backfill {_escaped(found.plan_id)}", "", "| | |", "| --- | --- |"]
    lines += [f"| {_escaped(name)} | {_escaped(value)} |" for name, value in report_lines(found)]
    if found.unexpected:
        lines += ["", "### Not as planned", "", "| partition | |", "| --- | --- |"]
        lines += [f"| {_escaped(key)} | {_escaped(why)} |" for key, why in found.unexpected.items()]
    return "\n".join([*lines, ""])


def _states(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in found.items())


def _list(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:10])
    return f"{len(keys)} ({shown}{', ...' if len(keys) > 10 else ''})"


def _events(events: Events) -> str:
    total = sum(events.emitted.values())
    by = ", ".join(f"{count} by {task}" for task, count in events.emitted.items())
    waiting = sorted({dag for dags in events.assets.values() for dag in dags})
    if events.choice == "emit":
        return (
            f"emitted: {total}{f' ({by})' if by else ''}; scheduled on them: {', '.join(waiting) or 'nobody'}"
        )
    told = f"muted: not told to {', '.join(waiting) or 'anybody, since nobody is scheduled on them'}"
    if assets := ", ".join(sorted(events.assets)):
        told += f" (assets {assets})"
    return (
        f"{told}; {total} were emitted all the same, by tasks that cannot be muted: {by}" if total else told
    )


def _escaped(text: str) -> str:
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#])", r"\\\1", plain)
