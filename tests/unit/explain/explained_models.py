"""Models of each kind, fitted on the shared rows, ready to score and to explain."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from model_world import feature_rows

from airflow_ml_provider.steps.flavors import flavor_of
from airflow_ml_provider.steps.models import Inputs, ScoringModel, load, model_order, save

NUMBERS = ("distance", "night", "weather__temp")
FEATURES = (*NUMBERS, "origin")
LABELLED = feature_rows(days=5).drop_nulls("late")
LABELS = LABELLED["late"].to_numpy()


def given(features: tuple[str, ...] = FEATURES, frame: pl.DataFrame = LABELLED) -> pl.DataFrame:
    """Features in the form that every model gets."""
    return frame.select(Inputs.of(features, frame.schema).expressions())


def scoring(model: Any, features: tuple[str, ...] = FEATURES, folder: Any = None) -> ScoringModel:
    """A fitted model as steps use it; saved and loaded, if a folder is given."""
    inputs = Inputs.of(model_order(model, features), LABELLED.schema)
    if folder is not None:
        save(model, folder, inputs, example=given(features).select(inputs.features).head(3))
        return load(folder, "delays/1")
    flavor = flavor_of(model)
    return ScoringModel("delays/1", flavor, flavor.native(model), inputs)


def boosted(features: tuple[str, ...] = FEATURES, rounds: int = 20, **settings: Any) -> Any:
    """Boosted trees of LightGBM, text as categories."""
    import lightgbm

    frame = given(features).to_pandas()
    texts = dict.fromkeys(given(features).select(pl.col(pl.String)).columns, "category")
    data = lightgbm.Dataset(frame.astype(texts), LABELS)
    known = {"objective": "binary", "num_leaves": 7, "verbose": -1, "num_threads": 1, **settings}
    return lightgbm.train(known, data, rounds)


def logit(scores: np.ndarray) -> np.ndarray:
    """The log-odds of scores."""
    return np.asarray(np.log(scores) - np.log1p(-scores))
