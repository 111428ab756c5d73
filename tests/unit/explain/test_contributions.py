"""Contributions of features to each row's score: exact, or not given."""

from __future__ import annotations

from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from explained_models import FEATURES, LABELLED, LABELS, NUMBERS, boosted, given, logit, scoring
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    QuantileTransformer,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier

from airflow_ml_provider.contract.errors import UserCodeError
from airflow_ml_provider.steps.contributions import (
    CONTRIBUTIONS,
    Contributions,
    contributions_column,
    explain,
    inexplicable,
)
from airflow_ml_provider.steps.flavors.base import Generic
from airflow_ml_provider.steps.flavors.boosting import LightGBM
from airflow_ml_provider.steps.models import Inputs, ScoringModel
from flights.model import train, train_linear

ROWS = given()


def linear(*encoders: Any, last: Any = None) -> Any:
    """A pipeline fitted on the rows; the encoder of numbers, and that of text."""
    numbers, texts = encoders or (make_pipeline(SimpleImputer(), StandardScaler()), OneHotEncoder())
    encoder = make_column_transformer((numbers, list(NUMBERS)), (texts, ["origin"]))
    return make_pipeline(encoder, LogisticRegression(max_iter=500) if last is None else last).fit(
        ROWS.to_pandas(), LABELS
    )


def imputed(*then: Any) -> Any:
    return make_pipeline(SimpleImputer(add_indicator=False), *then)


EXACT = {
    "LightGBM": lambda: boosted(),
    "LightGBM without text": lambda: boosted(NUMBERS),
    "LightGBM with another sigmoid": lambda: boosted(sigmoid=2.0),
    "LightGBM with dropped trees": lambda: boosted(boosting="dart"),
    "LightGBM's cross entropy": lambda: boosted(objective="cross_entropy"),
    "the flights' trees": lambda: train(LABELLED, [*FEATURES], "late", {"rounds": 20, "threads": 1}, 3),
    "the flights' linear model": lambda: train_linear(LABELLED, [*FEATURES], "late", {}, 3),
    "imputed, not scaled": lambda: linear(SimpleImputer(), OneHotEncoder()),
    "scaled between bounds": lambda: linear(imputed(MinMaxScaler()), OneHotEncoder(drop="first")),
    "rare categories together": lambda: linear(
        imputed(StandardScaler()), OneHotEncoder(max_categories=2, handle_unknown="infrequent_if_exist")
    ),
    "scaled, not centred": lambda: linear(imputed(StandardScaler(with_mean=False)), OneHotEncoder(drop="if_binary")),
    "dense columns": lambda: linear(imputed(StandardScaler()), OneHotEncoder(sparse_output=False)),
    "chosen by cross validation": lambda: linear(
        last=LogisticRegressionCV(Cs=2, cv=2, l1_ratios=(0,), use_legacy_attributes=False)
    ),
    "by gradient descent": lambda: linear(last=SGDClassifier(loss="log_loss", random_state=0)),
    "without an intercept": lambda: linear(last=LogisticRegression(fit_intercept=False)),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXACT)
def test_contributions_and_base_add_up_to_the_log_odds_of_the_score(kind: str, tmp_path: Path) -> None:
    made = EXACT[kind]()
    model = scoring(made, NUMBERS if kind.endswith("without text") else FEATURES, tmp_path / "model")
    rows = ROWS.select(model.inputs.features)
    found = explain(model, rows)
    assert found is not None
    assert inexplicable(model) == ""
    assert found.features == model.inputs.features
    assert found.values.shape == rows.shape
    scores = model.scores(rows)
    assert np.ptp(scores) > 0.2
    np.testing.assert_allclose(found.log_odds(), logit(scores), rtol=0, atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-found.log_odds())), scores, rtol=0, atol=1e-9)


def test_contributions_to_the_mean_of_a_random_forests_trees_add_up() -> None:
    model = scoring(boosted(boosting="rf", bagging_freq=1, bagging_fraction=0.6, seed=1))
    found = explain(model, ROWS)
    assert found is not None
    np.testing.assert_allclose(found.log_odds(), logit(model.scores(ROWS)), rtol=0, atol=1e-6)


