"""Plans a backfill: which partitions are missing, stale or fine, and why."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from airflow_ml_provider.cli.airflow_client import AirflowClient
from airflow_ml_provider.cli.backfill_document import PARTITION, Choice, Estimate, Item, Plan, now
from airflow_ml_provider.cli.backfill_evidence import ACTIVE, Dag, Evidence, dag_of, evidence_of
from airflow_ml_provider.cli.backfill_partitions import Slot, slots
from airflow_ml_provider.cli.backfill_present import World, made_by
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.staleness import Difference, Judgement, Made, Present, judge, worst
from airflow_ml_provider.contract.store import Store

_TIMED_RUNS = 100


def make_plan(client: AirflowClient, store: Store, choice: Choice, code: Iterable[str] = ()) -> Plan:
    """Judge every partition of the range."""
    dag = dag_of(client, choice.dag_id)
    if dag.kind in ("asset", "manual") and PARTITION not in str(choice.conf):
        raise ConfigError(
            f"the runs of {dag.dag_id} have neither a partition key nor a date, so they must be told their "
            "partition by a parameter",
            kept="nothing was started",
            todo=f"name it: --param day={PARTITION}",
        )
    wanted = slots(choice.first, choice.last, choice.step, choice.key_format, dag.zone)
    world = World(store, code, choice.ignore)
    evidence = evidence_of(client, store, dag, wanted, world.table)
    found = judgements(evidence, world, wanted, choice)
    items = [_item(slot, found[slot.key], evidence) for slot in wanted]
    return Plan(
        plan_id=choice.plan_id(),
        choice=choice,
        kind=dag.kind,
        schedule=dag.schedule,
        at_once=dag.at_once,
        made_at=now(),
        items=items,
        estimate=_estimate(evidence),
        notes=[*world.notes, *_notes(evidence, dag)],
    )


def judgements(
    evidence: Evidence, world: World, wanted: Sequence[Slot], choice: Choice
) -> dict[str, Judgement]:
    """What each partition is."""
    if not evidence.newest:
        return {slot.key: _by_run(evidence.runs[slot.key]) for slot in wanted}
    found: dict[str, list[Judgement]] = {slot.key: [] for slot in wanted}
    for task_id, newest in sorted(evidence.newest.items()):
        seen = {key: tasks[task_id] for key, tasks in evidence.seen.items() if task_id in tasks}
        made = {key: made_by(one, key) for key, one in seen.items()}
        present = Present(
            settings=world.settings(newest),
            tables=world.tables(made.values()),
            models=world.models(made.values(), newest),
        )
        varying = _varying(made.values())
        if varying:
            world.notes[
                f"{task_id}: {', '.join(varying)} differs in every partition, and is not compared"
            ] = None
        for slot in wanted:
            one = seen.get(slot.key)
            if one is not None and one.result.status == "skipped":
                told = Difference("run", f"{task_id} had nothing to do: {one.result.reason}")
                found[slot.key].append(Judgement("missing", (told,)))
                continue
            judged = judge(
                made.get(slot.key), present, strict=choice.strict, ignore={*choice.ignore, *varying}
            )
            found[slot.key].append(_named(judged, task_id))
    return {key: worst(several) for key, several in found.items()}


def _named(judgement: Judgement, task_id: str) -> Judgement:
    if judgement.state == "missing":
        return Judgement("missing", (Difference("run", f"{task_id} has not made it"),))
    told = tuple(
        msgspec.structs.replace(each, why=f"{task_id}: {each.why}") for each in judgement.differences
    )
    return Judgement(judgement.state, told)


def _by_run(runs: list[dict[str, Any]]) -> Judgement:
    """Of a DAG without steps only its runs tell."""
    ended = [run for run in runs if run["state"] not in ACTIVE]
    if ended and ended[-1]["state"] == "success":
        return Judgement("fine")
    told = f"its last run {runs[-1]['dag_run_id']} is {runs[-1]['state']}" if runs else "it was never run"
    return Judgement("missing", (Difference("run", told),))


def _item(slot: Slot, judged: Judgement, evidence: Evidence) -> Item:
    runs = evidence.runs[slot.key]
    going = next((str(run["dag_run_id"]) for run in runs if run["state"] in ACTIVE), "")
    why = judged.why
    if judged.state == "missing" and not runs:
        why = "it was never run"
    elif judged.state == "missing" and runs[-1]["state"] == "failed":
        why = f"{why}; its last run {runs[-1]['dag_run_id']} failed" if evidence.newest else why
    return Item(slot.key, slot.start, slot.end, judged.state, why, going)


def _varying(made: Iterable[Made]) -> list[str]:
    """Settings that a template fills in otherwise for every partition: that they differ tells nothing."""
    several = list(made)
    if len(several) < 3:
        return []
    names = sorted({name for one in several for name in one.settings})
    return [
        name
        for name in names
        if len({document_digest(one.settings.get(name)) for one in several}) == len(several)
        and name not in ("code", "package")
    ]


def _estimate(evidence: Evidence) -> Estimate:
    spent = [
        (datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])).total_seconds()
        for run in evidence.all_runs
        if run["state"] == "success" and run.get("start_date") and run.get("end_date")
    ][-_TIMED_RUNS:]
    return Estimate(len(spent), statistics.median(spent), min(spent), max(spent)) if spent else Estimate()


def _notes(evidence: Evidence, dag: Dag) -> list[str]:
    if evidence.newest or not evidence.all_runs:
        return []
    return [f"none of {dag.dag_id}'s tasks left a step's result, so only its runs tell what is there"]
