"""What moved a model's scores in sum, and how it is shown."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import polars as pl
import pytest
from explained_models import FEATURES, LABELLED, LABELS, boosted, given, scoring
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from airflow_ml_provider.steps.contributions import Contributions, explain
from airflow_ml_provider.steps.explanation_figures import section
from airflow_ml_provider.steps.explanations import LEAST_GROUP_ROWS, Explanation, deviations, explanation
from airflow_ml_provider.steps.importance import sample_rows
from airflow_ml_provider.steps.reports import Report

NUMBERS = ("distance", "night", "weather__temp")


def explained(
    model: Any, slices: list[str], frame: pl.DataFrame = LABELLED, seed: int = 1, **options: Any
) -> Explanation:
    rows = frame.lazy().with_columns(given(FEATURES, frame).get_columns())
    return explanation(rows, frame.height, model, slices, seed, **options)


def page(of: Explanation) -> str:
    report = Report("delays/1")
    section(report, of)
    return report.html().decode()


@pytest.fixture(scope="module")
def trees() -> Any:
    return scoring(boosted())


def test_importance_is_the_mean_size_of_a_features_contributions(trees: Any) -> None:
    found = explained(trees, ["origin"])
    every = explain(trees, given())
    assert every is not None
    sizes = dict(zip(FEATURES, np.abs(every.values).mean(axis=0), strict=True))
    assert found.importance == pytest.approx(sizes)
    assert list(found.importance) == sorted(sizes, key=sizes.__getitem__, reverse=True)
    assert next(iter(found.importance)) == "distance"


def test_groups_are_compared_with_all_rows_and_the_largest_differences_come_first() -> None:
    values = np.array([[1.0, 0.0]] * 40 + [[-1.0, 0.5]] * 60)
    listed, few = deviations(
        Contributions(("x", "y"), values, 0.0), pl.Series(["a"] * 40 + ["b"] * 30 + [None] * 30)
    )
    assert few == 0
    assert [(each.value, each.feature, each.rows) for each in listed] == [
        ("a", "x", 40), (None, "x", 30), ("b", "x", 30), ("a", "y", 40), (None, "y", 30), ("b", "y", 30),
    ]  # fmt: skip
    first = listed[0]
    assert (first.mean, first.size) == (1.0, 1.0)
    assert first.overall == pytest.approx(-0.2)
    assert first.difference == pytest.approx(1.2)


def test_groups_of_few_rows_are_counted_and_not_shown() -> None:
    groups = pl.Series([1.0] * LEAST_GROUP_ROWS + [2.0] * (LEAST_GROUP_ROWS - 1))
    listed, few = deviations(Contributions(("x",), np.ones((groups.len(), 1)), 0.0), groups)
    assert [each.value for each in listed] == ["1"]
    assert few == 1


def test_a_slice_that_the_model_leans_on_deviates_by_that_feature(trees: Any) -> None:
    of = explained(trees, ["origin", "night", "carrier"])
    assert list(of.slices) == ["origin", "night", "carrier"]
    assert (of.slices["origin"][0].value, of.slices["origin"][0].feature) == ("LGA", "origin")
    assert of.slices["origin"][0].difference > 0.1
    assert {each.value for each in of.slices["night"]} == {"0", "1"}
    assert of.slices["night"][0].feature == "night"
    largest = abs(of.slices["carrier"][0].difference)
    assert largest < abs(of.slices["origin"][0].difference)


def test_the_sample_is_bounded_and_the_same_for_an_equal_seed(trees: Any) -> None:
    many = pl.concat([LABELLED] * 8)
    first, again, other = (explained(trees, ["carrier"], many, seed) for seed in (1, 1, 2))
    assert len(first.contributions.values) == sample_rows(len(FEATURES)) < many.height
    assert first.importance == again.importance
    assert first.slices == again.slices
    assert first.importance != other.importance
    assert page(first) == page(again)


def test_a_model_of_more_leaves_is_explained_on_fewer_rows(trees: Any) -> None:
    leaves = trees.native.trees_to_dataframe()["left_child"].isna().sum()
    assert trees.flavor.leaves(trees.native) == leaves == 140
    found = [explained(trees, [], most_work=140 * rows) for rows in (300, 1)]
    assert [len(each.contributions.values) for each in found] == [300, 200]


def test_a_model_that_keeps_no_means_is_explained_from_the_sample() -> None:
    pipeline = make_pipeline(SimpleImputer(strategy="median"), LogisticRegression(max_iter=500))
    model = scoring(pipeline.fit(given(NUMBERS).to_pandas(), LABELS), NUMBERS)
    found = explained(model, [])
    assert not found.why_not
    np.testing.assert_allclose(found.contributions.values.mean(axis=0), 0, atol=1e-9)


def test_a_model_without_contributions_says_so_in_the_report() -> None:
    frame = given(NUMBERS).fill_null(0).to_pandas()
    found = explained(scoring(RandomForestClassifier(3).fit(frame, LABELS), NUMBERS), ["origin"])
    assert found.importance == {}
    said = "Model delays/1 gives no contributions: a RandomForestClassifier of sklearn allows no exact"
    assert said in page(found)
    assert "<svg" not in page(found)


def test_the_report_shows_importance_rows_and_a_table_for_each_slice(trees: Any) -> None:
    shown = page(explained(trees, ["origin", "carrier"]))
    svg = ET.fromstring(re.findall(r"<svg.*?</svg>", shown, re.DOTALL)[0])
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {*FEATURES, "low value", "high value", "text", "missing"} <= set(texts)
    assert len(re.findall("<table", shown)) == 2
    assert "By origin: what moves" in shown
    assert "<td>LGA</td>" in shown


def test_a_dot_is_drawn_for_each_row_up_to_a_bound(trees: Any) -> None:
    dots = {}
    for rows in (50, 250, 700):
        shown = page(explained(trees, [], LABELLED.head(rows)))
        paths = re.findall(r'd="(M [^"]*)"', shown)
        dots[rows] = sum(len(re.findall(r"M (\S+) (\S+) \s*L \1 \2", path)) for path in paths)
    assert dots == {50: 200, 250: 1000, 700: 1200}


@pytest.mark.parametrize("rows", [1, 2, 31])
def test_few_rows_are_shown_all_the_same(trees: Any, rows: int) -> None:
    found = explained(trees, ["origin"], LABELLED.head(rows))
    assert len(found.contributions.values) == rows
    assert "Contributions to the score" in page(found)


def test_features_of_one_value_and_odd_names_are_shown() -> None:
    frame = pl.DataFrame({"a$b$ <i>": np.r_[0.0, 1.0].repeat(50), "always": np.ones(100)})
    values = np.column_stack([frame["a$b$ <i>"].to_numpy() - 0.5, np.zeros(100)])
    of = Explanation("", Contributions(tuple(frame.columns), values, 0.0), frame,
                     {"a$b$ <i>": 0.5, "always": 0.0}, {"g": []}, {"g": 3})  # fmt: skip
    shown = page(of)
    assert "a$b$ &lt;i&gt;" in shown
    assert "By g: no group&#x27;s scores are moved otherwise than all" in shown
