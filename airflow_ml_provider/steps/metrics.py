"""Metrics of predicted probabilities, with bootstrap intervals.

All are of a 0/1 label ``y`` and a score ``s``, the predicted probability of 1, over ``n`` rows:

* ``roc_auc``: the area under the ROC curve, which is the chance that a positive row is scored above a
  negative one, ties counting half (Hanley and McNeil 1982, Radiology 143(1)).
* ``average_precision``: the sum over thresholds of ``(recall - previous recall) * precision``, with no
  interpolation, as in scikit-learn.
* ``log_loss``: the mean of ``-log(s)`` or ``-log(1 - s)``; scores are kept 2.2e-16 away from 0 and 1.
* ``brier_score``: the mean of ``(y - s)**2`` (Brier 1950, Monthly Weather Review 78(1)).
* ``calibration_error``: the expected calibration error: rows are put in ten bins of about equal counts by
  score; the mean over rows of their bin's ``|mean(y) - mean(s)|`` (Naeini, Cooper and Hauskrecht 2015,
  AAAI; equal counts instead of equal widths as Nguyen and O'Connor 2015, EMNLP, since scores are rarely
  spread evenly over 0 to 1).

Intervals are the 2.5th and 97.5th percentile over resamples of the rows (Efron 1979, Annals of Statistics
7(1)). Two models are compared on the same resamples, so that the interval of their difference is that of
paired scores. Calibration error grows under resampling, so it can lie below its own interval; its
difference is free of that. All numbers are rounded to six decimals, below which the machine's arithmetic
begins to show: equal rows, seed and resamples give equal numbers on any number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_ml_provider.contract.gates import METRICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CALIBRATION_BINS = 10
_DECIMALS = 6
_PERCENTILES = (2.5, 97.5)
# Rows times resamples held at once: 8 MB an array, of which a batch needs about ten.
_BATCH_CELLS = 1_000_000


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval; None where the rows do not define it (a single class has no ROC)."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def document(self) -> dict[str, float | None]:
        """As it stands in a verdict."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Comparison:
    """Metrics of a candidate, and of a champion on the same rows if there is one.

    :param differences: candidate minus champion.
    """

    rows: int
    positives: int
    candidate: Mapping[str, Estimate]
    champion: Mapping[str, Estimate] | None = None
    differences: Mapping[str, Estimate] | None = None


def metrics(labels: NDArray[Any], scores: Floats) -> dict[str, float | None]:
    """Every metric, by name; None where it is not defined.

    :param labels: 0 or 1, one a row.
    :param scores: predicted probabilities of 1, one a row.
    """
    if not len(labels):
        return dict.fromkeys(METRICS)
    ranked = _Ranked.of(labels, scores)
    return _named(ranked.metrics(np.ones((1, len(labels))))[0])


def compare(
    labels: NDArray[Any], candidate: Floats, champion: Floats | None = None, *, resamples: int, seed: int
) -> Comparison:
    """The metrics of one or two models with their intervals.

    Costs about ``rows * resamples`` times 30 ns a model on one core; memory does not grow with resamples.

    :param resamples: how often the rows are drawn again, with replacement; 0 gives no intervals.
    :param seed: of the drawing.
    """
    rows, positives = len(labels), int(np.count_nonzero(labels))
    if not rows:
        nothing = dict.fromkeys(METRICS, Estimate(None))
        of_two = None if champion is None else nothing
        return Comparison(0, 0, nothing, of_two, of_two)
    models = [_Ranked.of(labels, scores) for scores in (candidate, champion) if scores is not None]
    values = np.stack([model.metrics(np.ones((1, rows)))[0] for model in models])
    drawn = _resampled(models, rows, resamples, seed)
    estimates = [_estimates(values[n], drawn[:, n]) for n in range(len(models))]
    if champion is None:
        return Comparison(rows, positives, estimates[0])
    differences = _estimates(values[0] - values[1], drawn[:, 0] - drawn[:, 1])
    return Comparison(rows, positives, estimates[0], estimates[1], differences)


