"""What moved the score of each row: how much each feature contributed.

Contributions are SHAP values in log-odds: a row's contributions and the base add up to the log-odds of its
score. They are exact or not given at all; which models give them, and what they are measured from, is the
flavors' business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import MLError, UserCodeError
from airflow_ml_provider.steps.models import whole_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.models import ScoringModel

    Floats = NDArray[np.float64]

# The column of predictions that holds a row's contributions, the largest first.
CONTRIBUTIONS = pl.List(pl.Struct({"feature": pl.String, "contribution": pl.Float64}))
# XGBoost works in 32 bits; anything beyond that means that the sum is not the score.
_TOLERANCE = 1e-4
# So many numbers are explained at once: some tens of megabytes, however wide the rows are.
AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Contributions:
    """What each feature adds to the log-odds of each row.

    :param values: ``(rows, features)``.
    :param base: the log-odds that they are measured from: the model's mean over its training rows (trees),
        or at the features' means (linear models).
    """

    features: tuple[str, ...]
    values: Floats
    base: float

    def log_odds(self) -> Floats:
        """The log-odds of each row's score, as the contributions give it."""
        found: Floats = self.base + self.values.sum(axis=1)
        return found

    def column(self, top: int = 0) -> pl.Series:
        """Each row's contributions, the largest first by size, equal ones by the feature's name.

        :param top: how many of them; 0 means all.
        :return: a series ``contributions`` of type :data:`CONTRIBUTIONS`.
        """
        by_name = sorted(range(len(self.features)), key=self.features.__getitem__)
        kept = min(top, len(by_name)) if top else len(by_name)
        values = self.values[:, by_name]
        # Stable, so that equal sizes stay in the order of the names.
        order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :kept]
        names = pl.Series("feature", [self.features[n] for n in by_name], pl.String)
        parts = pl.DataFrame(
            [
                names.gather(order.ravel()),
                pl.Series("contribution", np.take_along_axis(values, order, axis=1).ravel(), pl.Float64),
            ]
        )
        rows = parts.to_struct("contributions").reshape((len(values), kept))
        return rows.cast(CONTRIBUTIONS)


def inexplicable(model: ScoringModel, *, background: bool = False) -> str:
    """Why a model gives no contributions, as a sentence; empty if it gives them.

    :param background: whether rows to measure from are at hand.
    """
    why = model.flavor.inexplicable(model.native, len(model.inputs.features), background=background)
    return f"Model {model.name} gives no contributions: {why}." if why else ""


def explain(
    model: ScoringModel, rows: pl.DataFrame, background: pl.DataFrame | None = None
) -> Contributions | None:
    """The contributions to the score of each row.

    :param rows: the features in the form and order of :meth:`Inputs.expressions`.
    :param background: rows in the same form; a linear model that does not keep the means of its training
        rows is measured from the means of these. Others do not look at it.
    :return: None where the model does not give them (see :func:`inexplicable`), or where they do not add up
        to its scores.
    :raises UserCodeError: the model fails on the rows.
    """
    features = model.inputs.features
    if not rows.height:
        known = not inexplicable(model, background=background is not None)
        return Contributions(features, np.zeros((0, len(features))), np.nan) if known else None
    try:
        found = model.flavor.contributions(model.native, whole_blocks(rows), background)
    except MLError:
        raise
    except Exception as error:
        # Whatever the model's library raises: it is about this model and these rows.
        raise UserCodeError(
            f"model {model.name} ({model.flavor.name}) could not explain its scores of rows with the "
            f"features {', '.join(features)}: {type(error).__name__}: {error}",
            todo="predict or evaluate without explanations, or report it with the model's library and version",
        ) from error
    if found is None:
        return None
    values, base = found
    explained = Contributions(features, values[: rows.height], base)
    # A check and no promise: a library may have modes in which its contributions say something else.
    off = np.abs(_probabilities(explained.log_odds()) - model.scores(rows))
    return explained if off.max() <= _TOLERANCE else None


def contributions_column(
    model: ScoringModel, rows: pl.DataFrame, top: int = 0, *, at_once: int = AT_ONCE
) -> pl.Series:
    """The ``contributions`` of some rows, for a predictions table; null where the model gives none.

    Memory is bounded by the rows and ``top``, whatever the number of features; the rows' order and how they
    are cut into batches change nothing.

    :param rows: the features in the form and order of :meth:`Inputs.expressions`.
    :param top: how many of each row's contributions, the largest first; 0 means all.
    :param at_once: so many numbers are explained at once.
    """
    found = [pl.Series("contributions", [], CONTRIBUTIONS)]
    for part in chunks(rows, at_once):
        explained = explain(model, part)
        nothing = pl.Series("contributions", [None] * part.height, CONTRIBUTIONS)
        found.append(nothing if explained is None else explained.column(top))
    return pl.concat(found)


def chunks(rows: pl.DataFrame, at_once: int = AT_ONCE) -> Iterator[pl.DataFrame]:
    """The rows in parts that can be explained in bounded memory."""
    size = max(1, AT_ONCE // max(1, rows.width))
    return (rows.slice(start, size) for start in range(0, rows.height, size))


def _probabilities(log_odds: Floats) -> Floats:
    from scipy.special import expit  # type: ignore[import-untyped]

    found: Floats = expit(log_odds)
    return found
