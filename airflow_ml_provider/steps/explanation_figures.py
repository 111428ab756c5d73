"""The part of a report that shows what moved a model's scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from airflow_ml_provider.steps.explanations import LEAST_GROUP_ROWS
from airflow_ml_provider.steps.figures import BLUE, GREY, INK, ORANGE, PURPLE, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.explanations import Deviation, Explanation
    from airflow_ml_provider.steps.reports import Report

    Floats = NDArray[np.float64]

_MOST_FEATURES = 15
_MOST_DEVIATIONS = 12
_LONGEST_NAME = 28
# Dots of one feature: a figure is worth a hundred kilobytes, not ten megabytes.
_DOTS = 300
_DOT = 3.0  # points
_COLUMNS = 90
# What the dots' colours stand for, in the order of the legend.
_KINDS = {"low value": BLUE, "between": GREY, "high value": ORANGE, "text": PURPLE, "missing": INK}
_METHOD = (
    "A feature's contribution is its SHAP value in log-odds: a row's contributions and the base of {base:+.3f} add up "
    "to the log-odds of its score (+0.69 doubles the odds). It says what moved the scores, where permutation "
    "importance says what the ranking loses; neither says what causes what. Taken from {rows:,} rows."
)


def section(report: Report, explanation: Explanation) -> None:
    """Put the explanation of a model into a report: importance, and a table for each column sliced by."""
    report.heading("Contributions to the score")
    if explanation.why_not:
        report.text(explanation.why_not)
        return
    found = explanation.contributions
    report.text(_METHOD.format(base=found.base, rows=len(found.values)))
    _importance(report, explanation)
    for column, listed in explanation.slices.items():
        _deviations(report, column, listed, explanation.left_out[column])


def _importance(report: Report, explanation: Explanation) -> None:
    shown = list(explanation.importance)[:_MOST_FEATURES]
    found = explanation.contributions
    with drawing(columns=2, height=1.4 + 0.34 * len(shown)) as (figure, (bars, swarm)):
        places = range(len(shown))
        bars.barh(places, [explanation.importance[name] for name in shown], color=BLUE, height=0.6)
        bars.set_yticks(places, [_short(name) for name in shown])
        bars.set(title="Mean size", xlabel="Mean |contribution|, log-odds")
        swarm.axvline(0, color=GREY, linewidth=1)
        swarm.set(title="Row by row", xlabel="Contribution, log-odds")
        swarm.set_yticks(places, [""] * len(shown))
        for axes in (bars, swarm):
            axes.set_ylim(len(shown) - 0.4, -0.6)
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
        columns = [found.features.index(name) for name in shown]
        _swarms(swarm, found.values[:, columns], explanation.sample.select(shown))
        figure.legend(loc="outside lower right", ncols=len(_KINDS), handletextpad=0.1, columnspacing=0.9)
    left = len(explanation.importance) - len(shown)
    more = f"; {left} features that say less are not shown" if left > 0 else ""
    report.figure(figure, f"What moves the scores; right, each dot is a row, coloured by its value{more}")


def _swarms(axes: Axes, values: Floats, features: pl.DataFrame) -> None:
    """Dots for each feature, one path for each colour: an SVG element a dot would weigh megabytes."""
    # Evenly over the sample, which is in no order that matters.
    rows = np.unique(np.linspace(0, len(values) - 1, min(len(values), _DOTS)).astype(int))
    low, high = float(values[rows].min()), float(values[rows].max())
    margin = 0.03 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)
    kinds = np.array([_kinds(series)[rows] for series in features.get_columns()])
    x = values[rows].T
    y = np.array([_spread(each, low, high) for each in x]) + np.arange(len(x))[:, None]
    for kind, colour in _KINDS.items():
        chosen = kinds == kind
        if not chosen.any():
            continue
        points = np.repeat(np.column_stack([x[chosen], y[chosen]]), 2, axis=0)
        path = Path(points, np.tile([Path.MOVETO, Path.LINETO], len(points) // 2))
        path.should_simplify = False  # it would take lines of no length, which are the dots, away
        axes.add_patch(
            PathPatch(path, fill=False, edgecolor=colour, linewidth=_DOT, capstyle="round", alpha=0.75)
        )
        axes.plot([], [], "o", color=colour, markersize=4, label=kind)


def _kinds(values: pl.Series) -> NDArray[np.str_]:
    """Which third of a feature's values each is in; of two values, the lower and the higher."""
    if values.dtype == pl.String:
        return np.where(values.is_null(), "missing", "text")
    known = values.fill_nan(None)
    place = (known.rank("average") - 0.5) / max(1, known.len() - known.null_count())
    least, most = known.min(), known.max()
    found = pl.select(
        pl.when(known.is_null())
        .then(pl.lit("missing"))
        .when(pl.lit(least == most))
        .then(pl.lit("between"))
        .when((known == least) | (place < 1 / 3))
        .then(pl.lit("low value"))
        .when((known == most) | (place > 2 / 3))
        .then(pl.lit("high value"))
        .otherwise(pl.lit("between"))
        .alias("kind")
    )
    return found["kind"].to_numpy()


def _spread(x: Floats, low: float, high: float) -> Floats:
    """How far from the middle of its line each dot is drawn, so that dots near each other are seen apart."""
    column = np.floor((x - low) / ((high - low) or 1.0) * _COLUMNS).astype(int)
    order = np.argsort(column, kind="stable")
    starts = np.flatnonzero(np.diff(column[order], prepend=-1))
    counts = np.diff(np.append(starts, len(x)))
    rank = np.empty(len(x), int)
    rank[order] = np.arange(len(x)) - np.repeat(starts, counts)
    # Above and below in turn: 0, 1, -1, 2, -2, ...
    step = np.where(rank % 2, (rank + 1) // 2, -(rank // 2))
    return step * min(0.09, 0.76 / max(1, int(counts.max())))


def _deviations(report: Report, column: str, listed: Sequence[Deviation], left_out: int) -> None:
    shown = [each for each in listed if each.difference][:_MOST_DEVIATIONS]
    few = f"groups with fewer than {LEAST_GROUP_ROWS} sampled rows"
    if not shown:
        report.text(f"By {column}: no group's scores are moved otherwise than all; {few}: {left_out}.")
        return
    many = f"{len(shown)} of {len(listed)} differences, " if len(shown) < len(listed) else ""
    report.table(
        [column, "Rows", "Feature", "Mean contribution", "In all rows", "Difference", "Mean size"],
        [
            [
                "(missing)" if each.value is None else each.value,
                each.rows,
                _short(each.feature),
                each.mean,
                each.overall,
                each.difference,
                each.size,
            ]
            for each in shown
        ],
        f"By {column}: what moves a group's log-odds otherwise than everybody's, {many}the largest first"
        + (f"; left out are {few}: {left_out}" if left_out else ""),
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
