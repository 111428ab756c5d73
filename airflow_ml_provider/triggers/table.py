"""A new version of a table, or of one of its partitions."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow_ml_provider import config
from airflow_ml_provider.triggers.polling import PollingTrigger
from airflow_ml_provider.triggers.table_log import TableLog


class TableVersionTrigger(PollingTrigger):
    """Tells when a table, or one partition of it, was published.

    Payload: ``table``, ``version``, ``partition`` (or null); in a watcher also ``before``.

    :param table: the table's name.
    :param partition: only publications of this partition count; all when left out.
    :param newer_than: for a sensor: a version above this is waited for.
    """

    def __init__(
        self,
        table: str,
        partition: str | None = None,
        newer_than: int | None = None,
        poll_interval: float = 30.0,
        once: bool = False,
    ) -> None:
        super().__init__(poll_interval=poll_interval, once=once)
        self.table = table
        self.partition = partition
        self.newer_than = newer_than
        self._log_of_table: TableLog | None = None

    def kwargs(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"table": self.table, "partition": self.partition, "newer_than": self.newer_than}

    async def look(self) -> dict[str, Any] | None:
        """The version that published the table or the partition last."""
        return await asyncio.to_thread(self._look)

    def is_wanted(self, state: dict[str, Any]) -> bool:
        """Whether it is newer than asked for."""
        return self.newer_than is None or int(state["version"]) > self.newer_than

    def _look(self) -> dict[str, Any] | None:
        if self._log_of_table is None:
            self._log_of_table = TableLog(config.store(), self.table, self.partition)
        version = self._log_of_table.newest()
        if version is None:
            return None
        return {"table": self.table, "version": version, "partition": self.partition}
