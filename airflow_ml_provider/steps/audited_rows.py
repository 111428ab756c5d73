"""Rows that are checked by a suite before anybody sees them in their table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from airflow_ml_provider.contract.store import storage_failure
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import delta

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext


def audited(
    step: StepContext, target: Table, batches: pa.RecordBatchReader, suite: str
) -> pa.RecordBatchReader:
    """Rows laid aside and found to be as the suite expects them, read again from there.

    :raises DataError: they are not, or the rows could not be read; what was laid aside stays.
    """
    from airflow_ml_provider.steps.validate import audit

    uri = step.store.aside_uri(target.name, step.key)
    # delta-rs reports an exception of the stream as a text; the exception itself is what people need.
    raised: list[BaseException] = []

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:
            raised.append(error)
            raise

    try:
        write_deltalake(
            uri,
            pa.RecordBatchReader.from_batches(batches.schema, watched()),
            mode="overwrite",
            schema_mode="overwrite",
            storage_options=delta.storage_options(uri),
        )
    except Exception as error:
        if raised:
            raise raised[0] from None
        raise storage_failure(f"lay aside rows of table {target.name!r} at", uri, error) from error
    audit(step, suite, target, uri)
    aside = DeltaTable(uri, storage_options=delta.storage_options(uri))
    return pa.RecordBatchReader.from_stream(aside.to_pyarrow_dataset().scanner().to_reader())