def test_contributions_of_a_linear_model_are_those_worked_out_by_hand() -> None:
    frame = ROWS.select(NUMBERS).fill_null(strategy="mean")
    model = LogisticRegression().fit(StandardScaler().fit_transform(frame.to_numpy()), LABELS)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame.to_pandas(), LABELS)
    found = explain(scoring(pipeline, NUMBERS), frame)
    assert found is not None
    x = frame.to_numpy()
    by_hand = model.coef_[0] / x.std(axis=0) * (x - x.mean(axis=0))
    np.testing.assert_allclose(found.values, by_hand, rtol=0, atol=1e-9)
    assert found.base == pytest.approx(float(model.intercept_[0]))


def test_contributions_of_a_linear_model_are_shapley_values() -> None:
    """Against their definition: the mean over all orders of adding features, others at their mean."""
    model = linear()
    found = explain(scoring(model), ROWS.head(3))
    assert found is not None
    encoder, weights = model[0], model[1].coef_[0]
    encoded = encoder.transform(ROWS.head(3).to_pandas())
    owner = np.array([0, 1, 2, 3, 3, 3])
    mean = np.array([0, 0, 0, 1 / 3, 1 / 3, 1 / 3])
    n = len(FEATURES)

    def value(row: np.ndarray, known: tuple[int, ...]) -> float:
        return float(np.where(np.isin(owner, known), row, mean) @ weights)

    for row, values in zip(np.asarray(encoded), found.values, strict=True):
        for feature in range(n):
            others = [each for each in range(n) if each != feature]
            shapley = sum(
                factorial(size) * factorial(n - size - 1) / factorial(n)
                * (value(row, (*known, feature)) - value(row, known))
                for size in range(n)
                for known in combinations(others, size)
            )  # fmt: skip
            assert values[feature] == pytest.approx(shapley, abs=1e-9)


def test_contributions_of_a_tree_are_shapley_values() -> None:
    """Two features, one tree: worked out from the rows that the tree counted in each leaf."""
    import lightgbm

    x = np.array([[0, 0]] * 40 + [[0, 1]] * 20 + [[1, 0]] * 30 + [[1, 1]] * 10, float)
    y = np.array(([0] * 30 + [1] * 10) + ([0] * 5 + [1] * 15) + ([0] * 12 + [1] * 18) + ([1] * 10))
    settings = {"objective": "binary", "num_leaves": 4, "min_data_in_leaf": 1, "verbose": -1, "num_threads": 1,
                "min_sum_hessian_in_leaf": 0, "learning_rate": 0.5}  # fmt: skip
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y, feature_name=["a", "b"]), 1)
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
    f = dict(zip([(0, 0), (0, 1), (1, 0), (1, 1)], booster.predict(corners, raw_score=True), strict=True))
    root = booster.dump_model()["tree_info"][0]["tree_structure"]["split_feature"]
    p_b = {0: 20 / 60, 1: 10 / 40}  # share of b = 1 among the rows with a = 0, and with a = 1
    p_a = {0: 30 / 70, 1: 10 / 30}  # share of a = 1 among the rows with b = 0, and with b = 1
    every_a, every_b = 40 / 100, 30 / 100

    def without_b(a: int) -> float:
        if root == 0:
            return (1 - p_b[a]) * f[a, 0] + p_b[a] * f[a, 1]
        return (1 - every_b) * f[a, 0] + every_b * f[a, 1]

    def without_a(b: int) -> float:
        if root == 1:
            return (1 - p_a[b]) * f[0, b] + p_a[b] * f[1, b]
        return (1 - every_a) * f[0, b] + every_a * f[1, b]

    nothing = sum(count * f[corner] for corner, count in zip(f, (40, 20, 30, 10), strict=True)) / 100
    inputs = Inputs(("a", "b"), frozenset())
    model = ScoringModel("delays/1", LightGBM(), booster, inputs)
    found = explain(model, pl.DataFrame(corners, ["a", "b"]))
    assert found is not None
    assert found.base == pytest.approx(nothing, abs=1e-6)
    for (a, b), values in zip(f, found.values, strict=True):
        of_a = ((without_b(a) - nothing) + (f[a, b] - without_a(b))) / 2
        of_b = ((without_a(b) - nothing) + (f[a, b] - without_b(a))) / 2
        np.testing.assert_allclose(values, [of_a, of_b], rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [boosted, linear])
