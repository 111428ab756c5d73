"""Drift of one column: how far its profile has moved from the reference, and whether chance explains it.

Two measures with two purposes. The **population stability index** (PSI) is a size: it decides. The
**two-sample test** is evidence: with a hundred thousand training rows it calls any difference significant,
so its p-value is reported and decides nothing.

What counts as drift has to be compared with what is usual, in two ways:

* *By chance.* Even without drift the index of a small sample is above 0, the more bins the more
  (:func:`psi_by_chance`).
* *From day to day.* The rows of one day share their weather and their delays; they are far from independent
  draws of four months. A perfectly ordinary day has a PSI of 4 in air pressure, and a threshold of 0.25
  would call every day drifted. So the reference knows how far its own single days lie from the rest of it
  (:func:`usual_drift`), and a day has drifted when it lies further than 95 % of them did.

A column has therefore drifted when ``PSI > max(max_psi, usual) + chance``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from airflow_ml_provider.steps.profiles import ColumnProfile

# Half a row is added to every bin of both samples (the Jeffreys prior of a multinomial), so that an empty
# bin weighs less in a small sample than in a large one; a fixed epsilon would do the opposite.
_PRIOR = 0.5
# Cochran's rule: chi-square is trusted where every expected count is at least this.
_LEAST_EXPECTED = 5.0
# With fewer reference partitions their 95th percentile is a guess; the fixed threshold is used alone.
LEAST_PARTITIONS = 20


class Usual(TypedDict):
    """How far single partitions of the reference lie from the rest of it: PSI above that of chance."""

    partitions: int
    median: float
    p95: float
    maximum: float


@dataclass(frozen=True)
class Drift:
    """A column's movement between the reference and the current rows.

    :param rows: current rows.
    :param psi: population stability index.
    :param psi_limit: above it the column has drifted.
    :param test: ``ks`` or ``chi2``.
    :param statistic: Kolmogorov-Smirnov's D, or chi-square; None where there is nothing to test.
    :param p_value: of one column by itself, not corrected for looking at many.
    :param null_share: share of nulls in the current rows; ``reference_null_share`` in the reference.
    """

    name: str
    rows: int
    psi: float
    psi_limit: float
    test: str
    statistic: float | None
    p_value: float | None
    null_share: float
    reference_null_share: float

    @property
    def drifted(self) -> bool:
        """Whether it moved further than the threshold, the usual and chance allow."""
        return self.psi > self.psi_limit

    @property
    def relative(self) -> float:
        """The index as a multiple of its limit: columns by how strange they are, above 1 drifted."""
        return self.psi / self.psi_limit if self.psi_limit > 0 else math.inf if self.psi > 0 else 0.0


def compare(name: str, reference: ColumnProfile, current: ColumnProfile, max_psi: float) -> Drift:
    """Measure the drift of a column between two profiles with the same bins.

    Nulls are a bin of their own in the index, as are the categories that have no name in the profile.

    :param max_psi: the least index worth a word. The usual reading: below 0.1 stable, above 0.25 moved.
    """
    before, after = all_counts(reference), all_counts(current)
    if reference["kind"] == "numeric":
        test, (statistic, p_value) = "ks", kolmogorov_smirnov(reference["counts"], current["counts"])
    else:
        test, (statistic, p_value) = "chi2", chi_square(before, after)
    usual = reference.get("usual")
    least = usual["p95"] if usual and usual["partitions"] >= LEAST_PARTITIONS else 0.0
    rows, reference_rows = sum(after), sum(before)
    return Drift(
        name=name,
        rows=rows,
        psi=population_stability_index(before, after),
        psi_limit=max(max_psi, least) + psi_by_chance(before, after),
        test=test,
        statistic=statistic,
        p_value=p_value,
        null_share=current["nulls"] / rows if rows else 0.0,
        reference_null_share=reference["nulls"] / reference_rows if reference_rows else 0.0,
    )


def usual_drift(total: Sequence[int], partitions: Iterable[Sequence[int]]) -> Usual:
    """How far each partition lies from all the others together; of the index above that of chance.

    :param total: counts of the whole reference, all bins.
    :param partitions: counts of its partitions in the same bins.
    """
    import numpy as np

    excess = []
    for part in partitions:
        others = [a - b for a, b in zip(total, part, strict=True)]
        excess.append(population_stability_index(others, part) - psi_by_chance(others, part))
    median, p95, most = (np.quantile(excess, [0.5, 0.95, 1.0]) if excess else np.zeros(3)).tolist()
    return {"partitions": len(excess), "median": median, "p95": p95, "maximum": most}


def all_counts(column: ColumnProfile) -> list[int]:
    """The column's counts, then the rows in categories without a name, then the nulls."""
    return [*column["counts"], column.get("other", 0), column["nulls"]]


