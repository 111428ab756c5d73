"""A deployment on a cluster, as tests use it: a task with a user's function, run as Airflow would run it."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred
from cluster import Cluster

from airflow_ml_provider import Column, Schema, Table
from airflow_ml_provider.compute import KubernetesCompute
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.operators import IngestOperator

NAMESPACE = "ml"
IMAGE = "mlsteps:dev"
SCHEMA = Schema((Column("id", "int64"), Column("what", "string")))
RAW = "id,what\n1,one\n2,two\n"
PLAIN = """
import polars as pl

def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows
"""


class FakeTaskInstance(SimpleNamespace):
    """As much of Airflow's task instance as operators see."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, **_: Any) -> Any:
        return None


class ReadOperator(IngestOperator):
    """Reads two rows; unlike ingestion it does not look for new ones when it has a result."""

    reusable = True


class World:
    """One deployment, its cluster, and its tasks."""

    def __init__(self, cluster: Cluster, store: str, folder: Path) -> None:
        self.cluster = cluster
        self.store = Store(store)
        self.folder = folder
        self.code = folder / "code"
        self.code.mkdir()
        (folder / "raw.csv").write_text(RAW)

    def task(
        self,
        code: str = PLAIN,
        *,
        dag_id: str = "shop",
        task_id: str = "rows",
        compute: dict[str, Any] | None = None,
        **more: Any,
    ) -> ReadOperator:
        """A task that reads two rows and has the user's function see them."""
        (self.code / "mine.py").write_text(textwrap.dedent(code))
        where = {"image": IMAGE, "start_timeout": 20, **(compute or {})}
        with DAG(dag_id):
            return ReadOperator(
                task_id=task_id, source=str(self.folder / "raw.csv"), schema=SCHEMA, transform="mine:transform",
                publish=Table("rows", partition_by=None), code=str(self.code),
                compute=KubernetesCompute(**where), **more,
            )  # fmt: skip

    def try_(self, task: Any, number: int = 1, run_id: str = "manual__1") -> Try:
        """One try of a task, not yet begun."""
        return Try(self, task, number, run_id)

    def run(self, task: Any, number: int = 1, run_id: str = "manual__1") -> dict[str, Any]:
        """One try of a task to its end."""
        return self.try_(task, number, run_id).to_the_end()

    def rows(self) -> int:
        """How many rows the table has; each publication is whole, so two or none."""
        import polars as pl

        return pl.read_delta(self.store.table_uri("rows").removeprefix("file://")).height

    def pods_ever(self) -> list[dict[str, Any]]:
        """All pods that there ever were."""
        found: list[dict[str, Any]] = self.cluster.ever("pods")
        return found


class Try:
    """A try of a task: each leg in a fresh operator, as in a fresh process; the trigger as after a restart."""

    def __init__(self, world: World, task: Any, number: int, run_id: str) -> None:
        self.world, self.task, self.number = world, task, number
        self.ti = FakeTaskInstance(
            dag_id=task.dag_id, task_id=task.task_id, run_id=run_id, map_index=-1, try_number=number,
            log_url="http://airflow/x", bundle_instance=None, pushed={}, start_date=datetime.now(UTC), task=task,
        )  # fmt: skip
        self.running: Any = None
        self.deferrals = 0

    def leg(self, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """In a worker: to the end, or to a deferral."""
        from airflow.sdk.execution_time.context import OutletEventAccessors

        self.running = self.task.prepare_for_execution()
        self.ti.task = self.running
        dag_run = SimpleNamespace(
            partition_key=None, triggering_user_name=None, run_type="manual", run_id=self.ti.run_id
        )
        context: Any = {
            "ti": self.ti, "task_instance": self.ti, "task": self.running, "dag": self.task.dag, "dag_run": dag_run,
            "run_id": self.ti.run_id, "params": {}, "outlet_events": OutletEventAccessors(), "expanded_ti_count": None,
        }  # fmt: skip
        output: dict[str, Any]
        if event is None:
            self.running.render_template_fields(context)
            output = self.running.execute(context)
        else:
            output = self.running.execute_complete(context, event=event)
        return output

    def to_the_end(self, meanwhile: Callable[[Any], None] | None = None) -> dict[str, Any]:
        """Through all deferrals; ``meanwhile`` is told each trigger before it waits."""
        event: dict[str, Any] | None = None
        while True:
            try:
                return self.leg(event)
            except TaskDeferred as deferred:
                self.deferrals += 1
                if meanwhile is not None:
                    meanwhile(deferred.trigger)
                event = fired(deferred.trigger)

    def deferred(self) -> Any:
        """To its first deferral; gives the trigger."""
        try:
            self.leg()
        except TaskDeferred as deferred:
            self.deferrals += 1
            return deferred.trigger
        raise AssertionError("the task did not defer")


def fired(trigger: Any) -> dict[str, Any]:
    """What a trigger says, after a journey through the database."""
    return asyncio.run(first_event(restarted(trigger)))


def restarted(trigger: Any) -> Any:
    """The trigger as another triggerer has it."""
    from airflow.sdk.module_loading import import_string
    from airflow.sdk.serde import deserialize, serialize

    path, kwargs = trigger.serialize()
    return import_string(path)(**deserialize(serialize(kwargs)))


async def first_event(trigger: Any) -> dict[str, Any]:
    async for event in trigger.run():
        payload: dict[str, Any] = event.payload
        return payload
    raise AssertionError("the trigger ended without an event")
