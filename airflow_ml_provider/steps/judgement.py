"""Gates on measured metrics: what passed, what failed, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_ml_provider.contract.gates import HIGHER_IS_BETTER, Gate
from airflow_ml_provider.steps.metrics import Comparison

# Metrics are rounded to six decimals; bounds are met or missed at that precision.
_TOLERANCE = 5e-7


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
        return f"{self.column}={'(missing)' if self.value is None else self.value}"


@dataclass(frozen=True)
class Judgement:
    """One gate's outcome.

    :param value: the metric; in slices, that of the group that fared worst.
    """

    gate: Gate
    passed: bool
    value: float | None
    reason: str

    def document(self) -> dict[str, Any]:
        """As it stands in a verdict."""
        return {"gate": str(self.gate), "passed": self.passed, "value": self.value, "reason": self.reason}


def judge(
    gate: Gate, overall: Comparison, groups: Mapping[str, Sequence[Group]], incomparable: str = ""
) -> Judgement:
    """Whether the candidate meets a gate.

    :param groups: those of each column that is sliced by.
    :param incomparable: why the candidate could not be compared with the champion that there is; empty when
        it was, or when there is no champion.
    """
    if gate.slice_by is None:
        return _judge(gate, overall, incomparable)
    of_column = groups[gate.slice_by]
    judged = [group for group in of_column if group.comparison.rows >= gate.minimum_rows]
    if not judged:
        return Judgement(
            gate, False, None, f"no group of {gate.slice_by} has {gate.minimum_rows} rows: nothing was shown"
        )
    found = [(group, _judge(gate, group.comparison, incomparable)) for group in judged]
    failed = [f"{group.label}: {judgement.reason}" for group, judgement in found if not judgement.passed]
    values = [judgement.value for _, judgement in found if judgement.value is not None]
    worst = (min if HIGHER_IS_BETTER[gate.metric] else max)(values, default=None)
    small = len(of_column) - len(judged)
    ignored = f"; {small} with fewer than {gate.minimum_rows} rows were not judged" if small else ""
    reason = "; ".join(failed) if failed else f"met in all of {len(judged)} groups{ignored}"
    return Judgement(gate, not failed, worst, reason)


def _judge(gate: Gate, comparison: Comparison, incomparable: str) -> Judgement:
    value = comparison.candidate[gate.metric].value
    if comparison.rows < gate.minimum_rows:
        reason = f"{comparison.rows} rows are fewer than {gate.minimum_rows}: nothing was shown"
        return Judgement(gate, False, value, reason)
    if value is None or comparison.positives in (0, comparison.rows):
        only = int(comparison.positives > 0)
        return Judgement(gate, False, value, f"all {comparison.rows} labels are {only}: nothing was shown")
    met: list[str] = []
    missed: list[str] = []
    for bound, holds, words in (
        (gate.at_least, value >= (gate.at_least or 0) - _TOLERANCE, "at least"),
        (gate.at_most, value <= (gate.at_most or 0) + _TOLERANCE, "at most"),
    ):
        if bound is not None:
            (met if holds else missed).append(f"{value:.4f} is {'' if holds else 'not '}{words} {bound:g}")
    if gate.worse_by_at_most is not None:
        passed, reason = _against_champion(gate.metric, gate.worse_by_at_most, comparison, incomparable)
        (met if passed else missed).append(reason)
    return Judgement(gate, not missed, value, "; ".join(missed or met))


def _against_champion(
    metric: str, bound: float, comparison: Comparison, incomparable: str
) -> tuple[bool, str]:
    if incomparable:
        return False, incomparable
    if comparison.differences is None:
        return True, "there is no champion yet"
    difference = comparison.differences[metric]
    if difference.value is None:
        return False, "the difference to the champion is not defined on these rows: nothing was shown"
    # The unfavourable end of the interval; the difference itself when there was no resampling.
    ends = [end for end in (difference.low, difference.high, difference.value) if end is not None]
    worse_by = -min(ends) if HIGHER_IS_BETTER[metric] else max(ends)
    said = f"{difference.value:+.4f} against the champion"
    if difference.low is not None and difference.high is not None:
        said += f" (95 % interval {difference.low:+.4f} to {difference.high:+.4f})"
    if worse_by <= bound + _TOLERANCE:
        return True, f"{said}: worse by at most {max(worse_by, 0.0):.4f}"
    return False, f"{said}: may be worse by {worse_by:.4f}, more than {bound:g}"
