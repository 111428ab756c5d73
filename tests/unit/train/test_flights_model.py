"""The flights' models, tried as their author would: with rows and pytest alone."""

from __future__ import annotations

import pytest
from model_world import FEATURES, feature_rows
from sklearn.metrics import roc_auc_score

from flights.model import train, train_linear

ROWS = feature_rows(days=10).drop_nulls("late")


@pytest.mark.parametrize("params", [{}, {"num_leaves": 7, "rounds": 20}])
def test_boosted_trees_are_equal_on_any_number_of_threads(params: dict[str, int]) -> None:
    first, second = (
        train(ROWS, [*FEATURES], "late", {**params, "threads": threads}, seed=3).model_to_string()
        for threads in (1, 3)
    )
    assert first.replace("[num_threads: 1]", "[num_threads: 3]") == second


def test_boosted_trees_learn_from_numbers_booleans_and_text() -> None:
    booster = train(ROWS, [*FEATURES], "late", {"rounds": 20}, seed=3)
    assert booster.feature_name() == [*FEATURES]
    assert booster.pandas_categorical == [["EWR", "JFK", "LGA"]]
    given = ROWS.select(FEATURES).to_pandas().astype({"origin": "category"})
    assert roc_auc_score(ROWS["late"].to_numpy(), booster.predict(given)) > 0.8


def test_the_linear_baseline_takes_the_same_rows() -> None:
    model = train_linear(ROWS, [*FEATURES], "late", {"C": 0.5}, seed=3)
    scores = model.predict_proba(ROWS.select(FEATURES).to_pandas())[:, 1]
    assert roc_auc_score(ROWS["late"].to_numpy(), scores) > 0.7