def test_reordered_rows_have_their_contributions_reordered(make: Any) -> None:
    model = scoring(make())
    order = np.random.default_rng(5).permutation(ROWS.height)
    found, moved = explain(model, ROWS), explain(model, ROWS[order])
    assert found is not None
    assert moved is not None
    assert found.values[order].tobytes() == moved.values.tobytes()
    assert found.base == moved.base


@pytest.mark.parametrize("make", [boosted, linear])
def test_a_row_is_explained_the_same_alone_as_among_others(make: Any) -> None:
    model = scoring(make())
    found = explain(model, ROWS)
    assert found is not None
    for row in (0, 17):
        alone = explain(model, ROWS[row])
        assert alone is not None
        assert alone.values[0].tolist() == found.values[row].tolist()


def test_the_columns_of_a_text_count_as_one_feature() -> None:
    pipeline = linear()
    found = explain(scoring(pipeline), ROWS)
    assert found is not None
    weights = pipeline[1].coef_[0][3:]
    by_origin = dict(zip(["EWR", "JFK", "LGA"], weights - weights.mean(), strict=True))
    expected = [by_origin[value] for value in ROWS["origin"].to_list()]
    np.testing.assert_allclose(found.values[:, 3], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [boosted, linear])
def test_missing_and_unknown_values_are_explained_as_they_are_scored(make: Any) -> None:
    encoders = (imputed(StandardScaler()), OneHotEncoder(handle_unknown="ignore"))
    model = scoring(make(*encoders) if make is linear else make())
    strange = ROWS.head(4).with_columns(
        weather__temp=pl.lit(None, pl.Float64), origin=pl.Series(["EWR", None, "XXX", ""])
    )
    found = explain(model, strange)
    assert found is not None
    np.testing.assert_allclose(found.log_odds(), logit(model.scores(strange)), rtol=0, atol=1e-6)


def test_marks_of_missing_values_count_to_their_feature() -> None:
    pipeline = linear(SimpleImputer(add_indicator=True), OneHotEncoder())
    assert "does not keep the means" in inexplicable(scoring(pipeline))
    found = explain(scoring(pipeline), ROWS, background=ROWS)
    assert found is not None
    missing = ROWS["weather__temp"].is_null().to_numpy()
    distance, mark = pipeline[1].coef_[0][[2, 3]]
    gap = found.values[missing, 2].mean() - found.values[~missing, 2].mean()
    mean = ROWS["weather__temp"].mean()
    seen = distance * (ROWS["weather__temp"].drop_nulls() - mean).mean()
    assert gap == pytest.approx(mark - seen)


