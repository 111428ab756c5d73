"""Is the candidate shown to be better, not worse, or harmful? One-sided bootstrap p-values, and Holm.

Let ``d`` be how much better the candidate is than the champion (the difference of a metric, its sign turned
where less is better), and ``d*`` the same in each of ``R`` resamples. A p-value is for the claim's opposite:

==========================  =====================  ===============================
claim                       its opposite           p
==========================  =====================  ===============================
``better_by_at_least=m``    ``d <= m``             ``(1 + #{d* <= m}) / (R + 1)``
``worse_by_at_most=m``      ``d < -m``             ``(1 + #{d* < -m}) / (R + 1)``
``harm_limit=m`` (harm)     ``d >= -m``            ``(1 + #{d* >= -m}) / (R + 1)``
==========================  =====================  ===============================

This is the smallest level at which the one-sided percentile interval excludes the margin (Efron and
Tibshirani 1993, An Introduction to the Bootstrap, sections 13.3 and 15.4); one is added above and below so
that a test from a finite number of resamples keeps its level (Davison and Hinkley 1997, Bootstrap Methods and
their Application, section 4.2). A claim is shown when ``p <= (1 - confidence) / 2``, that is when the end of
the two-sided interval lies on the right side of the margin.

Over the groups of a slice, p-values are adjusted by Holm 1979 (Scandinavian Journal of Statistics 6(2)): with
``p(1) <= ... <= p(m)``, the adjusted ones are ``max over j <= i of min(1, (m - j + 1) * p(j))``. Then the
chance that any group is taken for shown that is not, is at most the level, however the groups depend on
each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.gates import HIGHER_IS_BETTER, METRICS, Gate
from airflow_ml_provider.steps.metrics import Comparison, rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Metrics are rounded to six decimals; bounds are met or missed at that precision.
TOLERANCE = 5e-7
# More than so many resamples are not drawn for the sake of many groups.
_MOST_RESAMPLES = 20_000


def p_value(gate: Gate, comparison: Comparison) -> float | None:
    """The p-value of a gate's comparison on some rows; None where nothing was resampled."""
    drawn = _improvements(gate, comparison)
    if drawn is None:
        return None
    margin = gate.margin
    if gate.comparison == "better_by_at_least":
        against = drawn <= margin + TOLERANCE
    elif gate.comparison == "worse_by_at_most":
        against = drawn < -margin - TOLERANCE
    else:
        against = drawn >= -margin - TOLERANCE
    return (1 + int(np.count_nonzero(against))) / (len(drawn) + 1)


def interval(gate: Gate, comparison: Comparison) -> tuple[float | None, float | None]:
    """The interval of the difference (candidate minus champion) at the gate's confidence."""
    drawn = _known(gate, comparison)
    if drawn is None:
        found = (comparison.differences or {}).get(gate.metric)
        return (found.low, found.high) if found else (None, None)
    low, high = np.percentile(drawn, (100 * gate.level, 100 * (1 - gate.level)))
    return rounded(low), rounded(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in the order given."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def shown(p: float, gate: Gate) -> bool:
    """Whether an (adjusted) p-value shows a gate's claim."""
    return p <= gate.level * (1 + 1e-9)


def needed_resamples(gates: Iterable[tuple[Gate, int]], resamples: int) -> int:
    """How many resamples there must be for p-values that can be small enough, even after Holm.

    :param gates: each gate with a comparison, and in how many groups it is judged.
    :param resamples: the number that was asked for, which is used if it is enough.
    :raises ConfigError: there are too many groups.
    """
    for gate, groups in gates:
        needed = math.ceil(max(1, groups) / gate.level * (1 - 1e-9)) - 1
        if needed > max(_MOST_RESAMPLES, resamples):
            raise ConfigError(
                f"the gate {gate!s} is judged in {groups:,} groups at a confidence of {gate.confidence:g}; "
                f"that takes {needed:,} resamples, and {_MOST_RESAMPLES:,} are drawn at most",
                todo=f"slice by fewer groups, raise minimum_rows, or set resamples={needed}",
            )
        resamples = max(resamples, needed)
    return resamples


def _known(gate: Gate, comparison: Comparison) -> NDArray[Any] | None:
    if comparison.drawn is None:
        return None
    drawn = comparison.drawn[:, METRICS.index(gate.metric)]
    drawn = drawn[~np.isnan(drawn)]
    return drawn if len(drawn) else None


def _improvements(gate: Gate, comparison: Comparison) -> NDArray[Any] | None:
    drawn = _known(gate, comparison)
    return drawn if drawn is None or HIGHER_IS_BETTER[gate.metric] else -drawn
