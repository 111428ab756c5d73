"""Expectations counted in a stream say what Great Expectations says over one pandas frame of all rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from airflow_ml_provider.contract.errors import UserCodeError
from airflow_ml_provider.steps import expectation_counts, expectations
from airflow_ml_provider.steps.expectation_counts import evaluate_counted
from airflow_ml_provider.steps.suites import import_gx

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

N = 400
WORDS = ["a", "b", "", "Ab1", "ab12", "ä", "日本", "b\nc", " ", "None", "nan"]


def rows(n: int = N, seed: int = 0) -> pl.DataFrame:
    """Columns of several types, with nulls, NaN, infinities, repetitions and odd texts."""
    random = np.random.default_rng(seed)

    def some(values: Any, dtype: Any, gaps: float) -> pl.Series:
        drawn = pl.Series(values, dtype=dtype, strict=False)
        return drawn.set(pl.Series(random.random(n) < gaps), None) if gaps else drawn

    real = random.normal(0, 10, n).round(1)
    return pl.DataFrame(
        {
            "id": np.arange(n),
            "twice": some([*range(n - 3), 5, 7, 7], pl.Int64, 0),
            "small": some(random.integers(-100, 100, n), pl.Int8, 0),
            "count": some(random.integers(0, 30, n), pl.Int64, 0.2),
            "real": real,
            "gaps": some(np.where(random.random(n) < 0.1, np.nan, real), pl.Float64, 0.2),
            "wild": some(random.choice([np.inf, -np.inf, 0.0, -0.0, 1.5], n), pl.Float64, 0),
            "single": some(real, pl.Float32, 0.1),
            "word": some(random.choice(WORDS, n), pl.String, 0.1),
            "full": random.choice(WORDS[:5], n),
            "flag": some(random.random(n) < 0.5, pl.Boolean, 0.1),
            "day": some(random.integers(0, 400, n), pl.Date, 0.1),
            "empty": some([None] * n, pl.Float64, 0),
            "no_text": some([None] * n, pl.String, 0),
        }
    )


def every_expectation() -> list[Expectation]:
    import_gx()
    import great_expectations.expectations as gxe

    numbers = ["id", "small", "count", "real", "gaps", "wild", "single", "empty"]
    texts = ["word", "full"]
    every = [*numbers, *texts, "flag", "day", "no_text", "twice"]
    made: list[Expectation] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, max_value=3),
        gxe.ExpectTableRowCountToEqual(value=N),
        gxe.ExpectTableColumnCountToEqual(value=3),
        gxe.ExpectColumnToExist(column="id"),
    ]
    for name in every:
        made += [
            gxe.ExpectColumnValuesToNotBeNull(column=name),
            gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=0.5),
            gxe.ExpectColumnValuesToBeNull(column=name, mostly=0.1),
            gxe.ExpectColumnValuesToBeUnique(column=name),
            gxe.ExpectColumnUniqueValueCountToBeBetween(column=name, min_value=3, max_value=10),
        ]
    for name in numbers:
        made += [
            gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0),
            gxe.ExpectColumnValuesToBeBetween(
                column=name, min_value=0, max_value=9, strict_max=True, mostly=0.2
            ),
            gxe.ExpectColumnValuesToBeBetween(column=name, max_value=1.5, strict_max=True),
            gxe.ExpectColumnValuesToBeBetween(column=name, min_value=-1000, strict_min=True),
            gxe.ExpectColumnValuesToBeInSet(column=name, value_set=[0, 1, 1.5, 7]),
            gxe.ExpectColumnValuesToBeInSet(column=name, value_set=[0, 1, 2, 3]),
            gxe.ExpectColumnValuesToNotBeInSet(column=name, value_set=[0, 7], mostly=0.3),
            gxe.ExpectColumnMaxToBeBetween(column=name, min_value=2, max_value=5),
            gxe.ExpectColumnMinToBeBetween(column=name, max_value=0),
            gxe.ExpectColumnMeanToBeBetween(column=name, min_value=-1, max_value=1),
            gxe.ExpectColumnMedianToBeBetween(column=name, min_value=-1, max_value=1),
        ]
    for name in texts:
        made += [
            gxe.ExpectColumnValuesToBeInSet(column=name, value_set=["a", "b", ""]),
            gxe.ExpectColumnValuesToNotBeInSet(column=name, value_set=["a", "None"]),
            gxe.ExpectColumnValuesToMatchRegex(column=name, regex="^[A-Z]?[a-z]+$"),
            gxe.ExpectColumnValuesToMatchRegex(column=name, regex=r"(?i)(\w)b\d*(?!2)", mostly=0.2),
            gxe.ExpectColumnValuesToNotMatchRegex(column=name, regex="a|日"),
            gxe.ExpectColumnValueLengthsToEqual(column=name, value=1),
            gxe.ExpectColumnValueLengthsToBeBetween(column=name, min_value=1, max_value=2),
            gxe.ExpectColumnValueLengthsToBeBetween(column=name, min_value=2, strict_min=True, mostly=0.1),
            gxe.ExpectColumnDistinctValuesToBeInSet(column=name, value_set=["a", "b", "", "ä"]),
            gxe.ExpectColumnDistinctValuesToContainSet(column=name, value_set=["a", "zz"]),
            gxe.ExpectColumnDistinctValuesToEqualSet(column=name, value_set=WORDS),
        ]
    for pair in (("real", "gaps"), ("count", "small"), ("gaps", "empty"), ("id", "twice")):
        of = dict(zip(("column_A", "column_B"), pair, strict=True))
        made += [
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(**of),
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(**of, or_equal=True, mostly=0.4),
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(**of, ignore_row_if="either_value_is_missing"),
        ]
    return [
        *made,
        gxe.ExpectColumnValuesToBeBetween(
            column="real", min_value=0, row_condition="small > 3", condition_parser="pandas"
        ),
        gxe.ExpectColumnDistinctValuesToBeInSet(column="count", value_set=[1, 2, 3]),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["small", "count"]),
        gxe.ExpectColumnStdevToBeBetween(column="gaps", min_value=0, max_value=1),
        gxe.ExpectColumnQuantileValuesToBeBetween(
            column="count", quantile_ranges={"quantiles": [0.1, 0.5], "value_ranges": [[0, 5], [10, 20]]}
        ),
    ]


def told(results: Any) -> list[dict[str, Any]]:
    """Results as they go into a verdict and a page, without what differs between any two evaluations."""
    found = []
    for result in results:
        document = json.loads(json.dumps(result.to_json_dict(), default=str))
        document["expectation_config"]["kwargs"].pop("batch_id", None)
        document["expectation_config"].pop("id", None)
        # A set's values come in any order.
        if missing := document["result"].get("partial_missing_list"):
            document["result"]["partial_missing_list"] = sorted(missing)
        found.append(document)
    return found


@pytest.fixture(scope="module")
def by_gx() -> list[dict[str, Any]]:
    """Every expectation over one pandas frame of all rows."""
    frame, suite = rows(), every_expectation()
    validate = expectations._validator("rows", {n for n, kind in frame.schema.items() if kind.is_integer()})
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).to_pandas()
    found = validate(table, dict(enumerate(suite)))
    return told(found[place] for place in range(len(suite)))


@pytest.mark.parametrize("unique_rows", [expectation_counts._UNIQUE_ROWS, 60])
def test_every_expectation_says_what_it_says_over_one_pandas_frame(
    by_gx: list[dict[str, Any]], unique_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import great_expectations as gx

    monkeypatch.setattr(expectation_counts, "_UNIQUE_ROWS", unique_rows)
    suite = gx.ExpectationSuite(name="all", expectations=every_expectation())
    found = told(expectations.evaluate(suite, rows().lazy(), N, what="rows").results)
    for ours, theirs in zip(found, by_gx, strict=True):
        assert ours == theirs
    assert 20 < sum(not one["success"] for one in by_gx) < len(by_gx) - 20


@pytest.mark.parametrize("regex", ["(", "[a"])
def test_a_regular_expression_that_is_none_is_refused_in_the_words_of_gx(regex: str) -> None:
    import great_expectations as gx
    import great_expectations.expectations as gxe

    wrong = gxe.ExpectColumnValuesToMatchRegex(column="full", regex=regex)
    suite = gx.ExpectationSuite(name="wrong", expectations=[wrong])
    with pytest.raises(
        UserCodeError, match=r"expect_column_values_to_match_regex\(full\) cannot be evaluated"
    ):
        expectations.evaluate(suite, rows().lazy(), N, what="rows")


def test_common_expectations_about_rows_need_no_pandas_frame() -> None:
    import_gx()
    import great_expectations.expectations as gxe

    common = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
        gxe.ExpectColumnValuesToNotBeNull(column="full"),
        gxe.ExpectColumnValuesToBeBetween(column="count", min_value=0, max_value=9),
        gxe.ExpectColumnValuesToBeInSet(column="word", value_set=["a"], mostly=0.1),
        gxe.ExpectColumnValuesToMatchRegex(column="word", regex="^a"),
        gxe.ExpectColumnValueLengthsToBeBetween(column="word", min_value=1),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="id", column_B="small"),
    ]
    assert set(evaluate_counted(dict(enumerate(common)), rows().lazy(), N)) == set(range(len(common)))
