"""What partitioned monitoring runs found, for schedules without partitions: drift, and wanted retrainings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_ml_provider import config
from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.triggers import announcements


class DriftTrigger(BaseEventTrigger):
    """Turns announcements of drift in the store into events of the asset it watches for.

    Airflow gives a run's partition key to the events of its tasks, and an event with a key triggers only
    partition-aware schedules. An event from the triggerer has no key. A MonitorOperator announces drift here
    only in a run with a key, so that no schedule is triggered twice for one finding.

    An announcement is taken away some seconds after its event; a triggerer that dies in these tells it again.

    :param model: the registered model's name.
    :param poll_interval: seconds between two looks.
    """

    kind: ClassVar[announcements.Kind] = "drift"

    def __init__(self, model: str, poll_interval: float = 10.0) -> None:
        super().__init__()
        self.model = model
        self.poll_interval = float(poll_interval)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes this trigger again."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {"model": self.model, "poll_interval": self.poll_interval}

    async def look(self) -> dict[str, dict[str, Any]]:
        """The announcements that wait, oldest first, by where they are in the store."""
        return await asyncio.to_thread(announcements.waiting, config.store(), self.model, self.kind)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """An event for each announcement."""
        while True:
            told: list[str] = []
            try:
                for path, facts in (await self.look()).items():
                    yield TriggerEvent(facts)
                    told.append(path)
                await asyncio.sleep(self.poll_interval)
                for path in told:
                    await asyncio.to_thread(announcements.remove, config.store(), path)
            except MLError as error:
                self.log.error("could not look for announcements, will look again: %s", error.what)
                await asyncio.sleep(self.poll_interval)


class RetrainTrigger(DriftTrigger):
    """The same for retrainings that a MonitorOperator asks for."""

    kind = "retrain"
