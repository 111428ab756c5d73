"""One comparison with the champion on one set of rows: its numbers, and what they show."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from airflow_ml_provider.contract.brief import shortened
from airflow_ml_provider.contract.gates import HIGHER_IS_BETTER, Gate
from airflow_ml_provider.steps import significance
from airflow_ml_provider.steps.metrics import Comparison, rounded
from airflow_ml_provider.steps.significance import TOLERANCE

# A group's value is text from the data.
LONGEST_VALUE = 100


@dataclass(frozen=True)
class Rule:
    """A rule of a gate on all rows or on one group of a slice, with the numbers that decided.

    :param rule: the gate's field: ``at_least``, ``harm_limit``, ...
    :param bound: what that field says; of a comparison, the margin.
    :param column: what is sliced by; None on all rows.
    :param value: the group; None on all rows, and for the rows without a value.
    :param estimate: the metric, or of a comparison the difference, candidate minus champion.
    :param low: end of the interval at the gate's confidence.
    :param p: of a comparison; for ``harm_limit`` a small one speaks against the candidate.
    :param adjusted_p: after Holm over the groups; equal to ``p`` on all rows.
    """

    metric: str
    rule: str
    bound: float
    passed: bool
    reason: str
    rows: int
    positives: int
    confidence: float
    column: str | None = None
    value: str | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted_p: float | None = None

    def document(self) -> dict[str, Any]:
        """As it stands in a verdict."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "reason"}
        return {**found, "value": None if self.value is None else shortened(self.value, LONGEST_VALUE)}


def absolute(gate: Gate, comparison: Comparison) -> list[Rule]:
    """The rules of a gate on the candidate's own metric."""
    estimate = comparison.candidate[gate.metric]
    value = estimate.value
    found = []
    for name, sign, words in (("at_least", 1, "at least"), ("at_most", -1, "at most")):
        bound = getattr(gate, name)
        if bound is None or value is None:
            continue
        holds = sign * (value - bound) >= -TOLERANCE
        reason = f"{value:.4f} is {'' if holds else 'not '}{words} {bound:g}"
        rule = _rule(gate, name, comparison, holds, reason)
        found.append(replace(rule, estimate=value, low=estimate.low, high=estimate.high, confidence=0.95))
    return found


def against(gate: Gate, comparison: Comparison, incomparable: str) -> Rule | None:
    """The rule of a gate against the champion, before any correction; None if the gate has none."""
    name = gate.comparison
    if name is None:
        return None
    if incomparable:
        return _rule(gate, name, comparison, False, incomparable)
    if comparison.differences is None:
        return _rule(gate, name, comparison, True, "there is no champion yet")
    difference = comparison.differences[gate.metric].value
    if difference is None:
        nothing = "the difference to the champion is not defined on these rows: nothing was shown"
        return _rule(gate, name, comparison, name == "harm_limit", nothing)
    low, high = significance.interval(gate, comparison)
    p = significance.p_value(gate, comparison)
    known = _rule(gate, name, comparison, False, "")
    return decided(replace(known, estimate=difference, low=low, high=high, p=p, adjusted_p=p), gate)


def decided(rule: Rule, gate: Gate) -> Rule:
    """The rule with its outcome, by its adjusted p-value; by the interval where there is no p-value."""
    assert rule.estimate is not None
    ends = [end for end in (rule.low, rule.high, rule.estimate) if end is not None]
    up = HIGHER_IS_BETTER[gate.metric]
    worst, best = (min(ends), max(ends)) if up else (-max(ends), -min(ends))
    said = f"{rule.estimate:+.4f} against the champion"
    if rule.low is not None and rule.high is not None:
        said += f" ({100 * gate.confidence:g} % interval {rule.low:+.4f} to {rule.high:+.4f})"
    by = _p_text(rule)
    margin = gate.margin
    if gate.comparison == "worse_by_at_most":
        passed = _shown(rule, gate, worst >= -margin - TOLERANCE)
        words = f"worse by at most {max(0.0, -worst):.4f}" if passed else (
            f"may be worse by {max(0.0, -worst):.4f}, more than {margin:g}"
            if worst < -margin - TOLERANCE else f"not shown to be worse by at most {margin:g}"
        )  # fmt: skip
    elif gate.comparison == "better_by_at_least":
        passed = _shown(rule, gate, worst > margin + TOLERANCE)
        words = f"{'' if passed else 'not '}shown to be better" + (
            f" by more than {margin:g}" if margin else ""
        )
    else:
        harmful = _shown(rule, gate, best < -margin - TOLERANCE)
        passed = not harmful
        words = f"{'' if harmful else 'not '}shown to be worse by more than {margin:g}"
    return replace(rule, passed=passed, reason=f"{said}: {words}{by}", p=rounded(rule.p),
                   adjusted_p=rounded(rule.adjusted_p))  # fmt: skip


def _shown(rule: Rule, gate: Gate, by_interval: bool) -> bool:
    return by_interval if rule.adjusted_p is None else significance.shown(rule.adjusted_p, gate)


def _p_text(rule: Rule) -> str:
    if rule.adjusted_p is None:
        return ""
    after = f", {rule.adjusted_p:.4f} after Holm" if rule.adjusted_p != rule.p else ""
    return f" (p {rule.p:.4f}{after})"


def _rule(gate: Gate, name: str, comparison: Comparison, passed: bool, reason: str) -> Rule:
    return Rule(
        gate.metric, name, getattr(gate, name), passed, reason, comparison.rows, comparison.positives,
        gate.confidence,
    )  # fmt: skip
