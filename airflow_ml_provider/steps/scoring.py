"""Rows through models, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.models import ScoringModel

BATCH_ROWS = 100_000


def scored_batches(
    rows: pl.LazyFrame, models: list[ScoringModel], keep: list[str], batch_rows: int = BATCH_ROWS
) -> Iterator[tuple[pl.DataFrame, list[NDArray[np.float64]]]]:
    """The scores of each model, and the columns to keep, of one batch of rows after the other.

    Rows keep their order, and a batch is held at a time; batches are of equal size, so that arithmetic which
    works on several rows at once gives the same each time.

    :raises DataError: the rows lack a feature, or have it in another type than the model knows.
    """
    schema = rows.collect_schema()
    for model in models:
        model.inputs.check(schema, model.name)
    needed = dict.fromkeys([*keep, *(name for model in models for name in model.inputs.features)])
    for batch in rows.select(list(needed)).collect_batches(chunk_size=batch_rows, maintain_order=True):
        yield (
            batch.select(keep),
            [model.scores(batch.select(model.inputs.expressions())) for model in models],
        )
