"""What a DAG has made of each partition so far: its runs, by Airflow, and what their steps left in the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Literal

import msgspec

from airflow_ml_provider.cli.airflow_client import AirflowClient, path
from airflow_ml_provider.cli.backfill_partitions import Slot
from airflow_ml_provider.contract.documents import StepResult, read_result, read_spec
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.identity import step_key
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.contract.staleness import TableNow
from airflow_ml_provider.contract.store import Store

Kind = Literal["partitioned", "time", "asset", "manual"]
ACTIVE = frozenset({"queued", "running"})
_AT_ONCE = 16
# A task without a document in so many of the newest runs is no step of ours.
_LOOKED_AT = 5


class Dag(msgspec.Struct, frozen=True):
    """What Airflow says about a DAG.

    :param kind: how its runs are told their partition: by key, by logical date, or only by their parameters.
    :param at_once: how many runs it may have at once; 0 for no limit.
    :param tasks: task id to whether it is mapped.
    """

    dag_id: str
    kind: Kind
    schedule: str
    zone: str
    at_once: int
    tasks: dict[str, bool]


class Seen(msgspec.Struct, frozen=True):
    """What a task made in a run."""

    task_id: str
    run_id: str
    at: str
    result: StepResult
    partitions: tuple[str, ...]

    @property
    def key(self) -> str:
        """The step's folder in the store."""
        return self.result.step_key


class Evidence(msgspec.Struct):
    """All that is known of the partitions.

    :param runs: partition to the runs that were for it, the oldest first.
    :param seen: partition to task to what it made last; tasks that work on partitions only, if there are any.
    :param newest: task to what it made last, for whichever partition.
    """

    runs: dict[str, list[dict[str, Any]]]
    seen: dict[str, dict[str, Seen]]
    newest: dict[str, Seen]
    all_runs: list[dict[str, Any]]


def dag_of(client: AirflowClient, dag_id: str) -> Dag:
    """Ask Airflow about a DAG.

    :raises ConfigError: there is none of this id, or it cannot be parsed.
    """
    found = client.call("GET", path("dags", dag_id, "details"))
    if found.get("has_import_errors"):
        raise ConfigError(
            f"Airflow cannot parse the file of the DAG {dag_id!r} at present", todo="mend it first"
        )
    kind: Kind = "manual"
    if found["timetable_partitioned"]:
        kind = "partitioned"
    elif found["timetable_periodic"]:
        kind = "time"
    elif found.get("asset_expression"):
        kind = "asset"
    tasks = client.call("GET", path("dags", dag_id, "tasks"))["tasks"]
    return Dag(
        dag_id,
        kind,
        found.get("timetable_summary") or found.get("timetable_description") or "",
        found.get("timezone") or "UTC",
        int(found.get("max_active_runs") or 0),
        {task["task_id"]: bool(task["is_mapped"]) for task in tasks},
    )


def evidence_of(
    client: AirflowClient,
    store: Store,
    dag: Dag,
    wanted: Sequence[Slot],
    table_of: Callable[[str], TableNow | None],
) -> Evidence:
    """Look up what was made of the wanted partitions.

    :param table_of: a table's log in short; what runs made that Airflow has forgotten is found by it.
    :raises MLError: a document cannot be read; unknown is not absent.
    """
    runs = client.pages(path("dags", dag.dag_id, "dagRuns"), "dag_runs", params={"order_by": "id"})
    runs.sort(key=moment_of)
    made = _made(client, store, dag, runs)
    by_run: dict[str, list[Seen]] = defaultdict(list)
    for one in made:
        by_run[one.run_id].append(one)
    found = Evidence({slot.key: [] for slot in wanted}, {slot.key: {} for slot in wanted}, {}, runs)
    partitioned = {one.task_id for one in made if one.partitions}
    for run in runs:
        own = by_run.get(run["dag_run_id"], [])
        covered = _covered(run, own, wanted)
        for key in covered:
            found.runs[key].append(run)
        for one in own:
            if partitioned and one.task_id not in partitioned:
                continue
            found.newest[one.task_id] = one
            for key in one.partitions or covered:
                if key in found.seen:
                    found.seen[key][one.task_id] = one
    _add_forgotten(store, dag, found, table_of)
    return found


