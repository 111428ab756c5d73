"""One model's rows in the order of their scores, ready to be weighed by one resample after the other.

Negative rows come first, then positive ones, each by score: so one cumulative sum over the negatives and one
over the positives give both areas. Sums are exact, whatever the order of adding: counts are integers, and
what is added up of each row is rounded to a power of two so small that all sums fit the 53 bits of a double.
That makes equal rows, seed and resamples give equal numbers on any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Counts = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]

CALIBRATION_BINS = 10
# Rows times resamples that are worked on at once; their arrays of doubles are to fit the processor's caches.
_CELLS = 250_000
# The largest loss of a row: -log of the least distance that a score keeps from 0 and 1.
_MOST_LOSS = 37
_SPARE = 300


@dataclass(frozen=True)
class Ranked:
    """Some of the rows, ranked by a model.

    :param rows: the place of each among all rows: the negatives by score, then the positives by score.
    :param negatives: how many of them are negative.
    :param below: for each positive, how many negatives have a lower score; ``upto``: or an equal one; None
        where no positive ties with a negative.
    :param tied: for each positive, how many positives have a lower score; None where there are no ties.
    :param per_row: log loss, squared error and residual of each row; ``(n, 3)``.
    :param bins: the calibration bins: first and last row among the negatives, and among the positives.
    """

    rows: Places
    negatives: int
    below: Places
    upto: Places | None
    tied: Places | None
    per_row: Floats
    bins: tuple[tuple[slice, slice], ...]

    @classmethod
    def of(cls, labels: NDArray[Any], scores: Floats, rows: Places | None = None) -> Ranked:
        """Rank rows.

        :param labels: 0 or 1, one a row of all rows.
        :param scores: predicted probabilities of 1, one a row of all rows.
        :param rows: the places of those to rank; all of them when left out.
        """
        own = np.arange(len(labels)) if rows is None else rows
        own = own[np.argsort(scores[own], kind="stable")]
        positive = labels[own] > 0
        order = np.concatenate([np.flatnonzero(~positive), np.flatnonzero(positive)])
        negatives = len(own) - int(np.count_nonzero(positive))
        ranked, low, high = scores[own], scores[own[~positive]], scores[own[positive]]
        below = np.searchsorted(low, high, side="left")
        upto = np.searchsorted(low, high, side="right")
        tied = np.searchsorted(high, high, side="left")
        return cls(
            own[order],
            negatives,
            below,
            None if np.array_equal(below, upto) else upto,
            None if np.array_equal(tied, np.arange(len(high))) else tied,
            _per_row(positive[order], ranked[order]),
            _bins(ranked, low, high),
        )

    def metrics(self, drawn: Counts) -> Floats:
        """The metrics, in the order of ``METRICS``, for each resample.

        :param drawn: ``(resamples, all rows)``: how often each row was drawn.
        :return: ``(resamples, 5)``; NaN where a resample does not define one.
        """
        size = max(1, _CELLS // max(1, len(self.rows)))
        parts = [self._metrics(drawn[start : start + size]) for start in range(0, len(drawn), size)]
        found: Floats = np.concatenate(parts)
        return found

    def _metrics(self, drawn: Counts) -> Floats:
        own = drawn.take(self.rows, axis=1, mode="clip")
        negative, positive = own[:, : self.negatives], own[:, self.negatives :]
        totals = self._totals(own)
        auc, precision, rows = self._areas(negative, positive)
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Floats = np.stack([auc, precision, *(totals / rows[:, None]).T], axis=1)
        return found

    def _totals(self, own: Counts) -> Floats:
        """Sums of log loss and squared error, and the sum over bins of the residuals' size."""
        weights = own.astype(np.float64)
        sums = np.zeros((len(own), 3))
        gaps = np.zeros(len(own))
        for parts in self.bins:
            negative, positive = (weights[:, part] @ self.per_row[part] for part in parts)
            of_bin = negative + positive
            sums += of_bin
            gaps += np.abs(of_bin[:, 2])
        sums[:, 2] = gaps
        return sums

    def _areas(self, negative: Counts, positive: Counts) -> tuple[Floats, Floats, Floats]:
        upto = np.zeros((len(negative), self.negatives + 1), np.int32)
        np.cumsum(negative, axis=1, dtype=np.int32, out=upto[:, 1:])
        hits = np.cumsum(positive, axis=1, dtype=np.int32)
        negatives = upto[:, -1].astype(np.float64)
        positives = (hits[:, -1] if hits.shape[1] else np.zeros(len(hits))).astype(np.float64)
        drawn = positive.astype(np.float64)
        lower = upto.take(self.below, axis=1, mode="clip")
        equal = lower if self.upto is None else upto.take(self.upto, axis=1, mode="clip")
        ranked = np.einsum("bp,bp->b", drawn, (lower + equal).astype(np.float64))
        # At a threshold, everything from its score up is called positive.
        before = hits - positive
        if self.tied is not None:
            before = before.take(self.tied, axis=1, mode="clip")
        found = positives[:, None] - before
        called = found + (negatives[:, None] - lower)
        with np.errstate(invalid="ignore", divide="ignore"):
            np.divide(found, np.maximum(called, 1, out=called), out=found)
            precision = (np.multiply(drawn, found, out=found)).sum(axis=1) / positives
            auc = ranked / (2 * positives * negatives)
        precision[negatives == 0] = np.nan
        return auc, precision, negatives + positives


def _per_row(positive: NDArray[np.bool_], scores: Floats) -> Floats:
    eps = np.finfo(np.float64).eps
    inside = np.clip(scores, eps, 1 - eps)
    residuals = positive - scores
    found = np.stack([-np.log(np.where(positive, inside, 1 - inside)), residuals**2, residuals], axis=1)
    # The finest grid on which the sum over all rows is exact; a few rows may be drawn many times more.
    grid = 2.0 ** np.floor(np.log2(2.0**52 / (_MOST_LOSS * (len(scores) + _SPARE))))
    exact: Floats = np.round(found * grid) / grid
    return exact


def _bins(ranked: Floats, low: Floats, high: Floats) -> tuple[tuple[slice, slice], ...]:
    """Ten bins of about equal counts; equal scores belong into one bin."""
    if not len(ranked):
        return ()
    starts = np.unique(ranked[np.arange(CALIBRATION_BINS) * len(ranked) // CALIBRATION_BINS])
    ends = [*starts[1:], np.inf]
    found = []
    for start, end in zip(starts, ends, strict=True):
        first = [int(np.searchsorted(of_class, start, side="left")) for of_class in (low, high)]
        last = [int(np.searchsorted(of_class, end, side="left")) for of_class in (low, high)]
        found.append((slice(first[0], last[0]), slice(len(low) + first[1], len(low) + last[1])))
    return tuple(found)
