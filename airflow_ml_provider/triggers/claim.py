"""Waits for work that another task has claimed, in the triggerer, and tells when that task is not at it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_ml_provider import config
from airflow_ml_provider.contract.documents import RunOf
from airflow_ml_provider.contract.memo import Memo

State = Literal["works", "waits", "ended", "unknown"]

_WORKS = ("running", "deferred", "restarting")
# It will go on, but not before Airflow finds it a place.
_WAITS = ("queued", "scheduled", "up_for_reschedule")
# Airflow is asked less often than the store: a claim mostly ends with a result.
_LOOKS_A_QUESTION = 6


def owner_state(run: RunOf) -> State:
    """Whether a task instance is at work, by what Airflow says; unknown when it cannot be asked.

    One that Airflow no longer has, that waits for its retry, or was cleared, is not at work.
    """
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        states = RuntimeTaskInstance.get_task_states(
            dag_id=run.dag_id,
            map_index=run.map_index,
            task_ids=[run.task_id],
            run_ids=[run.run_id],
        )
        name = run.task_id if run.map_index < 0 else f"{run.task_id}_{run.map_index}"
        state = (states.get(run.run_id) or {}).get(name)
    except Exception:
        # Whatever it is, there is a limit to how long it may stay unknown.
        return "unknown"
    said = str(getattr(state, "value", state))
    return "works" if said in _WORKS else "waits" if said in _WAITS else "ended"


class ClaimTrigger(BaseTrigger):
    """One event when something has become of a claim, when its owner is not at work, or nobody can tell for long.

    The payload has ``claim`` and ``status``: "look" (there is a result, a release or a newer claim), "ended" (the
    owner is not at work any more) or "late" (for ``patience`` seconds it was not seen at work). Nothing has to be
    cleaned up when it ends with its task.

    :param fingerprint: what is computed.
    :param claim: the number of the claim.
    :param owner_dag, owner_task, owner_run, owner_index: its owner, as Airflow names it.
    :param patience: how long it is waited for an owner that cannot be asked for, or does not start.
    """

    def __init__(
        self, *, fingerprint: str, claim: int, owner_dag: str, owner_task: str, owner_run: str,
        owner_index: int = -1, patience: float = 600, poll_interval: float = 5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.fingerprint, self.claim = fingerprint, claim
        self.owner = RunOf(owner_dag, owner_task, owner_run, owner_index)
        self.patience, self.poll_interval = patience, poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes this trigger again."""
        owner = self.owner
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "fingerprint": self.fingerprint, "claim": self.claim, "owner_dag": owner.dag_id,
            "owner_task": owner.task_id, "owner_run": owner.run_id, "owner_index": owner.map_index,
            "patience": self.patience, "poll_interval": self.poll_interval,
        }  # fmt: skip

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, and ask now and then."""
        seen_at_work, looks = time.monotonic(), 0
        while True:
            if await self._something_came_of_it():
                yield self._event("look")
                return
            if looks % _LOOKS_A_QUESTION == 0:
                state = await asyncio.to_thread(owner_state, self.owner)
                if state == "ended":
                    # It may have ended well between our look and the question.
                    yield self._event("look" if await self._something_came_of_it() else "ended")
                    return
                if state == "works":
                    seen_at_work = time.monotonic()
            if time.monotonic() - seen_at_work > self.patience:
                yield self._event("late")
                return
            looks += 1
            await asyncio.sleep(self.poll_interval)

    async def _something_came_of_it(self) -> bool:
        try:
            return await asyncio.to_thread(self._look)
        except Exception as error:
            # Unknown is not absent; an owner that is long at work will be seen at a later look.
            self.log.warning("the claim could not be looked up, and is looked up again: %s", error)
            return False

    def _look(self) -> bool:
        newest = next(iter(Memo(config.store(), self.fingerprint).attempts()), None)
        return newest is None or newest.number != self.claim or not newest.is_open

    def _event(self, status: str) -> TriggerEvent:
        return TriggerEvent({"claim": self.claim, "status": status})
