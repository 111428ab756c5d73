"""Whether a step's work is done already: by this task, by another one, or by one that is at it now.

A hit is believed only while what it refers to still stands. Of several tasks that want the same work at once one
claims it; the others wait in the triggerer and use its result. Whoever cannot tell computes: a publication is the
same however often it is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from airflow_ml_provider.contract.changes import explain
from airflow_ml_provider.contract.documents import RunOf, StepResult, StepSpec, read_spec
from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.contract.memo import (
    Attempt,
    Claim,
    Made,
    Memo,
    content_fingerprint,
    last_made,
    note_made,
)
from airflow_ml_provider.operators import results, runs
from airflow_ml_provider.triggers.claim import ClaimTrigger, owner_state

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.operators.base import StepOperator

_LATE = "was not seen at work for a while"
_ENDED = "ended without a result"


class Decision(NamedTuple):
    """What is to be done for a step.

    :param kind: take ``result``; compute; or wait for ``waits_for``.
    :param why: for people.
    :param made_by: the run that made the result, if it was another one.
    :param number: of our claim; None for a step that is not shared.
    """

    kind: Literal["hit", "miss", "rerun", "wait"]
    why: str
    result: StepResult | None = None
    made_by: RunOf | None = None
    number: int | None = None
    waits_for: Attempt | None = None

    def document(self, kind: str = "") -> dict[str, Any]:
        """As the task's output has it."""
        found: dict[str, Any] = {"decision": kind or self.kind, "why": self.why}
        if self.made_by is not None:
            names = ("dag_id", "task_id", "run_id", "map_index", "url")
            made = {name: getattr(self.made_by, name) for name in names}
            found["made_by"] = {name: value for name, value in made.items() if value not in (None, -1)}
        if self.result is not None:
            found["seconds_saved"] = self.result.seconds
        return found


def decide(
    operator: StepOperator, store: Store, spec: StepSpec, context: Context,
    event: Mapping[str, Any] | None = None,
) -> Decision:  # fmt: skip
    """What is to be done for a step; when it is to be computed, it is claimed.

    :param event: what the trigger told that waited for somebody else's claim.
    :raises TransientError: what is known cannot be read; unknown is not absent.
    """
    mode, memo = operator.cache_mode, Memo(store, spec.fingerprint)
    while True:
        attempts = memo.attempts() if operator.shares(spec) else []
        earlier = results.read(store, spec.step_key)
        why_not = ""
        if earlier is not None and operator.reuses(spec) and results.stands(earlier, spec):
            own = next((one for one in attempts if one.claim.step_key == spec.step_key), None)
            cleared = own is not None and own.claim.clearing != runs.clearing_of(context)
            why_not = operator.no_longer_stands(store, earlier) if cleared else ""
            if not why_not and (mode != "rerun" or (own is not None and not cleared)):
                said = f"step {spec.step_key} has done exactly this already; its result stands"
                return Decision("hit", said, earlier)
        if mode != "rerun" and operator.shares(spec):
            for found in _known(operator, store, spec, attempts):
                assert found.result is not None
                stale = operator.no_longer_stands(store, found.result)
                if not stale:
                    return Decision("hit", _made_by(found.claim), found.result, found.claim.run)
                why_not = why_not or stale
        why = why_not or _why(operator, store, spec, earlier)
        if mode == "rerun":
            why = "asked for by cache='rerun'"
        kind: Literal["miss", "rerun"] = "rerun" if mode == "rerun" else "miss"
        if not operator.shares(spec):
            return Decision(kind, why)
        newest = attempts[0] if attempts else None
        if newest is not None and newest.is_open and mode != "rerun":
            if newest.claim.step_key == spec.step_key:
                return Decision(kind, why, number=newest.number)
            ended = _ended(newest, event)
            if not ended:
                return Decision("wait", _at_work(newest.claim), waits_for=newest)
            if _something_came_of_it(memo, newest):
                continue
            why = f"{_name(newest.claim.run)} had begun it, and {ended}"
        number = 1 + (newest.number if newest else 0)
        claim = Claim(
            spec.step_key, spec.run, datetime.now(UTC).isoformat(timespec="seconds"),
            runs.clearing_of(context),
        )  # fmt: skip
        if memo.claim(number, claim):
            return Decision(kind, why, number=number)
        event = None


def trigger_of(decision: Decision, fingerprint: str) -> ClaimTrigger:
    """What waits for the work of another task."""
    assert decision.waits_for is not None
    owner = decision.waits_for.claim.run
    return ClaimTrigger(
        fingerprint=fingerprint, claim=decision.waits_for.number, owner_dag=owner.dag_id,
        owner_task=owner.task_id, owner_run=owner.run_id, owner_index=owner.map_index,
    )  # fmt: skip