@dataclass(frozen=True)
class _Ranked:
    """One model's rows in the order of their scores, ready to be weighed again and again.

    :param ends: the last row of each run of equal scores, if there are ties.
    :param per_row: log loss, squared error and residual of each row; columns of ``(n, 3)``.
    :param bins: the first row of each calibration bin.
    """

    order: NDArray[np.intp]
    labels: Floats
    ends: NDArray[np.intp] | None
    per_row: Floats
    bins: NDArray[np.intp]

    @classmethod
    def of(cls, labels: NDArray[Any], scores: Floats) -> _Ranked:
        order = np.argsort(scores, kind="stable")
        y, s = labels[order].astype(np.float64), scores[order]
        last = np.append(s[1:] != s[:-1], True)
        eps = np.finfo(np.float64).eps
        inside = np.clip(s, eps, 1 - eps)
        losses = -np.log(np.where(y > 0, inside, 1 - inside))
        per_row = np.ascontiguousarray(np.stack([losses, (y - s) ** 2, y - s]))
        # Equal scores belong into one bin: a bin begins at the first row of its lowest score.
        cuts = np.searchsorted(s, s[np.arange(CALIBRATION_BINS) * len(s) // CALIBRATION_BINS], side="left")
        return cls(order, y, None if last.all() else np.flatnonzero(last), per_row, np.unique(cuts))

    def metrics(self, weights: Floats) -> Floats:
        """The metrics, in the order of ``METRICS``, for each line of row weights.

        :param weights: ``(resamples, rows)``: how often each row was drawn, in the rows' own order.
        :return: ``(resamples, 5)``; NaN where a resample has rows of one class only.
        """
        drawn = weights[:, self.order]
        total = drawn.sum(axis=1)
        losses, squares, residuals = self.per_row
        # No matrix product: its sums depend on how many threads the linear algebra library has.
        log_loss = (drawn * losses).sum(axis=1) / total
        brier = (drawn * squares).sum(axis=1) / total
        gaps = np.add.reduceat(drawn * residuals, self.bins, axis=1)
        calibration = np.abs(gaps).sum(axis=1) / total
        auc, precision = self._areas(drawn)
        return np.stack([auc, precision, log_loss, brier, calibration], axis=1)

    def _areas(self, drawn: Floats) -> tuple[Floats, Floats]:
        upto = np.cumsum(drawn, axis=1)
        positive = np.cumsum(np.multiply(drawn, self.labels, out=drawn), axis=1)
        if self.ends is not None:
            upto, positive = upto[:, self.ends], positive[:, self.ends]
        negative = upto - positive
        rows, positives, negatives = upto[:, -1:], positive[:, -1:], negative[:, -1:]
        step = np.diff(positive, axis=1, prepend=0.0)
        below = _shifted(negative)
        with np.errstate(invalid="ignore", divide="ignore"):
            auc = (step * (below + negative)).sum(axis=1) / (2 * positives * negatives)[:, 0]
            # At a threshold, everything from its score up is called positive.
            called = np.maximum(rows - _shifted(upto), 1)
            hits = positives - _shifted(positive)
            precision = (step * hits / called).sum(axis=1) / positives[:, 0]
        precision[(negatives == 0)[:, 0]] = np.nan
        return auc, precision


def _shifted(cumulated: Floats) -> Floats:
    """What was cumulated before each place."""
    before = np.empty_like(cumulated)
    before[:, 0] = 0
    before[:, 1:] = cumulated[:, :-1]
    return before


def _resampled(models: list[_Ranked], rows: int, resamples: int, seed: int) -> Floats:
    """Metrics of each resample: ``(resamples, models, metrics)``."""
    if resamples < 1:
        return np.full((1, len(models), len(METRICS)), np.nan)
    batches = list(_batches(rows, resamples))
    seeds = np.random.SeedSequence(seed).spawn(len(batches))

    def work(batch: int) -> Floats:
        weights = _draw(np.random.default_rng(seeds[batch]), rows, batches[batch])
        return np.stack([model.metrics(weights) for model in models], axis=1)

    # NumPy works outside the interpreter's lock; each batch has a seed of its own, whoever computes it.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as workers:
        return np.concatenate(list(workers.map(work, range(len(batches)))))


def _batches(rows: int, resamples: int) -> Iterator[int]:
    size = max(1, _BATCH_CELLS // rows)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _draw(random: np.random.Generator, rows: int, count: int) -> Floats:
    """How often each row is drawn when as many rows as there are, are drawn with replacement."""
    drawn = random.integers(0, rows, size=(count, rows))
    drawn += np.arange(count)[:, None] * rows
    return np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)


def _estimates(values: Floats, drawn: Floats) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for column, (name, value) in enumerate(_named(values).items()):
        known = drawn[:, column][~np.isnan(drawn[:, column])]
        low, high = np.percentile(known, _PERCENTILES) if value is not None and len(known) else (None, None)
        found[name] = Estimate(value, _rounded(low), _rounded(high))
    return found


def _named(values: Floats) -> dict[str, float | None]:
    return {name: _rounded(value) for name, value in zip(METRICS, values, strict=True)}


def _rounded(value: float | None) -> float | None:
    if value is None or np.isnan(value):
        return None
    return round(float(value), _DECIMALS) + 0.0  # no negative zero
