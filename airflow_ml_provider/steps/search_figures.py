"""What people look at after a search: its history, which parameters mattered, and where the good values lie."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl

from airflow_ml_provider.contract.search import Choices
from airflow_ml_provider.steps.figures import BLUE, GREY, ORANGE, drawing
from airflow_ml_provider.steps.reports import Report
from airflow_ml_provider.steps.search_ask import study_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from airflow_ml_provider.steps.search_study import Study
    from airflow_ml_provider.steps.search_summary import Summary

# More points than that only make a page heavy: each is an element of it.
_MOST_POINTS = 500
_MOST_SLICES = 8
_ENOUGH_TO_WEIGH = 20
_TOP = 10


def keep(study: Study, summary: Summary, folder: Path) -> Path:
    """Write the trials as a table, figures of them, and a page; gives the folder."""
    folder.mkdir(exist_ok=True)
    table(study, summary).write_parquet(folder / "trials.parquet")
    weights = importances(study, summary)
    space = msgspec.to_builtins(study.arguments)
    told = {"arguments": space, "importances": weights, "summary": summary.facts()}
    (folder / "search.json").write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1))
    metric = study.arguments.metric
    report = Report(f"Search for the best {summary.metric}", f"by {study.arguments.function}")
    best = summary.best
    said = f"{summary.metric} {best.value:.6g}, trial {best.number}" if best else "No trial is done"
    report.verdict(
        said, good=best is not None, details=[f"{k} = {v}" for k, v in best.params.items()] if best else []
    )
    report.facts(
        {name: value for name, value in summary.facts().items() if not isinstance(value, (list, dict))}
    )
    for name, caption, figure in _figures(study, summary, weights):
        figure.savefig(folder / f"{name}.png", dpi=110, facecolor="white")
        report.heading(name.capitalize())
        report.figure(figure, caption)
    names = list(study.arguments.space)
    rows = [
        [each.number, each.value, *(each.params[name] for name in names)] for each in summary.leading(_TOP)
    ]
    if rows:
        report.heading("Best trials")
        report.table(["trial", metric.removeprefix("-"), *names], rows)
    (folder / "report.html").write_bytes(report.html())
    return folder


def table(study: Study, summary: Summary) -> pl.DataFrame:
    """All trials that ended, one a row: number, state, value, parameters, other metrics, seconds, error."""
    rounds = {number: each.number for each in study.rounds for number in range(each.first, each.end)}
    others = sorted({name for _, record in summary.trials for name in record.metrics} - {summary.metric})
    columns: dict[str, Any] = {
        "number": [record.number for _, record in summary.trials],
        "round": [rounds[record.number] for _, record in summary.trials],
        "state": [record.state for _, record in summary.trials],
        "value": pl.Series(
            [record.metrics.get(summary.metric) for _, record in summary.trials], dtype=pl.Float64
        ),
    }
    for name, dimension in study.arguments.space.items():
        values = [params[name] for params, _ in summary.trials]
        mixed = (
            isinstance(dimension, Choices) and len({type(value) for value in dimension.of} - {type(None)}) > 1
        )
        columns[f"param_{name}"] = [None if v is None else str(v) for v in values] if mixed else values
    for name in others:
        columns[f"metric_{name}"] = pl.Series(
            [record.metrics.get(name) for _, record in summary.trials], dtype=pl.Float64
        )
    return pl.DataFrame(
        {
            **columns,
            "reports": [len(record.reports) for _, record in summary.trials],
            "tries": [record.tries for _, record in summary.trials],
            "seconds": [record.seconds for _, record in summary.trials],
            "ended": pl.Series([record.ended for _, record in summary.trials], dtype=pl.Int64).cast(
                pl.Datetime("ms", "UTC")
            ),
            "error": pl.Series(
                [record.error.message if record.error else None for _, record in summary.trials],
                dtype=pl.String,
            ),
        },
        strict=False,
    )


def importances(study: Study, summary: Summary) -> dict[str, float]:
    """How much each parameter decides whether a trial is among the best tenth, by PED-ANOVA; they sum to 1.

    Watanabe, Bansal and Hutter 2023; empty with few trials, or where Optuna is not installed.
    """
    if summary.done < _ENOUGH_TO_WEIGH or len(study.arguments.space) < 2:
        return {}
    try:
        import optuna
    except ImportError:
        return {}
    done = [told for told in summary.trials if told[1].state == "done"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        try:
            found = optuna.importance.get_param_importances(
                study_of(study.arguments, done), evaluator=evaluator
            )
        except (ValueError, RuntimeError) as error:
            # All values equal, say: then there is nothing to weigh.
            study.step.log.info("the importance of parameters cannot be told: %s", error)
            return {}
    return {name: round(float(value), 4) for name, value in found.items()}


def _figures(study: Study, summary: Summary, weights: dict[str, float]) -> list[tuple[str, str, Figure]]:
    done = [told for told in summary.trials if told[1].state == "done"]
    if not done:
        return []
    found = [_history(summary)]
    if weights:
        with drawing(height=0.6 + 0.32 * len(weights)) as (figure, (axes,)):
            names = list(weights)[::-1]
            axes.barh(names, [weights[name] for name in names], color=BLUE)
            axes.set_xlabel("importance")
        found.append(
            ("importance", "How much each parameter decides whether a trial is among the best tenth", figure)
        )
    found.append(_slices(study, summary, weights))
    return found


def _history(summary: Summary) -> tuple[str, str, Figure]:
    ended = [record for _, record in summary.trials if record.state == "done"]
    numbers = np.array([record.number for record in ended])
    values = np.array([record.metrics[summary.metric] for record in ended])
    best = (np.minimum if summary.sign > 0 else np.maximum).accumulate(values)
    shown = _thinned(len(values))
    with drawing() as (figure, (axes,)):
        axes.scatter(numbers[shown], values[shown], s=8, color=GREY, label="trial")
        axes.step(numbers, best, where="post", color=ORANGE, label="best so far")
        stopped = np.array([record.number for _, record in summary.trials if record.state == "stopped"])
        if len(stopped):
            places = stopped[_thinned(len(stopped))]
            floor = np.full(len(places), 0.02)
            at_the_bottom = axes.get_xaxis_transform()
            axes.plot(
                places, floor, "|", color=BLUE, markersize=5, transform=at_the_bottom, label="stopped early"
            )
        _see_the_middle(axes, values)
        axes.set_xlabel("trial")
        axes.set_ylabel(summary.metric)
        axes.legend()
    few = "" if len(values) <= _MOST_POINTS else f" {_MOST_POINTS:,} of {len(values):,} trials are shown."
    return "history", f"What each trial gave, and the best so far.{few}", figure


def _slices(study: Study, summary: Summary, weights: dict[str, float]) -> tuple[str, str, Figure]:
    names = sorted(study.arguments.space, key=lambda name: -weights.get(name, 0.0))[:_MOST_SLICES]
    done = [told for told in summary.trials if told[1].state == "done"]
    shown = [done[place] for place in _thinned(len(done))]
    values = np.array([record.metrics[summary.metric] for _, record in shown])
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    with drawing(rows=rows, columns=columns, height=2.6 * rows) as (figure, grid):
        for name, axes in zip(names, grid, strict=False):
            dimension = study.arguments.space[name]
            if isinstance(dimension, Choices):
                at: Any = [dimension.of.index(params[name]) for params, _ in shown]
                axes.set_xticks(range(len(dimension.of)), [str(value)[:12] for value in dimension.of])
            else:
                at = [params[name] for params, _ in shown]
                if dimension.log:
                    axes.set_xscale("log")
            axes.scatter(at, values, s=7, color=BLUE, alpha=0.6)
            if summary.best is not None:
                best = summary.best.params[name]
                best = dimension.of.index(best) if isinstance(dimension, Choices) else best
                axes.scatter([best], [summary.best.value], s=30, color=ORANGE, zorder=3)
            _see_the_middle(axes, values)
            axes.set_xlabel(name)
        for axes in grid[len(names) :]:
            axes.set_visible(False)
        grid[0].set_ylabel(summary.metric)
    return "slices", "The value of trials by each parameter; the best one is marked.", figure


def _see_the_middle(axes: Axes, values: Any) -> None:
    """Let a few far-off values not press all others into a line."""
    low, high = np.percentile(values, [1, 99])
    least, most = values.min(), values.max()
    if len(values) >= _ENOUGH_TO_WEIGH and high > low and (most - least) > 5 * (high - low):
        margin = 0.15 * (high - low)
        axes.set_ylim(low - margin, high + margin)


def _thinned(count: int) -> Any:
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(int))