def adopted(operator: StepOperator, spec: StepSpec, decision: Decision) -> StepResult:
    """The result of another run as this one's: of its step key and parts, and of today's table versions."""
    assert decision.result is not None
    result = operator.adopt(decision.result, spec)
    links = dict(result.links)
    if decision.made_by is not None and decision.made_by.url:
        links["Made by"] = decision.made_by.url
    if result.mlflow_run_id and spec.tracking.uri:
        from airflow_ml_provider.hooks.mlflow import MlflowHook

        try:
            MlflowHook().tag_run(result.mlflow_run_id, "airflow_ml.reused_by", _name(spec.run))
        except MLError as error:
            operator.log.warning("its MLflow run could not be told that it is used again: %s", error.what)
    return msgspec.structs.replace(result, step_key=spec.step_key, parts=spec.parts, links=links)


def document_of(spec: StepSpec) -> dict[str, Any]:
    """Why a step was computed, as the task's output has it."""
    kind, _, why = spec.run.cache.partition(": ")
    return {"decision": kind, "why": why}


def settle(operator: StepOperator, store: Store, spec: StepSpec, result: StepResult) -> None:
    """Keep what came of our claim, for others and for the explanation of the next miss; no failure of the task.

    What cannot be kept is found where the step left it.
    """
    if result.status != "success" or result.timely:
        failed = result.failure.message if result.failure else "it also depends on when it is made"
        release(operator, store, spec, result.reason or failed)
    if result.status != "success":
        return
    try:
        if operator.shares(spec) and not result.timely:
            memo = Memo(store, spec.fingerprint)
            for number in _own(memo, spec):
                memo.keep(number, result)
        if operator.reuses(spec):
            note_made(store, Made(spec.fingerprint, spec.parts, spec.code.files, spec.run), _partitions(spec))
    except MLError as error:
        operator.log.warning("what this step has done could not be noted for others: %s", error.what)


def release(operator: StepOperator, store: Store, spec: StepSpec, why: str) -> None:
    """Tell those who wait for our claim that nothing comes of it; those who are not told ask Airflow."""
    try:
        if operator.shares(spec):
            memo = Memo(store, spec.fingerprint)
            for number in _own(memo, spec):
                memo.release(number, why.partition("\n")[0])
    except MLError as error:
        operator.log.warning("the claim of this step could not be released: %s", error.what)


def _own(memo: Memo, spec: StepSpec) -> list[int]:
    """Our newest claim, if it was not released."""
    mine = [one for one in memo.attempts() if one.claim.step_key == spec.step_key]
    return [one.number for one in mine[:1] if not one.released]


def _known(
    operator: StepOperator, store: Store, spec: StepSpec, attempts: Iterable[Attempt]
) -> Iterator[Attempt]:
    yield from (one for one in attempts if one.result is not None)
    for parts in operator.as_good_as(store, spec):
        others = Memo(store, content_fingerprint(parts)).attempts()
        yield from (one for one in others if one.result is not None)


def _ended(newest: Attempt, event: Mapping[str, Any] | None) -> str:
    """How the owner of an open claim ended; empty if it may still be at work."""
    told = event.get("status") if event and event.get("claim") == newest.number else ""
    if told == "late":
        return _LATE
    return _ENDED if told == "ended" or owner_state(newest.claim.run) == "ended" else ""


def _something_came_of_it(memo: Memo, seen: Attempt) -> bool:
    """Whether the claim's owner left something between our look and the answer that it ended."""
    newest = next(iter(memo.attempts()), None)
    return newest is None or newest.number != seen.number or not newest.is_open


def _why(operator: StepOperator, store: Store, spec: StepSpec, earlier: StepResult | None) -> str:
    if not operator.reuses(spec):
        return "looking for new input"
    before = last_made(store, spec.run, _partitions(spec))
    if earlier is not None and earlier.parts:
        content = store.read(f"runs/{spec.step_key}/spec.json")
        old = read_spec(content, source=spec.step_key) if content else spec
        before = Made(earlier.fingerprint, earlier.parts, old.code.files, spec.run)
    if before is None:
        return "this task has not computed it before"
    changed = explain(before, spec.parts, spec.code.files)
    if not changed and earlier is not None:
        return "the earlier try did not succeed"
    return changed or "its result is not there any more"


def _partitions(spec: StepSpec) -> str:
    return str(spec.parts.get("partitions") or "")


def _name(run: RunOf) -> str:
    return f"run {run.run_id} of {run.dag_id}, task {run.task_id}"


def _made_by(claim: Claim) -> str:
    return f"made by {_name(claim.run)}, at {claim.at}"


def _at_work(claim: Claim) -> str:
    return f"{_name(claim.run)} is computing it since {claim.at}"
