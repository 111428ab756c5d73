"""How far a fleet is, for people, every few seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_ml_provider.steps.context import log
from airflow_ml_provider.steps.progress import EVERY, Standing, record

if TYPE_CHECKING:
    from airflow_ml_provider.contract.fleets import PlanDocument
    from airflow_ml_provider.steps.context import StepContext


class Progress:
    """Counts items as they end. Those of indexes that are not pending have ended before."""

    def __init__(self, step: StepContext, plan: PlanDocument) -> None:
        self._step = step
        self._items = plan.items
        size = plan.items_per_index
        pending = sum(min(size, plan.items - position * size) for position in plan.pending)
        self._before = plan.items - pending
        # Of the indexes that have ended, and of those that run: position to the states of their items.
        self._ended: dict[int, tuple[int, int]] = {}
        self._running: dict[int, dict[int, str]] = {}
        self._started = self._shown = time.monotonic()

    @property
    def failed(self) -> int:
        """How many items failed, by what is known so far."""
        return sum(failed for _, failed in self._ended.values()) + self._count("failed")

    def item(self, position: int, number: int, state: str) -> None:
        """An item of an index started or ended."""
        self._running.setdefault(position, {})[number] = state

    def index(self, position: int, done: int, failed: int) -> None:
        """An index ended."""
        self._running.pop(position, None)
        self._ended[position] = (done, failed)

    def died(self, position: int, *, again: bool) -> None:
        """A process died with an index; when it is not tried again, the item that it ran has failed."""
        states = list(self._running.pop(position, {}).values())
        if not again:
            self._ended[position] = (states.count("done"), len(states) - states.count("done"))

    def again(self, position: int) -> None:
        """An index that ended is tried again."""
        self._ended.pop(position, None)

    def show(self, running: int) -> None:
        """Say it, if it is time again."""
        now = time.monotonic()
        if now - self._shown < EVERY:
            return
        self._shown = now
        done = self._before + sum(done for done, _ in self._ended.values()) + self._count("done")
        standing = Standing("items", done, self._items, now - self._started, self._before)
        log.info("%s; %s failed, %s running", standing, f"{self.failed:,}", running)
        record(self._step, {**standing.document(), "failed": self.failed, "running": running})

    def _count(self, state: str) -> int:
        return sum(list(states.values()).count(state) for states in self._running.values())
