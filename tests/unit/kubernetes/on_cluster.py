"""A deployment on a cluster, as tests use it: a task with a user's function, run as Airflow would run it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from airflow.sdk import DAG
from cluster import Cluster
from tries import Try, fired, restarted

from airflow_ml_provider import Column, Schema, Table
from airflow_ml_provider.compute import KubernetesCompute
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.operators import IngestOperator

__all__ = ["IMAGE", "NAMESPACE", "ReadOperator", "Try", "World", "fired", "restarted"]

NAMESPACE = "ml"
IMAGE = "mlsteps:dev"
SCHEMA = Schema((Column("id", "int64"), Column("what", "string")))
RAW = "id,what\n1,one\n2,two\n"
PLAIN = """
import polars as pl

def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows
"""


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
        return Try(task, number, run_id)

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
