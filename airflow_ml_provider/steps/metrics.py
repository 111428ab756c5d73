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
7(1)). Two models on the same rows are compared on the same resamples, so that the interval of their
difference is that of paired scores; two models on rows of their own are resampled independently. Calibration
error grows under resampling, so it can lie below its own interval; its difference is free of that. All
numbers are rounded to six decimals: equal rows, seed and resamples give equal numbers on any number of
threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_ml_provider.contract.gates import METRICS
from airflow_ml_provider.steps.ranked import CALIBRATION_BINS as CALIBRATION_BINS
from airflow_ml_provider.steps.ranked import Ranked
from airflow_ml_provider.steps.resampling import Advance, nobody, resampled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]

_DECIMALS = 6
_PERCENTILES = (2.5, 97.5)


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
    """Metrics of a candidate, and of a champion if there is one.

    :param differences: candidate minus champion.
    :param drawn: the differences of each resample, ``(resamples, metrics)``, NaN where one is not defined.
    :param champion_rows: how many rows the champion was measured on, where those are not the candidate's;
        ``champion_positives`` likewise.
    """

    rows: int
    positives: int
    candidate: Mapping[str, Estimate]
    champion: Mapping[str, Estimate] | None = None
    differences: Mapping[str, Estimate] | None = None
    drawn: Floats | None = field(default=None, compare=False, repr=False)
    champion_rows: int | None = None
    champion_positives: int | None = None


@dataclass(frozen=True)
class Side:
    """What one model is measured on, where the models have rows of their own.

    :param groups: the places of each group's rows; the groups are the same on both sides, and may be empty.
    """

    labels: NDArray[Any]
    scores: Floats
    groups: Sequence[Places] = ()


def metrics(labels: NDArray[Any], scores: Floats) -> dict[str, float | None]:
    """Every metric, by name; None where it is not defined.

    :param labels: 0 or 1, one a row.
    :param scores: predicted probabilities of 1, one a row.
    """
    return _named(_values(Ranked.of(labels, scores)))


def compare(
    labels: NDArray[Any], candidate: Floats, champion: Floats | None = None, *, resamples: int, seed: int
) -> Comparison:
    """The metrics of one or two models on the same rows, with their intervals.

    :param resamples: how often the rows are drawn again, with replacement; 0 gives no intervals.
    :param seed: of the drawing.
    """
    scores = [candidate] if champion is None else [candidate, champion]
    return compare_groups(labels, scores, (), resamples=resamples, seed=seed)[0]


def compare_groups(
    labels: NDArray[Any],
    scores: Sequence[Floats],
    groups: Sequence[Places],
    *,
    resamples: int,
    seed: int,
    advance: Advance = nobody,
) -> list[Comparison]:
    """:func:`compare` of all rows, and of groups of them by the same draws.

    Costs about ``rows * resamples`` times 6 ns, and 7 ns more a model for all rows and for each set of groups
    that parts them, on one core; memory does not grow with the resamples.

    :param scores: of the candidate, and of the champion if there is one.
    :param groups: the places of each group's rows.
    :param advance: told, from any thread, of so many more resamples that are done.
    """
    places: list[Places | None] = [None, *groups]
    views = [[Ranked.of(labels, each, rows) for each in scores] for rows in places]
    drawn = resampled(views, len(labels), resamples, seed, advance)
    return [
        _comparison([_values(model) for model in view], [of_view[:, n] for n in range(len(scores))], view)
        for view, of_view in zip(views, drawn, strict=True)
    ]


def compare_unpaired(
    candidate: Side, champion: Side, *, resamples: int, seed: int, advance: Advance = nobody
) -> list[Comparison]:
    """The metrics of two models, each on rows of its own: of all rows, and of groups of them.

    The two sets of rows are drawn independently of each other, as those of an A/B split are.
    """
    found = []
    for number, side in enumerate((candidate, champion)):
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])
        ranked = [Ranked.of(side.labels, side.scores, rows) for rows in (None, *side.groups)]
        drawn = resampled([[each] for each in ranked], len(side.labels), resamples, own_seed, advance)
        found.append((ranked, drawn))
    (ours, our_draws), (theirs, their_draws) = found
    return [
        _comparison([_values(a), _values(b)], [drawn_a[:, 0], drawn_b[:, 0]], [a, b])
        for a, b, drawn_a, drawn_b in zip(ours, theirs, our_draws, their_draws, strict=True)
    ]


def rounded(value: float | None) -> float | None:
    """A number as it stands in a verdict; None for one that is not defined."""
    if value is None or np.isnan(value):
        return None
    return round(float(value), _DECIMALS) + 0.0  # no negative zero


def _comparison(values: Sequence[Floats], drawn: Sequence[Floats], models: Sequence[Ranked]) -> Comparison:
    estimates = [_estimates(value, own) for value, own in zip(values, drawn, strict=True)]
    size, positives = len(models[0].rows), len(models[0].below)
    if len(values) == 1:
        return Comparison(size, positives, estimates[0])
    # To the decimals of a verdict, below which the machine's arithmetic begins to show. A side without
    # draws has no rows, and no difference either.
    of_each = [own if len(own) else np.full((1, len(METRICS)), np.nan) for own in drawn]
    differences = np.round(of_each[0] - of_each[1], _DECIMALS)
    return Comparison(
        size,
        positives,
        estimates[0],
        estimates[1],
        _estimates(values[0] - values[1], differences),
        differences,
        len(models[1].rows),
        len(models[1].below),
    )


def _values(model: Ranked) -> Floats:
    """Each metric, every row counting once."""
    if not len(model.rows):
        return np.full(len(METRICS), np.nan)
    found: Floats = model.metrics(np.ones((int(model.rows.max()) + 1, 1), np.uint8))[0]
    return found


def _estimates(values: Floats, drawn: Floats) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for column, (name, value) in enumerate(_named(values).items()):
        known = drawn[:, column][~np.isnan(drawn[:, column])]
        low, high = np.percentile(known, _PERCENTILES) if value is not None and len(known) else (None, None)
        found[name] = Estimate(value, rounded(low), rounded(high))
    return found


def _named(values: Floats) -> dict[str, float | None]:
    return {name: rounded(value) for name, value in zip(METRICS, values, strict=True)}
