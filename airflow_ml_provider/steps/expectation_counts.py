"""What expectations about single rows ask of a table, counted by Polars instead of in a pandas frame.

Great Expectations judges an expectation by a few metrics: how many rows there are, how many are not as
expected, and the first of these. Of expectations that look at one row at a time these are counted in one
pass over all rows, whatever their number, and handed to the expectation, which gives the same
result as over a pandas frame with these rows (a test compares them). What is not known here (another
expectation, a row condition, values of another type) is left to GX and pandas,
:mod:`airflow_ml_provider.steps.expectations`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.steps.context import log
from airflow_ml_provider.steps.expectation_rules import KNOWN, ROW_COUNT, Rule, rule_key, rule_of

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation
    from great_expectations.validator.metric_configuration import MetricConfiguration


# The format of results that GX uses unless told otherwise.
FORMAT = "SUMMARY"
_ROW = " row"
# Rows whose values are held at once to find repeated ones.
_UNIQUE_ROWS = 1_000_000
_BATCH_ROWS = 100_000
# More repeated values than these are not looked for among the rows to show some.
_MOST_REPEATED = 100_000


@dataclass
class _Counted:
    """What was asked of the rows that break a rule."""

    considered: int = 0
    unexpected: int = 0
    rows: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


def evaluate_counted(
    expectations: Mapping[int, Expectation], frame: pl.LazyFrame, rows: int
) -> dict[int, ExpectationValidationResult]:
    """Evaluate those of the expectations that can be counted; the results by the places they were given at.

    :param rows: how many the frame has.
    """
    schema = frame.collect_schema()
    asked: dict[int, list[MetricConfiguration]] = {}
    rules: dict[str, Rule] = {}
    for place, expectation in expectations.items():
        metrics = metrics_of(expectation, KNOWN)
        known = {rule_key(one): rule_of(one, schema) for one in metrics if one.metric_name != ROW_COUNT}
        if metrics and None not in known.values():
            asked[place] = metrics
            rules |= {key: rule for key, rule in known.items() if rule is not None}
    counted = _count(rules, frame)
    results = {}
    for place, metrics in asked.items():
        if any(one.metric_name != ROW_COUNT and rule_key(one) not in counted for one in metrics):
            continue
        values = {one.id: _value(one, counted, rows) for one in metrics}
        if (result := judged(expectations[place], values)) is not None:
            results[place] = result
    return results


def judged(expectation: Expectation, metrics: dict[Any, Any]) -> ExpectationValidationResult | None:
    """What an expectation says of its metrics; None if it cannot: then GX shall say why, over the rows."""
    try:
        return expectation.metrics_validate(metrics, runtime_configuration={"result_format": FORMAT})
    except Exception as error:
        log.debug("%s cannot be judged by what was counted: %s", expectation.expectation_type, error)
        return None


def metrics_of(expectation: Expectation, known: Collection[str]) -> list[MetricConfiguration]:
    """The metrics that an expectation is judged by, if it is one of GX's own that asks for known ones.

    :param known: what it may be about: a rule of rows, or the one metric of a column or the table.
    """
    kind = type(expectation)
    if not kind.__module__.startswith("great_expectations.expectations.core."):
        return []
    about = getattr(kind, "map_metric", None) or next(iter(getattr(kind, "metric_dependencies", ())), None)
    kwargs = expectation.configuration.kwargs
    if about not in known or any("$PARAMETER" in str(value) for value in kwargs.values()):
        return []
    needed = expectation.get_validation_dependencies(runtime_configuration={"result_format": FORMAT})
    return list(needed.metric_configurations.values())


def _count(rules: Mapping[str, Rule], frame: pl.LazyFrame) -> dict[str, _Counted]:
    """How many rows are considered and unexpected by each rule, and the first unexpected ones."""
    if not rules:
        return {}
    asked: list[pl.Expr] = []
    for number, rule in enumerate(rules.values()):
        # A literal is one value, not one a row.
        considered = pl.len() if rule.considered.meta.is_literal() else rule.considered.sum()
        unexpected = pl.lit(0) if rule.unique else rule.unexpected.sum()
        asked += [considered.alias(f"c{number}"), unexpected.alias(f"u{number}")]
    totals = Counter[str]()
    columns = list(dict.fromkeys(name for rule in rules.values() for name in rule.columns))
    # Batch by batch: how much a streaming query itself holds depends on the table's files.
    for batch in frame.select(columns).collect_batches(chunk_size=_BATCH_ROWS, maintain_order=False):
        totals.update(batch.select(asked).row(0, named=True))
    found = {}
    for number, (key, rule) in enumerate(rules.items()):
        counted = _Counted(totals[f"c{number}"], totals[f"u{number}"])
        repeated = _repeated(rule, frame, counted) if rule.unique else rule
        if repeated is not None and (repeated.shown or not counted.unexpected):
            _show(repeated, frame, counted)
            found[key] = counted
    return found


def _show(rule: Rule, frame: pl.LazyFrame, counted: _Counted) -> None:
    """Add the first rows that break a rule."""
    if not counted.unexpected:
        return
    numbered = frame.select(rule.columns).with_row_index(_ROW)
    first = numbered.filter(rule.unexpected).head(20).collect(engine="streaming")
    counted.rows = first[_ROW].to_list()
    columns = [_as_pandas(first[name]) for name in rule.columns]
    counted.values = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _as_pandas(values: pl.Series) -> list[Any]:
    """As GX finds them in a pandas frame, where each NaN is an object of its own."""
    if values.dtype == pl.String:
        return values.to_list()
    return [float("nan") if value is None else value for value in values.to_list()]


def _repeated(rule: Rule, frame: pl.LazyFrame, counted: _Counted) -> Rule | None:
    """Count the rows whose value occurs more than once; gives the rule that these break.

    The values are parted by their hashes, so that only a part of them is held at once. None where there are
    too many different ones to look for them among the rows.
    """
    (column,) = rule.columns
    parts = 1 + counted.considered // _UNIQUE_ROWS
    there = frame.select(column).filter(rule.considered)
    again: list[pl.DataFrame] = []
    for part in range(parts):
        own = there.filter(pl.col(column).hash(seed=0) % parts == part) if parts > 1 else there
        times = own.group_by(column).len("times").filter(pl.col("times") > 1).collect(engine="streaming")
        counted.unexpected += int(times["times"].sum())
        again.append(times.select(column))
        if sum(map(len, again)) > _MOST_REPEATED:
            return None
    values = pl.concat(again)[column]
    return replace(rule, unexpected=rule.considered & pl.col(column).is_in(values.implode()))


def _value(metric: MetricConfiguration, counted: Mapping[str, _Counted], rows: int) -> Any:
    if metric.metric_name == ROW_COUNT:
        return rows
    found = counted[rule_key(metric)]
    return {
        "unexpected_count": found.unexpected,
        "filtered_row_count": found.considered,
        "unexpected_values": found.values,
        "unexpected_index_list": found.rows,
        # The text of a pandas query for all unexpected rows: not asked for in this format.
        "unexpected_index_query": None,
    }[metric.metric_name.rpartition(".")[2]]
