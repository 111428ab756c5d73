"""The monitor's report: the verdict, what moved and how, and how the predictions turned out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.steps.drift import LEAST_PARTITIONS, Drift, all_counts
from airflow_ml_provider.steps.monitor_findings import Findings, PartitionDrift
from airflow_ml_provider.steps.profiles import ColumnProfile, bin_labels
from airflow_ml_provider.steps.reports import Badge, Report, Share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from airflow_ml_provider.steps.monitor_labels import Performance
    from airflow_ml_provider.steps.retraining import Decision

_MOST_BARS = 25
_MOST_HISTOGRAMS = 6
_MOST_REASONS = 8
_MOST_CATEGORIES_DRAWN = 12
_LONGEST_NAME = 36

_METHOD = """The population stability index (PSI) sums (q - p) ln(q / p) over bins, p being the share of
the reference's rows in a bin and q the share of these rows. Bins are deciles of the reference with one bin
on either side for values it never held, or categories; nulls are a bin of their own.

A column has moved when its PSI is above its limit: the larger of {max_psi:g} and what is usual, plus what
chance alone gives with so many rows. What is usual is the 95th percentile of the PSI of single partitions
of the reference against all its others: the rows of one day share their weather and their delays, so any
day differs from the months it is part of, and it is the size of that difference that tells a strange day.
{known}

