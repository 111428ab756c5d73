"""How far a fleet is, for people, every few seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_ml_provider.steps.context import log

if TYPE_CHECKING:
    from airflow_ml_provider.contract.fleets import PlanDocument

_SHOWN_EVERY = 5.0


class Progress:
    """Counts items as they end. Those of indexes that are not pending have ended before."""

    def __init__(self, plan: PlanDocument) -> None:
        self._items = plan.items
        size = plan.items_per_index
        pending = sum(min(size, plan.items - position * size) for position in plan.pending)
        self._before = plan.items - pending
        # Of the indexes that have ended, and of those that run: position to the states of their items.
        self._ended: dict[int, tuple[int, int]] = {}
        self._running: dict[int, dict[int, str]] = {}
        self._shown = time.monotonic()

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
        if now - self._shown >= _SHOWN_EVERY:
            self._shown = now
            done = self._before + sum(done for done, _ in self._ended.values()) + self._count("done")
            log.info(
                "%s of %s items done, %s failed, %s running",
                f"{done:,}", f"{self._items:,}", f"{self.failed:,}", running,
            )  # fmt: skip

    def _count(self, state: str) -> int:
        return sum(list(states.values()).count(state) for states in self._running.values())
