"""One model's rows in the order of their scores, ready to be weighed by one resample after the other.

Negative rows come first, then positive ones, each by score: so one running sum over the negatives and one
over the positives give both areas. Resamples are worked on side by side, as the columns of an array with a
line a row: what is done to a row is done to some dozens of resamples at once.

Sums are exact, whatever the order of adding: counts are integers, and what else is added up of each row is
rounded to a power of two so small that all sums fit the 53 bits of a double. That makes equal rows, seed and
resamples give equal numbers on any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Counts = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]

CALIBRATION_BINS = 10
# Rows times resamples of which there are doubles at once; they are to fit the processor's caches.
_CELLS = 65_536
# A running sum is that of blocks of rows, and within each block: there it fits a byte.
_BLOCK = 16
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
    :param per_row: log loss, squared error and residual of each row; ``(3, n)``.
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

        :param drawn: ``(all rows, resamples)``: how often each row was drawn.
        :return: ``(resamples, 5)``; NaN where a resample does not define one.
        """
        auc, precision, rows = self._areas(drawn)
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Floats = np.stack([auc, precision, *(self._totals(drawn) / rows)], axis=1)
        return found

    def _totals(self, drawn: Counts) -> Floats:
        """Sums of log loss and squared error, and the sum over bins of the residuals' size; ``(3, resamples)``."""
        sums = np.zeros((3, drawn.shape[1]))
        gaps = np.zeros(drawn.shape[1])
        for parts in self.bins:
            of_bin = np.zeros_like(sums)
            for part in parts:
                for some in _chunks(part.start, part.stop, drawn.shape[1]):
                    of_bin += self.per_row[:, some] @ _taken(drawn, self.rows[some]).astype(np.float64)
            sums += of_bin
            gaps += np.abs(of_bin[2])
        sums[2] = gaps
        return sums

    def _areas(self, drawn: Counts) -> tuple[Floats, Floats, Floats]:
        """Area under the ROC curve, average precision and the number of rows, for each resample."""
        negative = _Running.of(drawn, self.rows[: self.negatives])
        positive = _Running.of(drawn, self.rows[self.negatives :])
        ranked, precision = np.zeros(drawn.shape[1]), np.zeros(drawn.shape[1])
        rounding = _rounding(len(self.rows))
        for some in _chunks(0, len(self.below), drawn.shape[1]):
            weights = _taken(drawn, self.rows[self.negatives :][some]).astype(np.float64)
            lower = negative.before(self.below[some])
            equal = lower if self.upto is None else negative.before(self.upto[some])
            ranked += _sums(weights, (lower + equal).astype(np.float64))
            # At a threshold, everything from its score up is called positive.
            tied = np.arange(some.start, some.stop) if self.tied is None else self.tied[some]
            found = positive.total - positive.before(tied)
            called = (negative.total - lower) + found
            share = np.divide(found, np.maximum(called, 1, out=called))
            # Adding and taking away a large number rounds to a multiple of the last of its digits.
            share += rounding
            share -= rounding
            precision += _sums(weights, share)
        negatives, positives = negative.total.astype(np.float64), positive.total.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision /= positives
            auc = ranked / (2 * positives * negatives)
        precision[negatives == 0] = np.nan
        return auc, precision, negatives + positives


class _Running:
    """How often the rows before a place were drawn, in each resample.

    :param blocks: before each block of rows: ``(blocks, resamples)``.
    :param within: from its block's beginning to each row, first of the first row of all blocks, then of all
        second ones and so on: ``(rows of a block * blocks, resamples)``.
    :param total: of all rows.
    """

    def __init__(self, blocks: NDArray[np.int32], within: Counts, total: NDArray[np.int32]) -> None:
        self._blocks, self._within, self.total = blocks, within, total

    @classmethod
    def of(cls, drawn: Counts, rows: Places) -> _Running:
        """Of rows in their order."""
        blocks = len(rows) // _BLOCK + 1
        resamples = drawn.shape[1]
        within = np.empty((_BLOCK + 1, blocks, resamples), np.uint8)
        within[0] = 0
        for number in range(_BLOCK):
            own = rows[number::_BLOCK]
            np.add(within[number, : len(own)], _taken(drawn, own), out=within[number + 1, : len(own)])
            # The last block is not full.
            within[number + 1, len(own) :] = within[number, len(own) :]
        sums = np.cumsum(within[_BLOCK], axis=0, dtype=np.int32)
        before = np.zeros_like(sums)
        before[1:] = sums[:-1]
        return cls(before, within.reshape(-1, resamples), sums[-1])

    def before(self, places: Places) -> NDArray[np.int32]:
        """Of the rows before each of these places: ``(places, resamples)``."""
        block, row = np.divmod(places, _BLOCK)
        found = self._blocks.take(block, axis=0, mode="clip")
        found += self._within.take(row * len(self._blocks) + block, axis=0, mode="clip")
        return found


def _taken(drawn: Counts, rows: Places) -> Counts:
    return drawn.take(rows, axis=0, mode="clip")


def _sums(weights: Floats, values: Floats) -> Floats:
    """Of the weighted values, which are used up; ``(resamples,)``. Any order of adding gives the same."""
    values *= weights
    found: Floats = np.ones(len(values)) @ values
    return found


def _chunks(start: int, stop: int, resamples: int) -> Iterator[slice]:
    size = max(_BLOCK, _CELLS // resamples)
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def _rounding(rows: int) -> float:
    """A number whose last digit is so small that shares (0 to 1) rounded to it add up exactly, one a row drawn."""
    return float(1.5 * 2.0 ** np.ceil(np.log2(rows + _SPARE)))


def _per_row(positive: NDArray[np.bool_], scores: Floats) -> Floats:
    eps = np.finfo(np.float64).eps
    inside = np.clip(scores, eps, 1 - eps)
    residuals = positive - scores
    found = np.stack([-np.log(np.where(positive, inside, 1 - inside)), residuals**2, residuals])
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
