"""What moved a model's scores, in sum: the features' importance, and how groups of rows differ in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from airflow_ml_provider.steps import slices as slicing
from airflow_ml_provider.steps.contributions import Contributions, chunks, explain, inexplicable
from airflow_ml_provider.steps.importance import sample_rows

if TYPE_CHECKING:
    from airflow_ml_provider.steps.models import ScoringModel

# Fewer sampled rows say little about a group.
LEAST_GROUP_ROWS = 30
# Rows times leaves: half a minute for the deep trees of a large model, a second or two for a usual one.
MOST_WORK = 20_000_000
_LEAST_ROWS = 200


@dataclass(frozen=True)
class Deviation:
    """A feature that moves the scores of a group of rows otherwise than those of all rows.

    :param value: of the group, as text; None for the rows without a value.
    :param mean: mean contribution in the group; ``overall`` is that of all rows.
    :param size: mean of the contributions' sizes in the group.
    """

    value: str | None
    rows: int
    feature: str
    mean: float
    overall: float
    size: float

    @property
    def difference(self) -> float:
        """How much further it moves the group's log-odds than everybody's."""
        return self.mean - self.overall


@dataclass(frozen=True)
class Explanation:
    """What moved a model's scores on a sample of rows.

    :param why_not: why there is nothing to show, as a sentence; the rest is empty then.
    :param contributions: to each sampled row.
    :param sample: the features of the sampled rows, as the model got them.
    :param importance: mean size of each feature's contributions in log-odds, the largest first.
    :param slices: of each column that is sliced by, its groups' deviations, the largest first.
    :param left_out: of each column, how many groups had too few sampled rows.
    """

    why_not: str
    contributions: Contributions
    sample: pl.DataFrame
    importance: Mapping[str, float]
    slices: Mapping[str, Sequence[Deviation]]
    left_out: Mapping[str, int]


def explanation(
    rows: pl.LazyFrame,
    count: int,
    model: ScoringModel,
    slices: Sequence[str],
    seed: int,
    *,
    most_work: int = MOST_WORK,
) -> Explanation:
    """Explain a model on a sample of rows, of a size that takes seconds: fewer rows for larger models.

    :param rows: features and columns to slice by, in an order that is always the same.
    :param count: how many rows there are.
    :param seed: of the sample; equal rows, model and seed give an equal explanation.
    """
    features = list(model.inputs.features)
    affordable = max(_LEAST_ROWS, most_work // max(1, model.flavor.leaves(model.native)))
    size = min(count, affordable, sample_rows(len(features)))
    chosen = np.random.default_rng(seed).choice(count, size, replace=False)
    groups = [pl.col(column).alias(f" {column}") for column in slices]
    sample = (
        rows.select(*model.inputs.expressions(), *groups)
        .with_row_index("  row")
        .filter(pl.col("  row").is_in(np.sort(chosen)))
        .collect(engine="streaming")
        .sort("  row")
    )
    given = sample.select(features)
    empty = Contributions(model.inputs.features, np.zeros((0, len(features))), np.nan)
    if why_not := inexplicable(model, background=True):
        return Explanation(why_not, empty, given, {}, {}, {})
    parts = [explain(model, part, background=given) for part in chunks(given)]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        why_not = f"Model {model.name} gives no contributions that add up to its scores."
        return Explanation(why_not, empty, given, {}, {}, {})
    found = Contributions(
        model.inputs.features, np.concatenate([part.values for part in known]), known[0].base
    )
    sizes = np.abs(found.values).mean(axis=0)
    ranked = sorted(zip(features, sizes.tolist(), strict=True), key=lambda each: (-each[1], each[0]))
    compared = {column: deviations(found, sample[f" {column}"]) for column in slices}
    return Explanation(
        why_not="",
        contributions=found,
        sample=given,
        importance=dict(ranked),
        slices={column: of_column for column, (of_column, _) in compared.items()},
        left_out={column: few for column, (_, few) in compared.items()},
    )


def deviations(found: Contributions, groups: pl.Series) -> tuple[list[Deviation], int]:
    """How each feature moves each group's log-odds against all rows', the largest differences first.

    :param groups: the group of each row.
    :return: also how many groups have fewer than :data:`LEAST_GROUP_ROWS` rows, which are left out.
    """
    texts = slicing.texts(groups)
    values = texts.unique().sort().to_list()
    number = {value: n for n, value in enumerate(values)}
    codes = np.array([number[value] for value in texts.to_list()], np.int64)
    counts = np.bincount(codes, minlength=len(values))
    sums, sizes = np.zeros((2, len(values), len(found.features)))
    np.add.at(sums, codes, found.values)
    np.add.at(sizes, codes, np.abs(found.values))
    overall = found.values.mean(axis=0)
    listed = [
        Deviation(
            value=values[group],
            rows=int(counts[group]),
            feature=feature,
            mean=float(sums[group, n] / counts[group]),
            overall=float(overall[n]),
            size=float(sizes[group, n] / counts[group]),
        )
        for group in np.flatnonzero(counts >= LEAST_GROUP_ROWS)
        for n, feature in enumerate(found.features)
    ]
    listed.sort(key=lambda each: (-abs(each.difference), each.value or "", each.feature))
    return listed, int((counts < LEAST_GROUP_ROWS).sum())