def population_stability_index(reference: Sequence[int], current: Sequence[int]) -> float:
    """``sum((q - p) * ln(q / p))`` over the bins, p and q being the reference's and the current shares.

    The symmetric Kullback-Leibler divergence, known as the PSI since N. Siddiqi, *Credit Risk Scorecards*
    (2006). Bins empty on both sides do not count. 0 where either sample has no row.
    """
    pairs = [(a, b) for a, b in zip(reference, current, strict=True) if a or b]
    before, after = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    if not before or not after:
        return 0.0
    before_total, after_total = before + _PRIOR * len(pairs), after + _PRIOR * len(pairs)
    index = 0.0
    for a, b in pairs:
        p, q = (a + _PRIOR) / before_total, (b + _PRIOR) / after_total
        index += (q - p) * math.log(q / p)
    return index


def psi_by_chance(reference: Sequence[int], current: Sequence[int]) -> float:
    """The index of two independent samples of one population, on average: ``(bins - 1) * (1/n + 1/m)``.

    Without drift the index is distributed as chi-square with bins - 1 degrees of freedom, times
    (1/n + 1/m): B. Yurdakul, *Statistical Properties of Population Stability Index* (2018). A day of 900
    rows in ten bins has 0.01 by chance, 200 rows in fifty categories 0.25, which a fixed threshold takes
    for drift.
    """
    bins = sum(1 for a, b in zip(reference, current, strict=True) if a or b)
    before, after = sum(reference), sum(current)
    return (bins - 1) * (1 / before + 1 / after) if before and after else 0.0


def kolmogorov_smirnov(reference: Sequence[int], current: Sequence[int]) -> tuple[float | None, float | None]:
    """D and its p-value for two samples counted into the same ordered bins.

    D is taken at the bins' edges only, so it is a lower bound of D between the samples themselves, and the
    p-value an upper bound. The p-value is Kolmogorov's limit distribution with M. Stephens' correction for
    finite samples (*Journal of the Royal Statistical Society B* 32, 1970).
    """
    n, m = sum(reference), sum(current)
    if not n or not m:
        return None, None
    d = max(abs(a / n - b / m) for a, b in zip(accumulate(reference), accumulate(current), strict=True))
    size = math.sqrt(n * m / (n + m))
    return d, _kolmogorov((size + 0.12 + 0.11 / size) * d)


def chi_square(reference: Sequence[int], current: Sequence[int]) -> tuple[float | None, float | None]:
    """Pearson's chi-square of homogeneity for two samples counted into the same categories, and its p-value.

    Categories that would hold fewer than five rows of either sample are pooled first (W. Cochran, 1954).
    None where fewer than two categories are left.
    """
    from scipy.special import chdtrc  # type: ignore[import-untyped]

    n, m = sum(reference), sum(current)
    if not n or not m:
        return None, None
    smaller = min(n, m) / (n + m)
    cells, pooled = [], [0, 0]
    for a, b in zip(reference, current, strict=True):
        if (a + b) * smaller >= _LEAST_EXPECTED:
            cells.append((a, b))
        else:
            pooled = [pooled[0] + a, pooled[1] + b]
    if any(pooled):
        cells.append((pooled[0], pooled[1]))
    if len(cells) < 2:
        return None, None
    statistic = 0.0
    for a, b in cells:
        share = (a + b) / (n + m)
        statistic += (a - n * share) ** 2 / (n * share) + (b - m * share) ** 2 / (m * share)
    return statistic, float(chdtrc(len(cells) - 1, statistic))


def _kolmogorov(x: float) -> float:
    from scipy.special import kolmogorov

    return float(kolmogorov(x))