def moment_of(run: dict[str, Any]) -> str:
    """When a run ended, or began, or was to begin; ISO 8601."""
    return str(run.get("end_date") or run.get("start_date") or run.get("run_after") or "")


def _made(client: AirflowClient, store: Store, dag: Dag, runs: list[dict[str, Any]]) -> list[Seen]:
    """The results of all steps of all runs, those of the oldest runs first."""
    mapped: dict[str, dict[str, list[int]]] = {}
    for task_id, is_mapped in dag.tasks.items():
        if is_mapped:
            instances = client.pages(
                path("dags", dag.dag_id, "dagRuns", "~", "taskInstances"),
                "task_instances",
                params={"task_id": task_id},
            )
            mapped[task_id] = defaultdict(list)
            for one in instances:
                mapped[task_id][one["dag_run_id"]].append(one["map_index"])

    def look(asked: tuple[dict[str, Any], str, int]) -> Seen | None:
        run, task_id, index = asked
        key = step_key(dag.dag_id, task_id, run["dag_run_id"], index)
        content = store.read(f"runs/{key}/result.json")
        if content is None:
            return None
        result = read_result(content, source=store.run_uri(key, "result.json"))
        return Seen(task_id, run["dag_run_id"], moment_of(run), result, _partitions(result))

    def places(
        these: Iterable[dict[str, Any]], tasks: Iterable[str]
    ) -> list[tuple[dict[str, Any], str, int]]:
        return [
            (run, task, index)
            for run in these
            for task in tasks
            for index in (mapped[task].get(run["dag_run_id"], []) if task in mapped else [-1])
        ]

    ended = [run for run in runs if run["state"] not in ACTIVE]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        newest = [run for run in ended if run["state"] == "success"][-_LOOKED_AT:]
        first = [one for one in pool.map(look, places(newest or ended[-_LOOKED_AT:], dag.tasks)) if one]
        steps = {one.task_id for one in first}
        found = [one for one in pool.map(look, places(ended, steps)) if one is not None]
    return [one for one in found if one.result.status != "failed"]


def _add_forgotten(
    store: Store, dag: Dag, found: Evidence, table_of: Callable[[str], TableNow | None]
) -> None:
    """Add what runs made that Airflow has cleaned away: a table's commits name the steps that wrote them."""
    for task_id, newest in found.newest.items():
        published = newest.result.table if newest.partitions else None
        table = table_of(published.name) if published else None
        if table is None:
            continue
        for key, tasks in found.seen.items():
            made = None if task_id in tasks else _written(store, dag, task_id, table.writers.get(key, ""))
            if made is not None:
                tasks[task_id] = made


def _written(store: Store, dag: Dag, task_id: str, key: str) -> Seen | None:
    """What a step that wrote a partition made, if it was this task's in a run that Airflow no longer has."""
    if not key:
        return None
    spec, result = (store.read(f"runs/{key}/{name}.json") for name in ("spec", "result"))
    if spec is None or result is None:
        return None
    run = read_spec(spec, source=store.run_uri(key, "spec.json")).run
    if (run.dag_id, run.task_id) != (dag.dag_id, task_id):
        return None
    made = read_result(result, source=store.run_uri(key, "result.json"))
    return Seen(task_id, run.run_id, "", made, _partitions(made))


def _partitions(result: StepResult) -> tuple[str, ...]:
    label = str(result.parts.get("partitions", "") or "")
    return parse_partitions(label).values if label else ()


def _covered(run: dict[str, Any], made: Iterable[Seen], wanted: Sequence[Slot]) -> list[str]:
    """The wanted partitions that a run was for: by its steps, its key, its date, or its parameters."""
    keys = {slot.key for slot in wanted}
    named = {value for one in made for value in one.partitions}
    if run.get("partition_key"):
        named.add(str(run["partition_key"]))
    if not named and run.get("logical_date") is None:
        named = _in_conf(run.get("conf"))
    if named or run.get("logical_date") is None:
        return [slot.key for slot in wanted if slot.key in named & keys]
    moment = datetime.fromisoformat(run["logical_date"])
    return [slot.key for slot in wanted if slot.holds(moment)]


def _in_conf(conf: Any) -> set[str]:
    found: set[str] = set()
    for value in (conf or {}).values():
        if isinstance(value, str) and value[:4].isdigit():
            try:
                found |= {*parse_partitions(value).values}
            except ConfigError:
                continue
    return found
