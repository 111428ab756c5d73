"""Frames that a step on Spark computes once and reads again, as files in the store."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from airflow_ml_provider.steps import spark_errors, spark_tables
from airflow_ml_provider.steps.spark_tables import Written

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.steps.context import StepContext


@dataclass(frozen=True)
class Aside:
    """A folder of the store for files that are needed while a step runs."""

    spark: SparkSession
    store: Store
    folder: str
    written: list[Written] = field(default_factory=list)

    @classmethod
    def of(cls, spark: SparkSession, step: StepContext, table: str) -> Aside:
        """For one run of a step; another try has its own."""
        return cls(spark, step.store, f"aside/{table}/spark-{uuid.uuid4().hex}")

    def lay(self, frame: DataFrame, name: str, *, who: Callable[..., object] | None = None) -> Laid:
        """Compute a frame into files.

        :param who: the user's function that what is raised is the doing of.
        """
        schema = spark_tables.arrow_schema(frame)
        folder = f"{self.folder}/{name}-{len(self.written)}"
        if who is None:
            written = spark_tables.write(frame, self.store, folder, column=None, schema=schema)
        else:
            with spark_errors.blame(who):
                written = spark_tables.write(frame, self.store, folder, column=None, schema=schema)
        self.written.append(written)
        if not written.files:
            return Laid(self.spark.createDataFrame([], frame.schema), written, schema)
        return Laid(spark_tables.of_files(self.spark, written.places, frame.schema), written, schema)

    def remove(self) -> None:
        """Delete all of it, also what tasks that failed left behind."""
        for path in list(self.store.paths(self.folder)):
            self.store.delete(path)


@dataclass(frozen=True)
class Laid:
    """A frame that was computed into files."""

    frame: DataFrame
    written: Written
    schema: pa.Schema

    def lazy(self) -> pl.LazyFrame:
        """The rows on this machine, in their order."""
        if self.written.files:
            return self.written.lazy()
        return pl.LazyFrame(pl.from_arrow(self.schema.empty_table()))
