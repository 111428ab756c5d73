"""The numbers behind the gates, as tables of a report: comparisons with the champion, and by slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.gates import COMPARISONS
from airflow_ml_provider.steps.reports import Badge, Report

if TYPE_CHECKING:
    from airflow_ml_provider.steps.judgement import Judgement
    from airflow_ml_provider.steps.rules import Rule

_MOST_ROWS = 40
_CLAIMS = {"better_by_at_least": "better by more than {:g}", "worse_by_at_most": "worse by at most {:g}",
           "harm_limit": "harm: worse by more than {:g}"}  # fmt: skip


def outcome_badge(passed: bool) -> Badge:
    """A green or a red word."""
    return Badge("passed" if passed else "failed", passed)


def rule_tables(report: Report, judgements: Sequence[Judgement]) -> None:
    """One table of the comparisons on all rows, and one for each gate that is sliced."""
    overall = [
        rule
        for judgement in judgements
        for rule in judgement.rules
        if rule.column is None and rule.rule in COMPARISONS and rule.estimate is not None
    ]
    if overall:
        report.table(
            ["Metric", "Claim", "Difference", "Interval", "p", "Shown at", ""],
            [[rule.metric, _claim(rule), *_numbers(rule), rule.p, _level(rule), outcome_badge(rule.passed)]
             for rule in overall],
            "Comparisons with the champion: candidate minus champion, one-sided p-values",
        )  # fmt: skip
    for judgement in judgements:
        if judgement.gate.slice_by is not None and judgement.rules:
            _of_slices(report, judgement)


def _of_slices(report: Report, judgement: Judgement) -> None:
    rules = sorted(judgement.rules, key=lambda rule: rule.passed)
    compared = any(rule.p is not None for rule in rules)
    headers = [judgement.gate.slice_by or "", "Rows", "Positives", "Estimate", "Interval",
               *(["p", "p after Holm"] if compared else []), ""]  # fmt: skip
    lines: list[list[Any]] = []
    for rule in rules[:_MOST_ROWS]:
        value = "(missing)" if rule.value is None else rule.value
        p_values = [rule.p, rule.adjusted_p] if compared else []
        lines.append(
            [value, rule.rows, rule.positives, *_numbers(rule), *p_values, outcome_badge(rule.passed)]
        )
    caption = str(judgement.gate)
    if compared:
        level = _level(next(rule for rule in rules if rule.p is not None))
        caption += f"; shown at {level} after Holm"
    left_out = len(rules) - len(lines)
    report.table(headers, lines, caption + (f"; {left_out} more passed" if left_out else ""))


def _claim(rule: Rule) -> str:
    return _CLAIMS[rule.rule].format(rule.bound)


def _level(rule: Rule) -> str:
    return f"p ≤ {(1 - rule.confidence) / 2:g}"


def _numbers(rule: Rule) -> list[str]:
    sign = "+" if rule.rule in COMPARISONS else ""
    if rule.estimate is None:
        return ["–", "–"]
    if rule.low is None or rule.high is None:
        return [f"{rule.estimate:{sign}.4f}", "–"]
    return [f"{rule.estimate:{sign}.4f}", f"[{rule.low:{sign}.4f}, {rule.high:{sign}.4f}]"]
