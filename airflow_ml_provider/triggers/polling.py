"""What all our triggers do: look from time to time, bear some failed looks, tell what they saw."""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_ml_provider.contract.errors import MLError

# A sensor gives up after so many failed looks in a row; a watcher has nobody to fail, and goes on.
MOST_FAILURES = 5
# Long enough for the triggerer to have put an event into Airflow's database.
_UNTIL_PERSISTED = 5.0


class PollingTrigger(BaseEventTrigger):
    """Looks at a state every ``poll_interval`` seconds.

    For a sensor (``once``) it ends with an event as soon as the state is as wanted; the payload has
    ``status`` "success" with ``found``, or "error" with ``kind`` and ``message``.

    In an AssetWatcher it tells each change, the state it first sees not being one. What it saw last is kept
    in Airflow's state store of the asset (Airflow 3.3), so a change made while the triggerer was down is told
    when it is back; several changes between two looks are told as one. The memory is written some seconds
    after the event: a triggerer that dies in these tells the change again, rather than never.
    """

    def __init__(self, *, poll_interval: float = 30.0, once: bool = False) -> None:
        super().__init__()
        self.poll_interval = float(poll_interval)
        self.once = once

    @abstractmethod
    def kwargs(self) -> dict[str, Any]:
        """The constructor's arguments, beside the common ones."""

    @abstractmethod
    async def look(self) -> dict[str, Any] | None:
        """The state now, with its ``version``; None if what is looked for does not exist (yet)."""

    @abstractmethod
    def is_wanted(self, state: dict[str, Any]) -> bool:
        """Whether a sensor has waited for this."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes this trigger again."""
        kwargs = {**self.kwargs(), "poll_interval": self.poll_interval, "once": self.once}
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The events."""
        events = self._wait() if self.once else self._watch()
        async for event in events:
            yield event

    async def _wait(self) -> AsyncIterator[TriggerEvent]:
        failures = 0
        while True:
            try:
                state = await self.look()
                failures = 0
            except MLError as error:
                failures += 1
                if not error.retryable or failures > MOST_FAILURES:
                    yield TriggerEvent({"status": "error", "kind": error.kind, "message": str(error)})
                    return
                self.log.warning("look %s of %s failed: %s", failures, MOST_FAILURES, error.what)
                state = None
            if state is not None and self.is_wanted(state):
                yield TriggerEvent({"status": "success", "found": state})
                return
            await asyncio.sleep(self.poll_interval)

    async def _watch(self) -> AsyncIterator[TriggerEvent]:
        seen = await self._remembered()
        while True:
            try:
                state = await self.look()
            except MLError as error:
                self.log.error("could not look, will look again in %s s: %s", self.poll_interval, error.what)
                await asyncio.sleep(self.poll_interval)
                continue
            version = state["version"] if state else None
            if seen is None:
                await self._remember(version)
            elif state is not None and version != seen["version"]:
                yield TriggerEvent({**state, "before": seen["version"]})
                await asyncio.sleep(_UNTIL_PERSISTED)
                await self._remember(version)
            if seen is None or version is not None:
                seen = {"version": version}
            await asyncio.sleep(self.poll_interval)

    async def _remembered(self) -> dict[str, Any] | None:
        if self.asset_state_store is None:
            return None
        try:
            found = await self.asset_state_store.aget(self._memory)
        except ValueError:
            # One watcher of several assets: there is no single place to remember in.
            self.asset_state_store = None
            return None
        return found if isinstance(found, dict) else None

    async def _remember(self, version: Any) -> None:
        if self.asset_state_store is not None:
            await self.asset_state_store.aset(self._memory, {"version": version})

    @property
    def _memory(self) -> str:
        return f"{type(self).__name__} {json.dumps(self.kwargs(), sort_keys=True)}"
