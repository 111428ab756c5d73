"""What a data scientist writes for a fleet: plain functions."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import polars as pl
from sklearn.metrics import log_loss


def delays(rows: pl.LazyFrame, item: dict[str, Any]) -> dict[str, Any]:
    """The share of late flights of an origin, up to a distance."""
    near = rows.filter(pl.col("distance") <= item["longest"])
    return near.select(flights=pl.len(), late=pl.col("late").mean()).collect().to_dicts()[0]


def train(
    rows: pl.DataFrame, features: list[str], label: str, params: dict[str, Any], seed: int
) -> tuple[lightgbm.Booster, dict[str, float]]:
    """A model, and how it does on rows that it has not seen."""
    numbers = [name for name in features if rows[name].dtype != pl.String]
    fit, rest = rows[: len(rows) * 4 // 5], rows[len(rows) * 4 // 5 :]
    data = lightgbm.Dataset(fit.select(numbers).to_numpy(), fit[label].to_numpy(), feature_name=numbers)
    settings = {**params, "objective": "binary", "seed": seed, "deterministic": True, "verbose": -1}
    model = lightgbm.train(settings, data, num_boost_round=20)
    scores = np.asarray(model.predict(rest.select(numbers).to_numpy()))
    return model, {"holdout_log_loss": log_loss(rest[label].to_numpy(), scores)}
