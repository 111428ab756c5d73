"""Which rows an expectation about single rows takes for unexpected, as Polars expressions.

Each rule is that of Great Expectations' metric of the same name over a pandas frame. Where the two would differ
(values of other types, bounds that GX refuses, a row condition) there is none, and GX evaluates it itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from great_expectations.validator.metric_configuration import MetricConfiguration

    Expected = Callable[[pl.Expr, pl.DataType, Mapping[str, Any]], pl.Expr | None]

ROW_COUNT = "table.row_count"
_CONDITIONS = ("table", "row_condition", "condition_parser")
_BOTH_MISSING = "both_values_are_missing"
_LARGEST = 2**63


@dataclass(frozen=True)
class Rule:
    """Which rows are not as expected.

    :param columns: those it is about.
    :param considered: rows that are looked at; the others are neither expected nor unexpected.
    :param unexpected: of all rows; null counts as expected.
    :param unique: rows whose value occurs more than once are not as expected, either.
    :param shown: whether values look in a pandas frame as they do here.
    """

    columns: tuple[str, ...]
    considered: pl.Expr
    unexpected: pl.Expr
    unique: bool = False
    shown: bool = True


def no_condition(metric: MetricConfiguration) -> bool:
    """Whether a metric is about all rows."""
    return all(metric.metric_domain_kwargs.get(key) is None for key in _CONDITIONS)


def rule_key(metric: MetricConfiguration) -> str:
    """What the metrics of one rule have in common."""
    name = metric.metric_name.rpartition(".")[0]
    kwargs = {key: value for key, value in metric.metric_value_kwargs.items() if key != "result_format"}
    return repr((name, sorted(metric.metric_domain_kwargs.items(), key=str), sorted(kwargs.items(), key=str)))


def rule_of(metric: MetricConfiguration, schema: pl.Schema) -> Rule | None:
    """The rule behind a metric; None if it is not known exactly for such a column."""
    if not no_condition(metric):
        return None
    domain, kwargs = metric.metric_domain_kwargs, metric.metric_value_kwargs
    name = metric.metric_name.rpartition(".")[0]
    if name in _PAIRS:
        return _pair(name, domain, kwargs, schema)
    column = domain["column"]
    kind = schema.get(column)
    if kind is None or kind.is_nested() or kind.is_object():
        return None
    there, shown = _is_there(pl.col(column), kind), is_known(kind)
    if name == "column_values.nonnull":
        return Rule((column,), pl.lit(True), ~there, shown=shown)
    if name == "column_values.unique":
        return Rule((column,), there, pl.lit(False), unique=True, shown=shown)
    if not shown:
        return None
    if name == "column_values.null":
        return Rule((column,), pl.lit(True), there)
    expected = _RULES[name](pl.col(column), kind, kwargs)
    return None if expected is None else Rule((column,), there, there & ~expected)


def _pair(name: str, domain: Mapping[str, Any], kwargs: Mapping[str, Any], schema: pl.Schema) -> Rule | None:
    columns = (domain["column_A"], domain["column_B"])
    if domain.get("ignore_row_if") != _BOTH_MISSING or not all(
        one in schema and is_known(schema[one]) and schema[one].is_numeric() for one in columns
    ):
        return None
    a, b = (pl.col(one) for one in columns)
    first, second = _is_there(a, schema[columns[0]]), _is_there(b, schema[columns[1]])
    holds = a >= b if kwargs.get("or_equal") else a > b
    considered = first | second
    return Rule(columns, considered, considered & ~(first & second & holds))


def is_known(kind: pl.DataType) -> bool:
    """Whether values of a type compare in a pandas frame as they do here."""
    # Other integers do not fit the 64 bits with a sign that they are compared in.
    return (kind.is_integer() and kind not in (pl.UInt64, pl.Int128)) or kind in (pl.Float64, pl.String)


def _is_there(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    # In a pandas frame NaN is a missing value.
    return column.is_not_null() & column.is_not_nan() if kind.is_float() else column.is_not_null()


def _between(column: pl.Expr, kind: pl.DataType, kwargs: Mapping[str, Any]) -> pl.Expr | None:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    bounds = [bound for bound in (low, high) if bound is not None]
    # What GX refuses, it shall refuse itself.
    if kind == pl.String or not bounds or not all(map(_is_number, bounds)) or bounds[0] > bounds[-1]:
        return None
    return _within(column, kwargs)


def _within(value: pl.Expr, kwargs: Mapping[str, Any]) -> pl.Expr | None:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    found = []
    if low is not None:
        found.append(value > low if kwargs.get("strict_min") else value >= low)
    if high is not None:
        found.append(value < high if kwargs.get("strict_max") else value <= high)
    return pl.all_horizontal(found) if found else None


def _in_set(column: pl.Expr, kind: pl.DataType, kwargs: Mapping[str, Any]) -> pl.Expr | None:
    values = kwargs.get("value_set")
    if not isinstance(values, list | tuple | set) or not values:
        return None
    of_kind: Callable[[Any], bool] = _is_number
    if kind == pl.String:
        of_kind = lambda value: isinstance(value, str)  # noqa: E731
    elif kind.is_integer():
        of_kind = lambda value: _is_number(value) and isinstance(value, int) and abs(value) < _LARGEST  # noqa: E731
    if not all(of_kind(value) for value in values):
        return None
    wanted = pl.Series(list(values), dtype=pl.Int64 if kind.is_integer() else kind)
    return (column.cast(pl.Int64, strict=False) if kind.is_integer() else column).is_in(wanted.implode())


def _not_in_set(column: pl.Expr, kind: pl.DataType, kwargs: Mapping[str, Any]) -> pl.Expr | None:
    found = _in_set(column, kind, kwargs)
    return None if found is None else ~found


def _matches(column: pl.Expr, kind: pl.DataType, kwargs: Mapping[str, Any]) -> pl.Expr | None:
    regex = kwargs.get("regex")
    if kind != pl.String or not isinstance(regex, str):
        return None
    try:
        re.compile(regex)
    except re.error:
        return None
    return column.map_batches(_Matches(regex), return_dtype=pl.Boolean, is_elementwise=True)


def _matches_not(column: pl.Expr, kind: pl.DataType, kwargs: Mapping[str, Any]) -> pl.Expr | None:
    found = _matches(column, kind, kwargs)
    return None if found is None else ~found


class _Matches:
    """As pandas has it: its regular expressions are not those of Polars. Each different value once a batch."""

    def __init__(self, regex: str) -> None:
        self._regex = regex

    def __call__(self, values: pl.Series) -> pl.Series:
        import pandas as pd

        different = values.unique().drop_nulls()
        found = pd.Series(different.to_list(), dtype=object).astype(str).str.contains(self._regex)
        matching = different.filter(pl.Series(found.to_numpy(), dtype=pl.Boolean))
        if len(matching) == len(different):
            return values.is_not_null()
        return values.is_in(matching.implode())


def _length_equals(column: pl.Expr, kind: pl.DataType, kwargs: Mapping[str, Any]) -> pl.Expr | None:
    length = kwargs.get("value")
    return column.str.len_chars() == length if kind == pl.String and _is_number(length) else None


def _length_between(column: pl.Expr, kind: pl.DataType, kwargs: Mapping[str, Any]) -> pl.Expr | None:
    bounds = [kwargs.get("min_value"), kwargs.get("max_value")]
    if kind != pl.String or not all(bound is None or _is_number(bound) for bound in bounds):
        return None
    return _within(column.str.len_chars(), kwargs)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


_RULES: dict[str, Expected] = {
    "column_values.between": _between,
    "column_values.in_set": _in_set,
    "column_values.not_in_set": _not_in_set,
    "column_values.match_regex": _matches,
    "column_values.not_match_regex": _matches_not,
    "column_values.value_length.equals": _length_equals,
    "column_values.value_length.between": _length_between,
}
_PAIRS = ("column_pair_values.a_greater_than_b",)
KNOWN = {ROW_COUNT, *_RULES, *_PAIRS, "column_values.nonnull", "column_values.null", "column_values.unique"}
