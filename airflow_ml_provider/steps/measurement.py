"""Candidate and champion on the same rows: scores, metrics, and metrics by slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, did_you_mean
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.steps.importance import Importance, permutation_importance, sample_rows
from airflow_ml_provider.steps.judgement import Group
from airflow_ml_provider.steps.metrics import Comparison, compare
from airflow_ml_provider.steps.scoring import scored_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.labelled_rows import LabelledRows
    from airflow_ml_provider.steps.models import ScoringModel

_MOST_GROUPS = 1_000


@dataclass(frozen=True)
class Measured:
    """What was measured, row by row and in sum.

    :param scores: of the candidate, then of the champion if it was scored.
    :param groups: the groups of each column that is sliced by, the largest first.
    :param partitions: the partition of each row, if the table has any.
    """

    labels: NDArray[np.int8]
    scores: Sequence[NDArray[np.float64]]
    overall: Comparison
    groups: Mapping[str, Sequence[Group]]
    partitions: pl.Series | None


def slice_columns(wanted: Sequence[str], rows: LabelledRows) -> list[str]:
    """The columns to slice by, each once.

    :raises ConfigError: the rows have no such column.
    """
    there = rows.frame.collect_schema().names()
    for name in wanted:
        if name not in there:
            raise ConfigError(
                f"there is no column {name!r} to slice by in {rows.where}",
                todo=f"{did_you_mean(name, there)} A FeatureSet's keep= adds columns",
            )
    return list(dict.fromkeys(wanted))


def measure(
    rows: LabelledRows, models: Sequence[ScoringModel], slices: Sequence[str], *, resamples: int, seed: int
) -> Measured:
    """Score the rows with the candidate, and the champion if there is one, and compare.

    Held in memory for each row: its label, scores and slices; features a batch at a time.

    :param models: the candidate, and the champion if it is to be scored.
    """
    partition = [rows.partition_by] if rows.partition_by else []
    keep = list(dict.fromkeys([rows.label, *slices, *partition]))
    kept: list[pl.DataFrame] = []
    scored: list[list[NDArray[np.float64]]] = [[] for _ in models]
    for batch, scores in scored_batches(rows.frame, list(models), keep):
        kept.append(batch)
        for of_model, found in zip(scored, scores, strict=True):
            of_model.append(found)
    known = pl.concat(kept)
    labels = known[rows.label].to_numpy()
    scores = [np.concatenate(each) for each in scored]
    overall = compare(labels, *scores, resamples=resamples, seed=seed)
    groups = {
        column: _groups(column, known[column], labels, scores, resamples=resamples, seed=seed)
        for column in slices
    }
    return Measured(labels, scores, overall, groups, known[partition[0]] if partition else None)


def importance(rows: LabelledRows, model: ScoringModel, seed: int) -> list[Importance]:
    """Permutation importance on a sample of the rows, of bounded size."""
    size = min(rows.count, sample_rows(len(model.inputs.features)))
    chosen = np.sort(np.random.default_rng(seed).choice(rows.count, size, replace=False))
    sample = (
        rows.frame.select(*model.inputs.expressions(), pl.col(rows.label).alias(" label"))
        .with_row_index(" row")
        .filter(pl.col(" row").is_in(chosen))
        .collect(engine="streaming")
    )
    return permutation_importance(
        model, sample.select(model.inputs.features), sample[" label"].to_numpy(), seed
    )


def _groups(
    column: str,
    values: pl.Series,
    labels: NDArray[np.int8],
    scores: Sequence[NDArray[np.float64]],
    *,
    resamples: int,
    seed: int,
) -> list[Group]:
    texts = _texts(values)
    distinct = texts.unique().to_list()
    if len(distinct) > _MOST_GROUPS:
        raise ConfigError(
            f"column {column!r} has {len(distinct):,} different values; a slice has at most {_MOST_GROUPS:,}",
            todo="slice by a column of groups, such as a rounded number",
        )
    found = []
    for value in distinct:
        chosen = (texts.is_null() if value is None else texts == value).fill_null(False).to_numpy()
        # Its own seed, so that a group's interval does not depend on which other groups there are.
        own_seed = int(digest(str(seed), column, value or "")[:15], 16)
        compared = compare(
            labels[chosen], *(each[chosen] for each in scores), resamples=resamples, seed=own_seed
        )
        found.append(Group(column, value, compared))
    return sorted(found, key=lambda group: (-group.comparison.rows, group.value or ""))


def _texts(values: pl.Series) -> pl.Series:
    if values.dtype.is_float():
        # Whole numbers and booleans are floats here, as the model gets them.
        whole = values.cast(pl.Int64, strict=False)
        values = whole if (whole.cast(values.dtype) == values).all() else values
    return values.cast(pl.String)
