"""A backfill's plan and progress, for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from airflow_ml_provider.cli.backfill_document import Item, Plan
from airflow_ml_provider.contract.staleness import STATES

CAME_OF_IT = {
    "success": "done",
    "failed": "failed",
    "submitted": "running",
    "elsewhere": "left to another run",
    "": "not started",
}
_MOST_LINES = 40


def counts(items: Iterable[Item]) -> dict[str, int]:
    """How many partitions are missing, stale and fine."""
    found = Counter(item.state for item in items)
    return {state: found[state] for state in STATES}


def plan_text(plan: Plan, wave: int, *, all_lines: bool = False) -> str:
    """A plan for people: a line for each run of partitions that are alike."""
    found = counts(plan.items)
    choice = plan.choice
    lines = [
        f"{choice.dag_id} ({plan.kind}: {plan.schedule or 'no schedule'}), {choice.first} to {choice.last}, "
        f"{many(len(plan.items), 'partition')}: "
        + ", ".join(f"{count} {state}" for state, count in found.items()),
        "",
    ]
    groups = _groups(plan.items)
    shown = groups if all_lines else groups[:_MOST_LINES]
    wide = max((len(_span(group)) for group in shown), default=0)
    for group in shown:
        first = group[0]
        going = f" [the run {first.going} works on it]" if first.going else ""
        lines.append(f"  {_span(group):<{wide}}  {first.state:<7}  {first.why}{going}".rstrip())
    if len(shown) < len(groups):
        lines.append(f"  ... and {len(groups) - len(shown)} more lines (--all shows them)")
    lines += [
        "",
        f"to run ({', '.join(choice.only)}): {many(len(plan.todo), 'partition')}, {wave} at once, downstream events "
        f"{'muted' if choice.events == 'mute' else 'emitted'}; {_time(plan, wave)}",
    ]
    if 0 < plan.at_once < wave:
        lines.append(f"note: the DAG has at most {many(plan.at_once, 'run')} at once (max_active_runs)")
    lines += [f"note: {note}" for note in plan.notes]
    lines.append(f"plan {plan.plan_id}")
    return "\n".join(lines)


def status_text(plan: Plan, *, each: bool = True) -> str:
    """How far a plan is, in all and for each partition."""
    found = Counter(CAME_OF_IT[item.progress] for item in plan.todo)
    told = (
        ", ".join(f"{found[name]} {name}" for name in CAME_OF_IT.values() if found[name]) or "nothing to run"
    )
    lines = [
        f"plan {plan.plan_id}: {plan.choice.dag_id}, {plan.choice.first} to {plan.choice.last}, made {plan.made_at}",
        f"{many(len(plan.todo), 'partition')} to run: {told}",
    ]
    lines += [
        f"  {item.partition}  {CAME_OF_IT[item.progress]}  {item.run_id or item.going}"
        + (f"  {item.why}" if item.progress == "failed" else "")
        for item in (plan.todo if each else [])
    ]
    if plan.finished_at:
        lines.append(f"finished {plan.finished_at}")
    return "\n".join(lines)


def many(count: int, what: str) -> str:
    """A number of things: ``1 partition``, ``2 partitions``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _groups(items: Sequence[Item]) -> list[list[Item]]:
    groups: list[list[Item]] = []
    for item in items:
        last = groups[-1][-1] if groups else None
        if last is not None and (last.state, last.going, _alike(last)) == (
            item.state,
            item.going,
            _alike(item),
        ):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _alike(item: Item) -> str:
    """What is said of a partition, but for its own name and the versions that differ with it."""
    return re.sub(r"version \d+", "version", item.why.replace(item.partition, ""))


def _span(group: Sequence[Item]) -> str:
    return (
        group[0].partition
        if len(group) == 1
        else f"{group[0].partition} .. {group[-1].partition} ({len(group)})"
    )


def _time(plan: Plan, wave: int) -> str:
    known, count = plan.estimate, len(plan.todo)
    allowed = min(wave, plan.at_once or wave)
    seconds = known.of(count, allowed)
    if seconds is None:
        return "time unknown: no run has succeeded yet"
    spread = f"{_duration(known.shortest)} to {_duration(known.longest)}"
    return (
        f"about {_duration(seconds)} ({many(-(-count // allowed), 'wave')} of {_duration(known.median)}, the median "
        f"of {many(known.runs, 'past run')} that took {spread})"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
