"""Permutation importance: how much worse a model ranks rows when it no longer sees a feature's values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from airflow_ml_provider.steps.metrics import metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.models import ScoringModel

_REPEATS = 2
# A model scores this many rows in all, however many features it has: seconds, for hundreds of trees.
_SCORED_ROWS = 150_000
_MOST_ROWS, _LEAST_ROWS = 4_000, 500


def sample_rows(features: int) -> int:
    """How many rows to take for a model of so many features."""
    return max(_LEAST_ROWS, min(_MOST_ROWS, _SCORED_ROWS // (features * _REPEATS)))


@dataclass(frozen=True)
class Importance:
    """A feature's importance.

    :param drop: mean loss of ROC AUC over the permutations; ``low`` and ``high`` are its extremes.
    """

    feature: str
    drop: float
    low: float
    high: float


def permutation_importance(
    model: ScoringModel, rows: pl.DataFrame, labels: NDArray[np.int8], seed: int
) -> list[Importance]:
    """The loss of ROC AUC when the values of one feature after the other are shuffled between the rows.

    As Breiman 2001 (Machine Learning 45(1)), for any model and on rows that it was not trained on. Of
    features that say the same each can seem unimportant, since the other still says it.

    :param rows: the features in the form that the model gets, in any number that is worth the time.
    :return: the most important first; empty where there are labels of one class only.
    """
    base = metrics(labels, model.scores(rows))["roc_auc"]
    if base is None:
        return []
    random = np.random.default_rng(seed)
    found = []
    for feature in model.inputs.features:
        drops = []
        for _ in range(_REPEATS):
            shuffled = rows.with_columns(rows[feature].gather(random.permutation(rows.height)))
            drops.append(base - (metrics(labels, model.scores(shuffled))["roc_auc"] or 0.0))
        found.append(Importance(feature, float(np.mean(drops)), min(drops), max(drops)))
    return sorted(found, key=lambda each: (-each.drop, each.feature))
