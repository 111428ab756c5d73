"""Rows through models, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.steps import file_batches, known_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.models import ScoringModel
    from airflow_ml_provider.steps.pinned_tables import PinnedTable

BATCH_ROWS = 100_000


def scored_batches(
    rows: pl.LazyFrame, models: list[ScoringModel], keep: list[str], batch_rows: int = BATCH_ROWS
) -> Iterator[tuple[pl.DataFrame, list[NDArray[np.float64]]]]:
    """The scores of each model, and the columns to keep, of one batch of rows after the other.

    :raises DataError: the rows lack a feature, have it in another type than the model knows, or have a value
        that the model was trained to refuse.
    """
    for batch in batches(rows, models, keep, batch_rows):
        yield batch.select(keep), [scores(model, batch) for model in models]


def batches(
    rows: pl.LazyFrame, models: list[ScoringModel], keep: list[str], batch_rows: int = BATCH_ROWS
) -> Iterator[pl.DataFrame]:
    """The columns to keep and those that the models need, of one batch of rows after the other.

    Rows keep their order, and batches are of equal size.

    :raises DataError: the rows lack a feature, have it in another type than the model knows, or have a value
        that the model was trained to refuse.
    """
    needed = _needed(rows, models, keep)
    yield from rows.select(needed).collect_batches(chunk_size=batch_rows, maintain_order=True)


def table_batches(
    step: StepContext,
    table: PinnedTable,
    partitions: Partitions | None,
    models: list[ScoringModel],
    keep: list[str],
    batch_rows: int = BATCH_ROWS,
) -> Iterator[pl.DataFrame]:
    """As :func:`batches`, of a table's partitions, in the order of its files.

    :raises DataError: as :func:`batches`.
    """
    needed = _needed(table.lazy(partitions), models, keep)
    yield from file_batches.batches(step, table, partitions, needed, batch_rows)


def scores(model: ScoringModel, batch: pl.DataFrame) -> NDArray[np.float64]:
    """One model's scores of a batch."""
    return model.scores(batch.select(model.inputs.expressions()))


def _needed(rows: pl.LazyFrame, models: list[ScoringModel], keep: list[str]) -> list[str]:
    """The columns to keep and those that the models need, if the rows are such as the models take."""
    schema = rows.collect_schema()
    for model in models:
        model.inputs.check(schema, model.name)
        known_values.check(model, rows)
    return list(dict.fromkeys([*keep, *(name for model in models for name in model.inputs.features)]))
