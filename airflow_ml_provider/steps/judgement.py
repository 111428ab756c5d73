"""Gates on measured metrics: what passed, what failed, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_ml_provider.contract.brief import shortened
from airflow_ml_provider.contract.gates import GUARDRAILS, HIGHER_IS_BETTER, Gate
from airflow_ml_provider.steps import rules, significance
from airflow_ml_provider.steps.metrics import Comparison
from airflow_ml_provider.steps.rules import LONGEST_VALUE, Rule
from airflow_ml_provider.steps.significance import TOLERANCE

# So many rules stand in the verdict, which travels through Airflow: those that failed come first.
LISTED_RULES = 40

# So many failed groups are told in a sentence; the rules have them all.
_TOLD_GROUPS = 3


@dataclass(frozen=True)
class Group:
    """The rows that have one value in a column.

    :param value: as text; None for the rows without a value.
    """

    column: str
    value: str | None
    comparison: Comparison

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.column}={'(missing)' if self.value is None else shortened(self.value, LONGEST_VALUE)}"


@dataclass(frozen=True)
class Judgement:
    """One gate's outcome.

    :param value: the metric; in slices, that of the group that fared worst.
    :param rules: each rule on each set of rows that it was judged on.
    """

    gate: Gate
    passed: bool
    value: float | None
    reason: str
    rules: Sequence[Rule] = ()

    def document(self, most: int = LISTED_RULES) -> dict[str, Any]:
        """As it stands in a verdict, with at most so many rules."""
        listed = sorted(self.rules, key=lambda rule: rule.passed)[:most]
        return {
            "gate": str(self.gate),
            "passed": self.passed,
            "value": self.value,
            "reason": self.reason,
            "rules": [rule.document() for rule in listed],
            "rules_left_out": len(self.rules) - len(listed),
        }


def judge(
    gate: Gate,
    overall: Comparison,
    groups: Mapping[str, Sequence[Group]],
    incomparable: str = "",
    guardrails: Mapping[str, float] | None = None,
) -> Judgement:
    """Whether the candidate meets a gate.

    :param groups: those of each column that is sliced by.
    :param incomparable: why the candidate could not be compared with the champion that there is; empty when
        it was, or when there is no champion.
    :param guardrails: what was measured of the model itself.
    """
    if gate.metric in GUARDRAILS:
        return _guardrail(gate, (guardrails or {}).get(gate.metric), overall)
    if gate.slice_by is not None:
        return _sliced(gate, groups[gate.slice_by], incomparable)
    value = overall.candidate[gate.metric].value
    if few := _too_few(gate, overall):
        return Judgement(gate, _only_harm(gate), value, f"{few}: nothing was shown")
    found = rules.absolute(gate, overall)
    if (against := rules.against(gate, overall, incomparable)) is not None:
        found.append(against)
    failed = [rule.reason for rule in found if not rule.passed]
    return Judgement(gate, not failed, value, "; ".join(failed or [rule.reason for rule in found]), found)


def judged_groups(gate: Gate, groups: Iterable[Group]) -> list[Group]:
    """The groups that have rows enough to be judged."""
    return [group for group in groups if not _too_few(gate, group.comparison)]


def needed_resamples(
    gates: Sequence[Gate], groups: Mapping[str, Sequence[Group]], resamples: int, *, compared: bool
) -> int:
    """How many resamples the comparisons of the gates need, at least ``resamples``.

    :param compared: there is a champion to compare with; without one there are no p-values.
    """
    if not compared:
        return resamples
    counted = [
        (gate, len(judged_groups(gate, groups[gate.slice_by])) if gate.slice_by else 1)
        for gate in gates
        if gate.comparison
    ]
    return significance.needed_resamples(counted, resamples)


def _sliced(gate: Gate, of_column: Sequence[Group], incomparable: str) -> Judgement:
    judged = judged_groups(gate, of_column)
    if not judged:
        wanted = f"{gate.minimum_rows} rows"
        if gate.minimum_positives > 1:
            wanted += f" and {gate.minimum_positives} positives"
        reason = f"no group of {gate.slice_by} has {wanted}: nothing was shown"
        return Judgement(gate, _only_harm(gate), None, reason)
    found = [
        replace(rule, column=group.column, value=group.value)
        for group in judged
        for rule in rules.absolute(gate, group.comparison)
    ]
    found += _corrected(gate, judged, incomparable)
    labels = {group.value: group.label for group in judged}
    failed: dict[str, list[str]] = {}
    for rule in found:
        if not rule.passed:
            failed.setdefault(labels[rule.value], []).append(rule.reason)
    values = [group.comparison.candidate[gate.metric].value for group in judged]
    known = [value for value in values if value is not None]
    worst = (min if HIGHER_IS_BETTER[gate.metric] else max)(known, default=None)
    ignored = _ignored(gate, of_column)
    told = [f"{label}: {'; '.join(reasons)}" for label, reasons in failed.items()]
    if len(told) > _TOLD_GROUPS:
        told[_TOLD_GROUPS:] = [f"and {len(told) - _TOLD_GROUPS} more of {len(judged)} groups"]
    reason = "; ".join(told)
    return Judgement(gate, not failed, worst, reason or f"met in all of {len(judged)} groups{ignored}", found)


def _corrected(gate: Gate, judged: Sequence[Group], incomparable: str) -> list[Rule]:
    """The comparisons of all groups, their p-values adjusted for the number of groups."""
    found = []
    for group in judged:
        rule = rules.against(gate, group.comparison, incomparable)
        if rule is None:
            return []
        found.append(replace(rule, column=group.column, value=group.value))
    tested = [(number, rule) for number, rule in enumerate(found) if rule.p is not None]
    # Unrounded, as each test on all rows is.
    own = [significance.p_value(gate, judged[number].comparison) or 1.0 for number, _ in tested]
    for (number, rule), p, adjusted in zip(tested, own, significance.holm(own), strict=True):
        found[number] = rules.decided(replace(rule, p=p, adjusted_p=adjusted), gate)
    return found


def _guardrail(gate: Gate, value: float | None, overall: Comparison) -> Judgement:
    assert gate.at_most is not None
    if value is None:
        return Judgement(gate, False, None, f"{gate.metric} was not measured: nothing was shown")
    passed = value <= gate.at_most + TOLERANCE
    reason = f"{value:g} is {'' if passed else 'not '}at most {gate.at_most:g}"
    rule = Rule(
        gate.metric, "at_most", gate.at_most, passed, reason, overall.rows, overall.positives,
        gate.confidence, estimate=value,
    )  # fmt: skip
    return Judgement(gate, passed, value, reason, [rule])


def _too_few(gate: Gate, comparison: Comparison) -> str:
    """Why nothing can be shown on some rows; empty if something can."""
    sides = [(comparison.rows, comparison.positives, "")]
    if comparison.champion_rows is not None:
        sides.append((comparison.champion_rows, comparison.champion_positives or 0, " of the champion"))
    for rows, positives, whose in sides:
        if rows < gate.minimum_rows:
            return f"{rows} rows{whose} are fewer than {gate.minimum_rows}"
        if positives in (0, rows):
            return f"all {rows} labels{whose} are {int(positives > 0)}"
        if positives < gate.minimum_positives:
            return f"{positives} positives{whose} are fewer than {gate.minimum_positives}"
    return ""


def _only_harm(gate: Gate) -> bool:
    """Whether a gate asks for nothing but that no harm is shown, which too few rows cannot do."""
    return gate.harm_limit is not None and gate.at_least is None and gate.at_most is None


def _ignored(gate: Gate, groups: Sequence[Group]) -> str:
    """How many groups were not judged, and why."""
    why = [few for group in groups if (few := _too_few(gate, group.comparison))]
    if not why:
        return ""
    if all(" rows" in few and "labels" not in few for few in why):
        return f"; {len(why)} with fewer than {gate.minimum_rows} rows were not judged"
    positives = max(1, gate.minimum_positives)
    return (
        f"; {len(why)} without {gate.minimum_rows} rows, {positives} positives and a negative were not judged"
    )
