"""The page that shows why a candidate was promoted or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_ml_provider.contract.brief import shortened
from airflow_ml_provider.contract.gates import METRICS
from airflow_ml_provider.steps.figures import BLUE, GREY, MUTED, ORANGE, drawing
from airflow_ml_provider.steps.metrics import CALIBRATION_BINS, Comparison, Estimate
from airflow_ml_provider.steps.reports import Report
from airflow_ml_provider.steps.rule_tables import outcome_badge, rule_tables
from airflow_ml_provider.steps.rules import LONGEST_VALUE
from airflow_ml_provider.steps.verdict import failures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.behaviour import Line
    from airflow_ml_provider.steps.importance import Importance
    from airflow_ml_provider.steps.judgement import Group, Judgement
    from airflow_ml_provider.steps.measurement import Measured

    Floats = NDArray[np.float64]

_MOST_GROUPS = 40
_MOST_FEATURES = 25
_CURVE_POINTS = 400
# Longer names leave no room for what is drawn.
_LABEL = 40


@dataclass(frozen=True)
class Evaluation:
    """All that the page shows.

    :param facts: names and values that stand at its top.
    :param lines: the outcomes of the behavioural tests.
    :param changes: what differs from the champion: ``what``, ``champion``, ``candidate``.
    :param extra_sections: each adds its headings, tables and figures to the page's end.
    """

    title: str
    promote: bool
    facts: Mapping[str, Any]
    measured: Measured
    judgements: Sequence[Judgement]
    importance: Sequence[Importance]
    lines: Sequence[Line] = ()
    changes: Sequence[Mapping[str, str]] = ()
    extra_sections: Sequence[Callable[[Report], None]] = ()


def render(evaluation: Evaluation) -> bytes:
    """The page, as HTML."""
    measured = evaluation.measured
    how = "paired" if measured.champion_labels is None else "between models on rows of their own"
    report = Report(evaluation.title, f"Metrics with 95 % bootstrap intervals; differences are {how}.")
    failed = failures(evaluation.judgements, evaluation.lines)
    said = "Every gate passed" if evaluation.judgements else "No gate was given"
    if evaluation.lines:
        said += (
            f", {sum(line.passed for line in evaluation.lines)} of {len(evaluation.lines)} behavioural tests"
        )
    report.verdict(
        f"{said}: promote" if evaluation.promote else "Rejected", good=evaluation.promote, details=failed
    )
    report.facts(evaluation.facts)
    if evaluation.judgements:
        report.heading("Gates")
        report.table(["Gate", "", "Why"], [_gate_row(each) for each in evaluation.judgements])
        rule_tables(report, evaluation.judgements)
    if evaluation.lines:
        report.heading("Behaviour")
        report.table(["Test", "", "Why"], [_line_row(line) for line in evaluation.lines])
    if evaluation.changes:
        report.heading("What changed since the champion")
        cells = [[each["what"], each["champion"], each["candidate"]] for each in evaluation.changes]
        report.table(["", "Champion", "Candidate"], cells)
    report.heading("Metrics")
    report.table(*_metric_table(measured.overall))
    _curves(report, measured)
    for column, groups in measured.groups.items():
        _slices(report, column, groups)
    if evaluation.importance:
        _importance(report, evaluation.importance)
    for section in evaluation.extra_sections:
        section(report)
    return report.html()


def interval(estimate: Estimate) -> str:
    """An estimate for people: ``0.7618 [0.7550, 0.7690]``."""
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _gate_row(judgement: Judgement) -> list[Any]:
    return [str(judgement.gate), outcome_badge(judgement.passed), judgement.reason]


def _line_row(line: Line) -> list[Any]:
    return [line.text, outcome_badge(line.passed), line.message]


def _metric_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    champion, differences = comparison.champion, comparison.differences
    if champion is None or differences is None:
        return ["", "Candidate"], [[name, interval(comparison.candidate[name])] for name in METRICS]
    rows = [
        [name, interval(comparison.candidate[name]), interval(champion[name]), interval(differences[name])]
        for name in METRICS
    ]
    return ["", "Candidate", "Champion", "Difference"], rows


def _curves(report: Report, measured: Measured) -> None:
    if measured.overall.positives in (0, measured.overall.rows):
        return
    drawn = list(zip(measured.scores, (BLUE, ORANGE), ("candidate", "champion"), strict=False))
    with drawing(columns=2, height=4.2) as (figure, (roc, calibration)):
        for axes in (roc, calibration):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
        for number, (scores, colour, name) in enumerate(drawn):
            labels = measured.labels
            if number and measured.champion_labels is not None:
                labels = measured.champion_labels
            _roc(roc, labels, scores, colour, name)
            _calibration(calibration, labels, scores, colour, name)
        roc.set(title="ROC", xlabel="False positive rate", ylabel="True positive rate")
        calibration.set(title="Calibration", xlabel="Mean score", ylabel="Share of positives")
        roc.legend(loc="lower right")
        calibration.legend(loc="upper left")
    bins = f"{CALIBRATION_BINS} bins of equal counts"
    report.figure(figure, f"ROC curve, and share of positives by score in {bins}")


def _roc(axes: Axes, labels: NDArray[np.int8], scores: Floats, colour: str, name: str) -> None:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(labels[order], dtype=np.int64)[last]
    alarms = last + 1 - hits
    # As many points as a curve can show, so that the page does not grow with the rows.
    shown = np.unique(np.linspace(0, len(last) - 1, min(len(last), _CURVE_POINTS)).astype(int))
    x, y = alarms[shown] / alarms[-1], hits[shown] / hits[-1]
    axes.plot(np.insert(x, 0, 0), np.insert(y, 0, 0), color=colour, label=name)


def _calibration(axes: Axes, labels: NDArray[np.int8], scores: Floats, colour: str, name: str) -> None:
    bins = np.array_split(np.argsort(scores, kind="stable"), CALIBRATION_BINS)
    points = [(scores[each].mean(), labels[each].mean()) for each in bins if len(each)]
    axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=name)


def _slices(report: Report, column: str, groups: Sequence[Group]) -> None:
    report.heading(f"By {column}")
    shown = list(groups[:_MOST_GROUPS])
    both = any(group.comparison.differences for group in shown)
    compared = ["Difference"] if both else []
    headers = [column, "Rows", "Positives", "ROC AUC", *compared, "Calibration error"]
    lines = []
    for group in shown:
        found = group.comparison
        difference = [interval((found.differences or found.candidate)["roc_auc"])] if both else []
        ranked, calibrated = (interval(found.candidate[name]) for name in ("roc_auc", "calibration_error"))
        value = "(missing)" if group.value is None else shortened(group.value, LONGEST_VALUE)
        lines.append([value, found.rows, found.positives, ranked, *difference, calibrated])
    left_out = len(groups) - len(shown)
    report.table(headers, lines, f"{left_out} smaller groups are not shown" if left_out else "")
    drawn = [group for group in shown if group.comparison.candidate["roc_auc"].low is not None]
    if len(drawn) < 2:
        return
    with drawing(height=0.9 + 0.24 * len(drawn)) as (figure, (axes,)):
        for place, group in enumerate(drawn[::-1]):
            auc = group.comparison.candidate["roc_auc"]
            ends = [end for end in (auc.low, auc.high) if end is not None]
            axes.plot(ends, [place] * len(ends), color=BLUE, linewidth=3, alpha=0.4)
            axes.plot(auc.value or 0.0, place, color=BLUE, marker="o", markersize=5)
        axes.set_yticks(
            range(len(drawn)), [shortened(group.value or "(missing)", _LABEL) for group in drawn[::-1]]
        )
        axes.set(xlabel="ROC AUC of the candidate", ylim=(-0.6, len(drawn) - 0.4))
        axes.grid(visible=False, axis="y")
    report.figure(figure, f"ROC AUC by {column}, with 95 % intervals")


def _importance(report: Report, importance: Sequence[Importance]) -> None:
    report.heading("Permutation importance")
    shown = list(reversed(importance[:_MOST_FEATURES]))
    with drawing(height=0.9 + 0.24 * len(shown)) as (figure, (axes,)):
        places = range(len(shown))
        axes.barh(places, [each.drop for each in shown], color=BLUE, height=0.6)
        for place, each in zip(places, shown, strict=True):
            axes.plot([each.low, each.high], [place, place], color=MUTED, linewidth=1)
        axes.set_yticks(places, [each.feature for each in shown])
        axes.set(xlabel="Loss of ROC AUC when the feature is shuffled")
        axes.grid(visible=False, axis="y")
    report.figure(figure, "Mean of two permutations, and both, on a sample of the rows")
