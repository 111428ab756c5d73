"""A backfill's plan as a document: ``{store}/backfills/{plan id}.json``, with its progress."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from airflow_ml_provider.cli.backfill_partitions import Step
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.staleness import State
from airflow_ml_provider.contract.store import Store

Progress = Literal["", "submitted", "success", "failed", "elsewhere"]
PARTITION = "{partition}"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for: the range, what counts, and how runs are started."""

    dag_id: str
    first: str
    last: str
    step: Step = "day"
    key_format: str = ""
    only: tuple[State, ...] = ("missing", "stale")
    events: Literal["mute", "emit"] = "mute"
    conf: dict[str, Any] = {}
    strict: bool = False
    ignore: tuple[str, ...] = ()

    def plan_id(self, generation: int = 1) -> str:
        """The plan's id: the same choice, the same id; a number behind it when it was carried out before."""
        mark = document_digest(msgspec.to_builtins(self))[:12]
        return mark if generation == 1 else f"{mark}-{generation}"


class Item(msgspec.Struct):
    """One partition of a plan, and what came of it.

    :param going: a run of the DAG that works on it already.
    """

    partition: str
    start: datetime
    end: datetime
    state: State
    why: str = ""
    going: str = ""
    run_id: str = ""
    logical_date: str = ""
    progress: Progress = ""


class Estimate(msgspec.Struct, frozen=True):
    """How long a run takes, from past successful runs, in seconds."""

    runs: int = 0
    median: float = 0.0
    shortest: float = 0.0
    longest: float = 0.0

    def of(self, count: int, wave: int) -> float | None:
        """Seconds for so many runs, so many at once; None without a past run."""
        return math.ceil(count / wave) * self.median if self.runs else None


class Plan(msgspec.Struct, kw_only=True):
    """A plan as it is kept: ``{store}/backfills/{plan id}.json``.

    :param kind: how the DAG's runs are told their partition.
    :param at_once: how many runs the DAG may have at once; 0 for no limit.
    """

    plan_id: str
    choice: Choice
    kind: str
    schedule: str
    at_once: int = 0
    made_at: str
    items: list[Item]
    estimate: Estimate = Estimate()
    notes: list[str] = []
    reason: str = ""
    finished_at: str = ""

    @property
    def todo(self) -> list[Item]:
        """The partitions that are to be run."""
        return [item for item in self.items if item.state in self.choice.only]

    def run_id(self, partition: str) -> str:
        """The id of the one run that this plan has for a partition."""
        return f"ml_backfill__{self.plan_id}__{partition.replace(' ', '_')}"


def now() -> str:
    """This moment, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def plan_path(plan_id: str) -> str:
    """Where a plan is kept."""
    return f"backfills/{plan_id}.json"


def load(store: Store, plan_id: str) -> Plan | None:
    """A kept plan, None if there is none of this id.

    :raises DataError: the document is none.
    """
    content = store.read(plan_path(plan_id))
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=Plan)
    except msgspec.DecodeError as error:
        raise DataError(f"{plan_path(plan_id)} in {store.uri} is not a plan: {error}") from error


def save(store: Store, plan: Plan) -> None:
    """Keep a plan with its progress."""
    store.write(plan_path(plan.plan_id), msgspec.json.format(msgspec.json.encode(plan), indent=1))


def latest(store: Store, choice: Choice) -> Plan | None:
    """The newest plan of this choice, None if there is none."""
    found, generation = None, 1
    while (plan := load(store, choice.plan_id(generation))) is not None:
        found, generation = plan, generation + 1
    return found


def next_id(store: Store, choice: Choice) -> str:
    """The id of a plan of this choice that is not taken."""
    generation = 1
    while store.exists(plan_path(choice.plan_id(generation))):
        generation += 1
    return choice.plan_id(generation)
