"""A row's score is the same to the last bit, wherever in a batch the row is."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from airflow_ml_provider.steps.contributions import contributions_column
from airflow_ml_provider.steps.flavors import flavor_of
from airflow_ml_provider.steps.models import Inputs, ScoringModel, repeatable_arithmetic
from airflow_ml_provider.steps.threads import in_order

FEATURES = [f"f{number}" for number in range(20)]


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return pl.DataFrame(np.random.default_rng(0).random((3_001, len(FEATURES))), schema=FEATURES)


# Without whole blocks of rows, a fifth of the linear model's scores differ between these batches, and of the net's.
@pytest.mark.parametrize(
    "model", [LogisticRegression(), MLPClassifier((32, 17), max_iter=3)], ids=["linear", "net"]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scores_do_not_depend_on_how_rows_are_cut_into_batches(model: Any, rows: pl.DataFrame) -> None:
    label = (rows["f0"] + rows["f1"] > 1).to_numpy()
    fitted = make_pipeline(StandardScaler(), model).fit(rows.to_numpy(), label.astype(int))
    scoring = ScoringModel("delays/1", flavor_of(fitted), fitted, Inputs(tuple(FEATURES), frozenset()))
    with repeatable_arithmetic():
        whole = scoring.scores(rows)
        for size in (1, 7, 65, 1_000):
            # A few batches of one row tell as much as all of them.
            few = rows.head(40 * size)
            cut = np.concatenate([scoring.scores(batch) for batch in few.iter_slices(size)])
            assert (cut == whole[: few.height]).all(), size


# LightGBM scores fewer rows than the last size on one thread in any case.
@pytest.mark.parametrize(("size", "threads"), [(7, 1), (1_000, 1), (20_000, 1), (20_000, 2)])
def test_scores_of_batches_that_are_scored_at_once_are_those_of_one_after_the_other(
    size: int, threads: int, rows: pl.DataFrame
) -> None:
    label = (rows["f0"] + rows["f1"] > 1).to_numpy().astype(int)
    data = lightgbm.Dataset(rows.to_numpy(), label, feature_name=FEATURES)
    booster = lightgbm.train({"objective": "binary", "verbose": -1}, data, 20)
    scoring = ScoringModel("delays/1", flavor_of(booster), booster, Inputs(tuple(FEATURES), frozenset()))
    at_once = scoring.on_threads(threads)
    assert at_once is not None
    many = pl.concat([rows] * -(-20 * size // rows.height)).head(20 * size).sort("f2", "f3")
    found = list(in_order(partial(at_once.scores, batch) for batch in many.iter_slices(size)))
    assert len(found) == 20
    assert (np.concatenate(found) == scoring.scores(many)).all()


def test_a_model_is_not_asked_by_several_threads_unless_its_library_allows_that(rows: pl.DataFrame) -> None:
    fitted = LogisticRegression().fit(rows.to_numpy(), (rows["f0"] > 0.5).to_numpy())
    inputs = Inputs(tuple(FEATURES), frozenset())
    assert ScoringModel("delays/1", flavor_of(fitted), fitted, inputs).on_threads(1) is None


def test_contributions_do_not_depend_on_how_rows_are_cut_into_batches(rows: pl.DataFrame) -> None:
    label = (rows["f0"] + rows["f1"] > 1).to_numpy().astype(int)
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows.to_numpy(), label)
    scoring = ScoringModel("delays/1", flavor_of(fitted), fitted, Inputs(tuple(FEATURES), frozenset()))
    with repeatable_arithmetic():
        whole = contributions_column(scoring, rows, 5)
        assert whole.null_count() == 0
        for size in (1, 65):
            few = rows.head(40 * size)
            cut = pl.concat([contributions_column(scoring, batch, 5) for batch in few.iter_slices(size)])
            assert cut.to_list() == whole.head(few.height).to_list(), size
