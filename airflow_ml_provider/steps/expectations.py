"""Great Expectations over a table, in bounded memory.

Expectations that look at one row at a time are counted by Polars in one streaming pass
(:mod:`airflow_ml_provider.steps.expectation_counts`), a mean or quantiles are computed of one column after the
other (:mod:`airflow_ml_provider.steps.expectation_columns`). GX evaluates the others over a pandas frame of no
more than they need: the different values of a column for those about its set of values, its least and largest
for those about these, no rows for those about the table's columns. What is left (a row condition, several
columns together) it evaluates over all rows, in passes: each reads only the columns its expectations name, as
many as fit a budget. Peak memory is that of a pass, about four times ``PASS_BYTES`` with GX's own copies, or
that of the widest single expectation where this is more; it never grows with the number of columns or
expectations, and with the rows only where a column as a whole is asked for.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.errors import DataError, UserCodeError, did_you_mean
from airflow_ml_provider.steps.expectation_columns import as_pandas, evaluate_columns
from airflow_ml_provider.steps.expectation_counts import evaluate_counted

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation

PASS_BYTES = 64 << 20
_TEXT_BYTES = 32
# About the table's columns, not about values: evaluated over no rows, with all columns.
_SHAPE = re.compile(r"expect_table_column|expect_column_to_exist")
_COLUMNS = ("column", "column_A", "column_B", "column_list")
# About the set of a column's values.
_SETS = (
    "expect_column_distinct_values_to_be_in_set",
    "expect_column_distinct_values_to_contain_set",
    "expect_column_distinct_values_to_equal_set",
    "expect_column_unique_value_count_to_be_between",
)
# More values than these are no small set.
_MOST_VALUES = 500_000
_ENDS = ("expect_column_min_to_be_between", "expect_column_max_to_be_between")


@dataclass
class Pass:
    """Expectations evaluated over the same columns, by their place in the suite."""

    columns: set[str]
    places: list[int] = field(default_factory=list)
    no_rows: bool = False
    rows: pl.LazyFrame | None = None


def evaluate(
    suite: ExpectationSuite,
    frame: pl.LazyFrame,
    rows: int,
    *,
    what: str,
    advance: Callable[[int], object] = lambda expectations: None,
) -> ExpectationSuiteValidationResult:
    """Evaluate a suite over all rows of a lazy frame; results are in the suite's order, JSON-able.

    :param rows: how many there are.
    :param what: the table, for messages.
    :param advance: told of so many more expectations that are evaluated.
    :raises DataError: an expectation names a column that is not there.
    :raises UserCodeError: an expectation cannot be evaluated on such values.
    """
    from great_expectations.core import ExpectationSuiteValidationResult

    schema = frame.collect_schema()
    expectations = suite.expectations
    _check_columns(suite, schema.names(), what)
    integers = {name for name, kind in schema.items() if kind.is_integer()}
    results: dict[int, ExpectationValidationResult] = {}
    waiting: dict[int, Expectation] = dict(enumerate(expectations))
    for way in (partial(evaluate_counted, rows=rows), evaluate_columns):
        found = way(waiting, frame=frame)
        for place, result in found.items():
            _as_json(result, integers)
            results[place] = result
            del waiting[place]
        advance(len(found))
    passes, waiting = _reduced(waiting, frame)
    passes += passes_of(waiting, schema, rows)
    validate = _validator(what, integers) if passes else None
    for one in passes:
        assert validate is not None
        pandas = _as_pandas(one, frame)
        results.update(validate(pandas, {place: expectations[place] for place in one.places}))
        advance(len(one.places))
    ordered = [results[place] for place in sorted(results)]
    _refuse_errors(suite.name, ordered, what)
    passed = sum(bool(result.success) for result in ordered)
    return ExpectationSuiteValidationResult(
        success=passed == len(ordered),
        results=ordered,
        suite_name=suite.name,
        statistics={
            "evaluated_expectations": len(ordered),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(ordered) - passed,
            "success_percent": 100 * passed / len(ordered) if ordered else None,
        },
    )


def _reduced(
    waiting: Mapping[int, Expectation], frame: pl.LazyFrame
) -> tuple[list[Pass], dict[int, Expectation]]:
    """Passes over less than all rows that say the same of a column, and the expectations that need others."""
    schema = frame.collect_schema()
    found: dict[tuple[str, bool], Pass] = {}
    left = dict(waiting)
    about = {
        place: one.configuration.kwargs["column"]
        for place, one in waiting.items()
        if one.expectation_type in (*_SETS, *_ENDS) and not one.configuration.kwargs.get("row_condition")
    }
    sets = sorted({column for place, column in about.items() if waiting[place].expectation_type in _SETS})
    sizes: dict[str, int] = {}
    if sets:
        counted = frame.select(pl.col(name).approx_n_unique() for name in sets).collect(engine="streaming")
        sizes = counted.row(0, named=True)
    for place, name in about.items():
        ends = waiting[place].expectation_type in _ENDS
        column = frame.select(name)
        if ends and schema[name].is_numeric():
            rows = pl.concat([column.max(), column.min()])
        elif not ends and sizes[name] <= _MOST_VALUES:
            rows = column.unique()
        else:
            continue
        found.setdefault((name, ends), Pass({name}, rows=rows)).places.append(place)
        del left[place]
    return list(found.values()), left


def _as_pandas(one: Pass, frame: pl.LazyFrame) -> Any:
    rows = one.rows if one.rows is not None else frame.limit(0) if one.no_rows else frame
    names = [name for name in frame.collect_schema() if name in one.columns]
    return as_pandas(rows.select(names))


def columns_of(expectation: Expectation, known: Sequence[str]) -> list[str]:
    """The columns whose values an expectation looks at; all known ones if it does not tell."""
    kwargs = expectation.configuration.kwargs
    named = _values_of(kwargs)
    if not named and not expectation.expectation_type.startswith("expect_table_"):
        return list(known)
    condition = str(kwargs.get("row_condition") or "")
    words = set(re.findall(r"\w+", condition))
    # A name that is not one word is looked for as it is.
    used = [name for name in known if name in words or (not name.isidentifier() and name in condition)]
    return [*named, *(name for name in used if name not in named)]


def passes_of(expectations: Mapping[int, Expectation], schema: pl.Schema, rows: int) -> list[Pass]:
    """Which expectations are evaluated together, so that no pass reads more than the budget if it can.

    :param expectations: by their place in the suite.
    """
    known = schema.names()
    shape = Pass(set(known), no_rows=True)
    passes: list[Pass] = []
    for place, expectation in expectations.items():
        if _SHAPE.match(expectation.expectation_type):
            shape.places.append(place)
            continue
        # A row count needs some column to count by.
        wanted = set(columns_of(expectation, known)) or {known[0]}
        for one in passes:
            together = one.columns | wanted
            if wanted <= one.columns or _size(together, schema) * rows <= PASS_BYTES:
                one.columns = together
                one.places.append(place)
                break
        else:
            passes.append(Pass(wanted, [place]))
    return [*passes, *([shape] if shape.places else [])]


def _size(columns: Iterable[str], schema: pl.Schema) -> int:
    return sum(_TEXT_BYTES if schema[name] == pl.String else 8 for name in columns)


def _validator(
    what: str, integers: Set[str]
) -> Callable[[Any, dict[int, Any]], dict[int, ExpectationValidationResult]]:
    """A function that evaluates some expectations over a pandas frame.

    The frame has pandas' plain types, since some of GX's expectations stumble over a missing value of the
    nullable ones. So integers with missing values are floats in it; they are told as the integers they are.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset(what)
    whole = asset.add_batch_definition_whole_dataframe("rows")

    def validate(frame: Any, expectations: dict[int, Any]) -> dict[int, ExpectationValidationResult]:
        part = gx.ExpectationSuite(name="a pass")
        for place, expectation in expectations.items():
            one = copy.copy(expectation)
            # GX gives the results in an order of its own; the identifier comes back with each.
            one.id = str(place)
            part.expectations.append(one)
        found = whole.get_batch(batch_parameters={"dataframe": frame}).validate(part)
        results = {}
        for result in found.results:
            config: Any = result.expectation_config
            place, config.id = int(config.id), None
            _as_json(result, integers)
            results[place] = result
        return results

    return validate