def test_a_model_that_knows_no_means_is_measured_from_the_rows_at_hand() -> None:
    frame = ROWS.select("distance", "night")
    model = scoring(LogisticRegression(max_iter=500).fit(frame.to_pandas(), LABELS), ("distance", "night"))
    assert explain(model, frame) is None
    assert inexplicable(model).startswith("Model delays/1 gives no contributions: it does not keep the means")
    assert inexplicable(model, background=True) == ""
    found = explain(model, frame, background=frame)
    assert found is not None
    np.testing.assert_allclose(found.values.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(found.log_odds(), logit(model.scores(frame)), rtol=0, atol=1e-6)


def test_a_model_that_knows_its_means_is_not_measured_from_the_rows_at_hand() -> None:
    model = scoring(linear())
    found, other = explain(model, ROWS), explain(model, ROWS, background=ROWS.head(5))
    assert found is not None
    assert other is not None
    assert found.values.tobytes() == other.values.tobytes()


class Squared(StandardScaler):
    """Derived, and something else."""

    def transform(self, X: Any, copy: bool | None = None) -> Any:
        return super().transform(X) ** 2


NONE = {
    "a RandomForestClassifier of sklearn": lambda: linear(last=RandomForestClassifier(3)),
    "a HistGradientBoostingClassifier of sklearn": lambda: linear(
        SimpleImputer(), OneHotEncoder(sparse_output=False), last=HistGradientBoostingClassifier(max_iter=2)
    ),
    "a DecisionTreeClassifier of sklearn": lambda: linear(last=DecisionTreeClassifier(max_depth=2)),
    "a CalibratedClassifierCV of sklearn": lambda: linear(last=CalibratedClassifierCV(LogisticRegression())),
    "a SGDClassifier of sklearn": lambda: linear(last=SGDClassifier(loss="modified_huber")),
    "its step PCA": lambda: linear(imputed(PCA(2)), OneHotEncoder()),
    "its step FunctionTransformer": lambda: linear(imputed(FunctionTransformer(np.tanh)), OneHotEncoder()),
    "its step Squared": lambda: linear(imputed(Squared()), OneHotEncoder()),
    "does not keep the means": lambda: linear(imputed(QuantileTransformer(n_quantiles=50)), OneHotEncoder()),
    "its objective is regression": lambda: boosted(objective="regression"),
    "its objective is cross_entropy_lambda": lambda: boosted(objective="cross_entropy_lambda"),
    "trees with linear leaves": lambda: boosted(NUMBERS, linear_tree=True),
}


@pytest.mark.parametrize("why", NONE)
def test_a_model_that_allows_no_exact_contributions_gives_none_and_says_why(why: str) -> None:
    model = scoring(NONE[why]())
    assert why in inexplicable(model)
    assert explain(model, ROWS.select(model.inputs.features)) is None
    column = contributions_column(model, ROWS.select(model.inputs.features))
    assert column.dtype == CONTRIBUTIONS
    assert column.null_count() == ROWS.height


def test_a_model_of_another_library_gives_none() -> None:
    model = ScoringModel("delays/1", Generic("onnx"), None, Inputs(("distance",), frozenset()))
    assert (
        inexplicable(model)
        == "Model delays/1 gives no contributions: models of onnx allow no exact contributions."
    )
    assert explain(model, ROWS.select("distance")) is None


class Boastful(Generic):
    """Gives contributions that are too large."""

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Any:
        return np.full(rows.height, 0.5)

    def inexplicable(self, model: Any, features: int, *, background: bool = False) -> str:
        return ""

    def contributions(self, model: Any, rows: pl.DataFrame, background: Any = None) -> Any:
        return np.full(rows.shape, float(model)), 0.0


def test_contributions_that_do_not_add_up_to_the_score_are_not_given() -> None:
    honest, boastful = (
        ScoringModel("delays/1", Boastful("x"), size, Inputs(("distance",), frozenset()))
        for size in (0.0, 0.01)
    )
    assert explain(honest, ROWS.select("distance")) is not None
    assert explain(boastful, ROWS.select("distance")) is None


def test_a_model_that_fails_on_the_rows_says_which_model_and_rows() -> None:
    model = ScoringModel("delays/1", Boastful("x"), "text", Inputs(("distance",), frozenset()))
    with pytest.raises(UserCodeError, match=r"model delays/1 \(x\) could not explain .* features distance"):
        explain(model, ROWS.select("distance"))


def test_the_largest_contributions_come_first_and_equal_ones_by_name() -> None:
    values = np.array([[0.5, -2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 1.0, 3.0, -1.0]])
    found = Contributions(("b", "c", "a", "d"), values, 0.0)
    rows = [[(part["feature"], part["contribution"]) for part in row] for row in found.column(3).to_list()]
    assert rows == [
        [("c", -2.0), ("a", 0.5), ("b", 0.5)],
        [("a", 0.0), ("b", 0.0), ("c", 0.0)],
        [("a", 3.0), ("b", -1.0), ("c", 1.0)],
    ]
    assert found.column().dtype == CONTRIBUTIONS
    assert found.column().list.len().to_list() == [4, 4, 4]
    assert found.column(9).to_list() == found.column(0).to_list()


@pytest.mark.parametrize("make", [boosted, linear])
def test_a_column_of_contributions_is_the_same_in_any_batches(make: Any) -> None:
    model = scoring(make())
    whole = contributions_column(model, ROWS, 2)
    assert whole.len() == ROWS.height
    assert whole.list.len().unique().to_list() == [2]
    parts = [
        contributions_column(model, ROWS[start : start + 197], 2) for start in range(0, ROWS.height, 197)
    ]
    assert pl.concat(parts).to_list() == whole.to_list()
    assert contributions_column(model, ROWS, 2, at_once=1000).to_list() == whole.to_list()


def test_all_contributions_of_a_row_are_those_that_add_up() -> None:
    model = scoring(boosted())
    found = explain(model, ROWS)
    assert found is not None
    summed = contributions_column(model, ROWS).list.eval(pl.element().struct["contribution"]).list.sum()
    np.testing.assert_allclose(found.base + summed.to_numpy(), logit(model.scores(ROWS)), atol=1e-6)


@pytest.mark.parametrize("top", [0, 2])
def test_no_rows_have_no_contributions(top: int) -> None:
    for made in (boosted(), linear(), linear(last=RandomForestClassifier(3))):
        column = contributions_column(scoring(made), ROWS.clear(), top)
        assert (column.dtype, column.len()) == (CONTRIBUTIONS, 0)


def test_contributions_are_kept_by_a_delta_table(tmp_path: Path) -> None:
    from deltalake import write_deltalake

    frame = pl.DataFrame({"score": [0.1] * 5}).with_columns(
        contributions_column(scoring(boosted()), ROWS.head(5), 3)
    )
    write_deltalake(tmp_path / "t", frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
    assert pl.read_delta(str(tmp_path / "t"))["contributions"].to_list() == frame["contributions"].to_list()


def test_a_model_fitted_on_a_bare_matrix_is_explained() -> None:
    frame = ROWS.select("distance", "night")
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame.to_numpy(), LABELS)
    model = scoring(pipeline, ("distance", "night"))
    found = explain(model, frame)
    assert found is not None
    np.testing.assert_allclose(found.log_odds(), logit(model.scores(frame)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "chosen", [[0, 2], slice(0, 3, 2), [True, False, True], ["distance", "weather__temp"]], ids=str
)
def test_columns_chosen_in_any_way_come_back_to_their_feature(chosen: Any) -> None:
    frame = ROWS.select(NUMBERS)
    encoder = make_column_transformer(
        (imputed(StandardScaler()), chosen), remainder=make_pipeline(StandardScaler())
    )
    pipeline = make_pipeline(encoder, LogisticRegression()).fit(frame.to_pandas(), LABELS)
    found = explain(scoring(pipeline, NUMBERS), frame)
    assert found is not None
    weights = dict(zip(["distance", "weather__temp", "night"], pipeline[-1].coef_[0], strict=True))
    for n, name in enumerate(NUMBERS):
        x = frame[name].fill_null(strategy="mean").to_numpy()
        np.testing.assert_allclose(
            found.values[:, n], weights[name] * (x - x.mean()) / x.std(), rtol=0, atol=1e-9
        )


def test_a_column_without_any_value_is_left_out_as_the_imputer_does() -> None:
    frame = ROWS.select(NUMBERS).with_columns(night=pl.lit(None, pl.Float64))
    encoder = make_pipeline(SimpleImputer(), StandardScaler())
    pipeline = make_pipeline(encoder, LogisticRegression())
    with pytest.warns(UserWarning, match="without any observed values"):
        pipeline.fit(frame.to_pandas(), LABELS)
    with pytest.warns(UserWarning, match="without any observed values"):
        found = explain(scoring(pipeline, NUMBERS), frame)
    assert found is not None
    assert not found.values[:, 1].any()
    assert found.values[:, 0].any()
    assert found.values[:, 2].any()


def test_classes_in_another_order_turn_the_contributions_round() -> None:
    frame = ROWS.select("distance", "night")
    as_words = pd.Series(LABELS).map({1: 1, 0: 2})
    usual, turned = (
        make_pipeline(StandardScaler(), LogisticRegression()).fit(frame.to_pandas(), labels)
        for labels in (LABELS, as_words)
    )
    found, other = (explain(scoring(each, ("distance", "night")), frame) for each in (usual, turned))
    assert found is not None
    assert other is not None
    np.testing.assert_allclose(found.values, other.values, rtol=0, atol=1e-4)
