"""The models: will a flight arrive late? Each function knows data and a library, and nothing of pipelines."""

from __future__ import annotations

from typing import Any

import lightgbm
import polars as pl
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def train(
    rows: pl.DataFrame, features: list[str], label: str, params: dict[str, Any], seed: int
) -> lightgbm.Booster:
    """Boosted trees; equal rows, parameters and seed give an equal model on any number of threads."""
    frame = rows.select(features).to_pandas()
    texts = rows.select(features).select(pl.col(pl.String)).columns
    data = lightgbm.Dataset(frame.astype(dict.fromkeys(texts, "category")), rows[label].to_numpy())
    settings = {
        "objective": "binary",
        "learning_rate": params.get("learning_rate", 0.08),
        "num_leaves": params.get("num_leaves", 31),
        "min_data_in_leaf": params.get("min_data_in_leaf", 100),
        "feature_fraction": 0.7,
        "num_threads": params.get("threads", 0),
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
    return lightgbm.train(settings, data, num_boost_round=params.get("rounds", 100))


def train_linear(
    rows: pl.DataFrame, features: list[str], label: str, params: dict[str, Any], seed: int
) -> Pipeline:
    """Logistic regression, a baseline that people can read; it encodes and imputes by itself."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    texts = OneHotEncoder(handle_unknown="ignore", min_frequency=20)
    encoder = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (texts, make_column_selector(dtype_exclude="number")),
    )
    model = LogisticRegression(C=params.get("C", 1.0), max_iter=1000, random_state=seed)
    return make_pipeline(encoder, model).fit(rows.select(features).to_pandas(), rows[label].to_numpy())
