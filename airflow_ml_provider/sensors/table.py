"""Waiting for a table or one of its partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.tables import as_table
from airflow_ml_provider.sensors.base import StateSensor

if TYPE_CHECKING:
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.triggers.table import TableVersionTrigger


class TablePartitionSensor(StateSensor):
    """Waits until a table, or one partition of it, is published.

    Its output stands for the table at the version found, and can be passed to a step. A retry and a clear
    look again.

    :param table: a Table or its name. (templated)
    :param partition: the partition, such as ``"{{ dag_run.partition_key }}"``; any when left out. (templated)
    :param newer_than: wait for a version above this; any version will do when left out. (templated)
    """

    template_fields: Sequence[str] = ("table", "partition", "newer_than")
    ui_color = "#eceff1"

    def __init__(
        self,
        *,
        table: Table | str,
        partition: str | None = None,
        newer_than: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.partition = partition
        self.newer_than = newer_than

    def trigger(self) -> TableVersionTrigger:
        """The trigger that looks."""
        from airflow_ml_provider.triggers.table import TableVersionTrigger

        return TableVersionTrigger(
            as_table(self.table, wanted_by=f"task {self.task_id!r}").name,
            partition=str(self.partition) if self.partition else None,
            newer_than=int(self.newer_than) if self.newer_than not in (None, "") else None,
            poll_interval=self.poke_interval,
            once=True,
        )

    def output_of(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The table at the version found."""
        table = as_table(self.table)
        return {
            "table": {"name": table.name, "partition_by": table.partition_by, "version": found["version"]},
            "partitions": found.get("partition") or "",
        }
