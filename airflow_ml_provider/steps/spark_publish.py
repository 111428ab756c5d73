"""A publication whose data files the executors write; the commit is the same as any other's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_ml_provider.steps import delta, spark_tables, tables

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from airflow_ml_provider.contract.documents import Publication
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.spark_aside import Aside


def publish(
    step: StepContext,
    target: Table,
    frame: DataFrame,
    *,
    partitions: Partitions | None,
    content: str,
    suite: str | None,
    aside: Aside,
) -> Publication:
    """As :func:`~.tables.publish`, of a frame that executors compute and write to the table's files.

    With a suite the rows are laid aside and pass through the driver, batch by batch: they are looked at as
    anywhere else.
    """
    if done := tables.already_published(step.store, target, partitions, content):
        step.log.info("already published: %s, version %s, from the same content", target.name, done.version)
        return done
    if suite:
        rows = tables.batches_of(aside.lay(frame, "to_publish").lazy())
        return tables.publish(step, target, rows, partitions=partitions, content=content, suite=suite)
    tables.check_target(target, partitions)
    schema = delta.delta_schema(target, spark_tables.arrow_schema(frame))
    written = spark_tables.write(
        frame, step.store, f"tables/{target.name}", column=target.partition_by,
        schema=pa.schema(schema.to_arrow()),
    )  # fmt: skip
    column = target.partition_by
    if partitions is not None and column is not None:
        found = {str(file.partition_values[column]) for file in written.files}
        tables.check_partitions(target, found, partitions)
    return tables.publish_files(
        step, target, written.files, schema=schema, rows=written.rows, partitions=partitions, content=content
    )