def _as_json(result: ExpectationValidationResult, integers: Set[str]) -> None:
    """Make a result's values those of its JSON text."""
    from great_expectations.util import convert_to_json_serializable

    # NumPy's numbers pass for serializable, and GX's own renderer then stumbles over them.
    config: Any = result.expectation_config
    text = json.dumps(convert_to_json_serializable(result.result), default=str)
    of_integers = integers >= set(_values_of(config.kwargs))
    result.result = json.loads(text, parse_float=_integer if of_integers else None)


def _integer(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _check_columns(suite: ExpectationSuite, known: Sequence[str], what: str) -> None:
    for expectation in suite.expectations:
        if _SHAPE.match(expectation.expectation_type):
            continue
        for name in columns_of(expectation, known):
            if name not in known:
                raise DataError(
                    f"suite {suite.name!r} has {expectation.expectation_type} for column {name!r}, "
                    f"which {what} does not have",
                    todo=did_you_mean(name, list(known)),
                )


def _refuse_errors(suite: str, results: Iterable[ExpectationValidationResult], what: str) -> None:
    for result in results:
        told = json.dumps(result.exception_info, default=str)
        if '"raised_exception": true' in told:
            messages = re.findall(r'"exception_message": "((?:[^"\\]|\\.)*)"', told)
            config: Any = result.expectation_config
            raise UserCodeError(
                f"suite {suite!r}: {config.type}({named_columns(config.kwargs)}) cannot be evaluated over "
                f"{what}: {messages[0] if messages else 'no reason given'}",
                todo="use an expectation that fits the column's type",
            )


def named_columns(kwargs: Mapping[str, Any]) -> str:
    """The columns that an expectation names, for people."""
    return ", ".join(_values_of(kwargs))


def _values_of(kwargs: Mapping[str, Any]) -> list[str]:
    named: list[str] = []
    for key in _COLUMNS:
        value = kwargs.get(key)
        named += [value] if isinstance(value, str) else list(value or ())
    return named