The verdict is "drifted" when the score moved or more than {share:.0%} of the features did{auc}. Partitions
with fewer than {rows:,} rows get no verdict. The two-sample test (Kolmogorov-Smirnov from the bins for
numbers, chi-square for categories) takes rows as independent, which those of one day are not; its D is a
lower bound, and its p-value decides nothing."""


def build_report(findings: Findings) -> Report:
    """The page for people."""
    worst = findings.worst
    report = Report(
        f"Monitoring of {worst.model.name}",
        f"{findings.label} against the reference of version {worst.model.version}",
    )
    _verdict(report, findings)
    report.facts(_facts(findings))
    if len(findings.partitions) > 1:
        _partitions(report, findings)
    _score(report, worst)
    if findings.performance:
        _performance(report, findings, findings.performance)
    if findings.retraining:
        _retraining(report, findings.retraining)
    _features(report, worst)
    report.heading("How this is decided")
    report.text(_method(findings))
    return report


def _verdict(report: Report, findings: Findings) -> None:
    if findings.drifted:
        reasons = findings.reasons()
        more = [f"and {len(reasons) - _MOST_REASONS} more"] if len(reasons) > _MOST_REASONS else []
        report.verdict("Drifted", good=False, details=[*reasons[:_MOST_REASONS], *more])
    elif findings.decided:
        report.verdict("Calm: nothing moved further than usual", good=True)
    else:
        report.verdict(f"No verdict: fewer than {findings.arguments.minimum_rows:,} rows", good=None)


def _facts(findings: Findings) -> dict[str, Any]:
    worst, judged = findings.worst, findings.performance
    facts: dict[str, Any] = {
        "Model": f"{worst.model.name}/{worst.model.version}",
        "Predictions": findings.rows,
        "PSI of the score": f"{worst.score.psi:.2f} (limit {worst.score.psi_limit:.2f})",
        "Features that moved": f"{len(worst.drifted_features)} of {len(worst.features)}",
    }
    if len(findings.partitions) > 1:
        facts["Partitions"] = len(findings.partitions)
    if judged:
        facts["Labels matured"] = Share(judged.share)
        facts["ROC AUC"] = findings.roc_auc
    if findings.arguments.ignore:
        facts["Ignored features"] = findings.arguments.ignore
    return facts


def _partitions(report: Report, findings: Findings) -> None:
    from airflow_ml_provider.steps.figures import BLUE, GREY, RED, drawing

    report.heading("Partitions")
    parts = findings.partitions
    with drawing(height=2.8) as (figure, (axes,)):
        places = range(len(parts))
        axes.plot(places, [part.score.psi_limit for part in parts], color=GREY, linestyle="--", label="limit")
        axes.plot(places, [part.score.psi for part in parts], color=BLUE, marker="o", label="score")
        moved = [n for n, part in enumerate(parts) if part.drifted]
        axes.plot(moved, [parts[n].score.psi for n in moved], "o", color=RED, label="drifted")
        step = max(1, -(-len(parts) // 10))
        axes.set_xticks([*places][::step], [part.partition for part in parts][::step])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("PSI of the score")
        axes.legend(ncols=3, loc="upper left")
    report.figure(figure, "PSI of the score, partition by partition; what follows is about the worst one.")
    rows = [
        [
            part.partition,
            f"{part.model.name}/{part.model.version}",
            part.rows,
            part.score.psi,
            part.score.psi_limit,
            f"{len(part.drifted_features)} of {len(part.features)}",
            _badge(part.drifted if part.decided else None, "drifted", "calm"),
        ]
        for part in parts
    ]
    report.table(["partition", "model", "rows", "score PSI", "limit", "features that moved", "verdict"], rows)


def _score(report: Report, worst: PartitionDrift) -> None:
    from airflow_ml_provider.steps.figures import drawing

    report.heading(f"Score, {worst.partition}")
    with drawing(height=2.8) as (figure, (axes,)):
        _draw_shares(axes, worst.reference["score"], worst.current["score"])
        axes.set_xlabel("score")
        axes.set_ylabel("share of rows")
        axes.legend()
    report.figure(
        figure, f"Share of {worst.rows:,} scores of {worst.partition} in each bin of the reference."
    )


def _features(report: Report, worst: PartitionDrift) -> None:
    from airflow_ml_provider.steps.figures import BLUE, INK, RED, drawing

    if not worst.features:
        return
    report.heading(f"Features, {worst.partition}")
    ordered = sorted(worst.features, key=lambda drift: (-drift.relative, drift.name))
    shown = ordered[:_MOST_BARS]
    with drawing(height=0.9 + 0.24 * len(shown)) as (figure, (axes,)):
        places = range(len(shown))
        colours = [RED if drift.drifted else BLUE for drift in shown]
        axes.barh(places, [drift.relative for drift in shown], color=colours, height=0.66)
        axes.axvline(1, color=INK, linewidth=1.2)
        axes.set_yticks(places, [_short(drift.name) for drift in shown])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("PSI as a multiple of the feature's limit")
    more = f" The first {_MOST_BARS} of {len(ordered)}." if len(ordered) > _MOST_BARS else ""
    report.figure(figure, f"How far each feature moved; past the line is further than usual.{more}")
    moved = [drift for drift in ordered if drift.drifted][:_MOST_HISTOGRAMS]
    if moved:
        _histograms(report, worst, moved)
    report.table(
        ["feature", "PSI", "limit", "", "test", "statistic", "p-value", "nulls", "nulls in reference"],
        [_measured(drift) for drift in ordered],
        "Every feature. ks: Kolmogorov-Smirnov's D; chi2: Pearson's chi-square.",
    )


def _measured(drift: Drift) -> list[Any]:
    return [
        drift.name,
        drift.psi,
        drift.psi_limit,
        _badge(drift.drifted, "moved", "usual"),
        drift.test,
        drift.statistic,
        drift.p_value,
        Share(drift.null_share),
        Share(drift.reference_null_share),
    ]


def _histograms(report: Report, worst: PartitionDrift, moved: Sequence[Drift]) -> None:
    from airflow_ml_provider.steps.figures import drawing

    lines = -(-len(moved) // 2)
    with drawing(rows=lines, columns=2, height=2.7 * lines) as (figure, panels):
        for axes, drift in zip(panels, moved, strict=False):
            name = drift.name
            _draw_shares(axes, worst.reference[name], worst.current[name])
            axes.set_title(_short(name))
        for axes in panels[len(moved) :]:
            axes.set_axis_off()
        panels[0].legend()
    report.figure(figure, "The features that moved furthest: share of rows in each bin of the reference.")


def _draw_shares(axes: Axes, reference: ColumnProfile, current: ColumnProfile) -> None:
    from airflow_ml_provider.steps.figures import BLUE, GREY

    labels, before, after = _shares(reference, current)
    width = 0.42
    places = range(len(labels))
    axes.bar([n - width / 2 for n in places], before, width, color=GREY, label="reference")
    axes.bar([n + width / 2 for n in places], after, width, color=BLUE, label="these rows")
    axes.set_xticks(places, labels, rotation=35, ha="right", rotation_mode="anchor")
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")


def _shares(reference: ColumnProfile, current: ColumnProfile) -> tuple[list[str], list[float], list[float]]:
    """Labels and shares of the bins that hold anything; of many categories, those that changed most."""
    before, after = all_counts(reference), all_counts(current)
    n, m = max(sum(before), 1), max(sum(after), 1)
    labels = [*(_short(label, 16) for label in bin_labels(reference)), "other", "null"]
    bins = [(label, a / n, b / m) for label, a, b in zip(labels, before, after, strict=True) if a or b]
    if reference["kind"] == "categorical" and len(bins) > _MOST_CATEGORIES_DRAWN:
        bins = sorted(bins, key=lambda part: -abs(part[2] - part[1]))[:_MOST_CATEGORIES_DRAWN]
    return [part[0] for part in bins], [part[1] for part in bins], [part[2] for part in bins]


def _performance(report: Report, findings: Findings, everything: Performance) -> None:
    report.heading("How the predictions turned out")
    until = f" by {findings.arguments.known_at}" if findings.arguments.known_at else ""
    report.text(
        f"Of {everything.predicted:,} predictions, the labels of {everything.matured:,} had matured{until} "
        f"({everything.share:.1%}); only these are judged. The other "
        f"{everything.predicted - everything.matured:,} are without label: late, or never to come (as of a "
        "cancelled flight), which cannot be told apart before a label comes. Labels that come early may be of "
        "another kind than those that come late: while few have matured, the metrics say little."
    )
    lines = [(part.partition, findings.performance_by.get(part.partition)) for part in findings.partitions]
    if len(lines) > 1:
        lines.append(("all", everything))
    report.table(
        [*_JUDGED, "ROC AUC", "log loss", "Brier score"],
        [_judged(name, judged) for name, judged in lines if judged],
        f"Metrics are given from {findings.arguments.minimum_rows:,} matured labels of both classes.",
    )
    intervals = [
        [name, estimate.value, estimate.low, estimate.high] for name, estimate in everything.metrics.items()
    ]
    if intervals:
        report.table(
            ["metric", "value", "from", "to"],
            intervals,
            "All matured labels, with 95 % bootstrap intervals.",
        )
    if findings.again:
        report.table(
            [*_JUDGED, "ROC AUC", "log loss", "Brier score", "before"],
            [
                [*_judged(part.partition, findings.performance_by[part.partition]), part.before]
                for part in findings.again
            ],
            "Earlier partitions, looked at again: more labels have matured than before, at the last look.",
        )


def _retraining(report: Report, decision: Decision) -> None:
    report.heading("Retraining")
    said = decision.sentence()
    report.text(f"{said[0].upper()}{said[1:]}.")
    if decision.reasons:
        report.table(["rule", "because"], [[reason.rule, reason.because] for reason in decision.reasons])


_JUDGED = ("partition", "predicted", "matured", "share", "without label", "share of 1")


def _judged(name: str, judged: Performance) -> list[Any]:
    values = [
        estimate.value if (estimate := judged.metrics.get(metric)) else None
        for metric in ("roc_auc", "log_loss", "brier_score")
    ]
    positive = Share(judged.positives / judged.matured) if judged.matured else None
    without = judged.predicted - judged.matured
    return [name, judged.predicted, judged.matured, Share(judged.share), without, positive, *values]


def _method(findings: Findings) -> str:
    usual = findings.worst.reference["score"].get("usual")
    partitions = usual["partitions"] if usual else 0
    known = f"The score's reference has {partitions:,} partitions"
    if partitions < LEAST_PARTITIONS:
        known += f", too few to tell what is usual, so {findings.arguments.max_psi:g} is used by itself"
    least = findings.arguments.min_roc_auc
    return _METHOD.format(
        max_psi=findings.arguments.max_psi,
        known=f"{known}.",
        share=findings.arguments.max_drifted_share,
        auc=f", or the ROC AUC on matured labels is below {least:g}" if least is not None else "",
        rows=findings.arguments.minimum_rows,
    )


def _badge(drifted: bool | None, yes: str, no: str) -> Badge:
    return Badge("no verdict") if drifted is None else Badge(yes if drifted else no, good=not drifted)


def _short(name: str, most: int = _LONGEST_NAME) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
