"""Contributions of libraries that are not installed by default; run by `make test-slow`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from explained_models import FEATURES, LABELS, NUMBERS, given, logit, scoring

from airflow_ml_provider.steps.contributions import contributions_column, explain, inexplicable

pytestmark = pytest.mark.slow

ROWS = given()


def xgb(**settings: Any) -> Any:
    import xgboost

    data = xgboost.DMatrix(ROWS.select(NUMBERS).to_pandas(), LABELS)
    known = {"objective": "binary:logistic", "seed": 1, "max_depth": 3, **settings}
    return xgboost.train(known, data, 20)


def xgb_classifier() -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=20, max_depth=3).fit(ROWS.select(NUMBERS).to_pandas(), LABELS)


def catboost(**settings: Any) -> Any:
    from catboost import CatBoostClassifier

    model = CatBoostClassifier(iterations=30, random_seed=1, verbose=0, allow_writing_files=False, **settings)
    return model.fit(ROWS.to_pandas(), LABELS, cat_features=["origin"])


EXACT = {
    "xgboost": (xgb, NUMBERS),
    "xgboost's classifier": (xgb_classifier, NUMBERS),
    "xgboost with dropped trees": (lambda: xgb(booster="dart", rate_drop=0.2), NUMBERS),
    "catboost": (catboost, FEATURES),
    "catboost's cross entropy": (lambda: catboost(loss_function="CrossEntropy"), FEATURES),
}


@pytest.mark.parametrize("kind", EXACT)
def test_contributions_and_base_add_up_to_the_log_odds_of_the_score(kind: str, tmp_path: Path) -> None:
    make, features = EXACT[kind]
    model = scoring(make(), features, tmp_path / "model")
    rows = ROWS.select(features)
    assert inexplicable(model) == ""
    found = explain(model, rows)
    assert found is not None
    scores = model.scores(rows)
    assert np.ptp(scores) > 0.2
    # XGBoost works in 32 bits, contributions and scores alike.
    close = 1e-5 if kind.startswith("xgboost") else 1e-6
    np.testing.assert_allclose(found.log_odds(), logit(scores), rtol=0, atol=close)
    np.testing.assert_allclose(1 / (1 + np.exp(-found.log_odds())), scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", EXACT)
def test_reordered_rows_and_other_batches_change_no_contribution(kind: str) -> None:
    make, features = EXACT[kind]
    model, rows = scoring(make(), features), ROWS.select(features)
    order = np.random.default_rng(5).permutation(rows.height)
    found, moved = explain(model, rows), explain(model, rows[order])
    assert found is not None
    assert moved is not None
    assert found.values[order].tobytes() == moved.values.tobytes()
    whole = contributions_column(model, rows, 2)
    parts = [contributions_column(model, rows[start : start + 97], 2) for start in range(0, rows.height, 97)]
    assert pl.concat(parts).to_list() == whole.to_list()


def test_the_category_that_matters_to_catboost_is_a_contribution_of_its_feature() -> None:
    found = explain(scoring(catboost()), ROWS)
    assert found is not None
    lga = (ROWS["origin"] == "LGA").to_numpy()
    assert found.values[lga, 3].mean() > found.values[~lga, 3].mean() + 0.1


NONE = {
    "XGBoost's gblinear": (lambda: xgb(booster="gblinear"), NUMBERS),
    "its objective is binary:hinge": (lambda: xgb(objective="binary:hinge"), NUMBERS),
    "symmetric trees only": (lambda: catboost(grow_policy="Lossguide", max_leaves=8), FEATURES),
}


@pytest.mark.filterwarnings("ignore:.*gblinear.*")
@pytest.mark.parametrize("why", NONE)
def test_a_model_without_exact_contributions_says_why(why: str) -> None:
    make, features = NONE[why]
    model = scoring(make(), features)
    assert why in inexplicable(model)
    assert explain(model, ROWS.select(features)) is None


def test_the_leaves_of_xgboosts_trees_are_counted() -> None:
    model = scoring(xgb(), NUMBERS)
    assert model.flavor.leaves(model.native) == (model.native.trees_to_dataframe()["Feature"] == "Leaf").sum()


def test_a_pytorch_model_gives_none() -> None:
    import torch

    model = scoring(torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Sigmoid()), ("distance", "night"))
    assert "models of pytorch allow no exact contributions" in inexplicable(model)
    assert explain(model, ROWS.select("distance", "night")) is None
