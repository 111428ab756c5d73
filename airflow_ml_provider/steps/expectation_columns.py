"""What expectations about a column as a whole ask of it (a mean, quantiles): computed as GX does, column by column.

The same pandas functions on the same values as in Great Expectations' own metrics, so to the last digit the
same result (a test compares them), but on one column at a time, and without the copies and the loops over
single values that GX makes of it. What is not known here is left to GX,
:mod:`airflow_ml_provider.steps.expectations`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.steps.expectation_counts import judged, metrics_of
from airflow_ml_provider.steps.expectation_rules import is_known, no_condition

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation
    from great_expectations.validator.metric_configuration import MetricConfiguration

_METRICS: dict[str, Callable[[pd.Series, Mapping[str, Any]], Any]] = {
    "column.mean": lambda column, kwargs: column.mean(),
    "column.sum": lambda column, kwargs: column.sum(),
    "column.standard_deviation": lambda column, kwargs: column.std(),
    "column.median": lambda column, kwargs: column[~column.isnull()].median(),
    "column.quantile_values": lambda column, kwargs: _quantiles(column, **kwargs),
}


def evaluate_columns(
    expectations: Mapping[int, Expectation], frame: pl.LazyFrame
) -> dict[int, ExpectationValidationResult]:
    """Evaluate those of the expectations that are about one column of numbers as a whole.

    Held in memory is one column at a time, and a copy of it.
    """
    schema = frame.collect_schema()
    asked: dict[str, dict[int, MetricConfiguration]] = {}
    for place, expectation in expectations.items():
        metrics = metrics_of(expectation, _METRICS)
        if len(metrics) != 1 or not no_condition(metrics[0]):
            continue
        column = metrics[0].metric_domain_kwargs["column"]
        kind = schema.get(column)
        if kind is not None and is_known(kind) and kind.is_numeric():
            asked.setdefault(column, {})[place] = metrics[0]
    results = {}
    for column, metrics_of_column in asked.items():
        values = as_pandas(frame.select(column))[column]
        for place, metric in metrics_of_column.items():
            found = _METRICS[metric.metric_name](values, metric.metric_value_kwargs)
            if (result := judged(expectations[place], {metric.id: found})) is not None:
                results[place] = result
        del values
    return results


def as_pandas(frame: pl.LazyFrame) -> Any:
    """All rows as a pandas frame, with as few copies as can be."""
    collected = frame.collect(engine="streaming")
    table = collected.to_arrow(compat_level=pl.CompatLevel.oldest())
    del collected
    return table.to_pandas(split_blocks=True, self_destruct=True)


def _quantiles(column: pd.Series, quantiles: Any, allow_relative_error: Any, **_: Any) -> list[Any]:
    return list(column.quantile(quantiles, interpolation=allow_relative_error or "nearest").tolist())
