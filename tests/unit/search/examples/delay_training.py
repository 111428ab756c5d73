"""What a data scientist writes for a search: the function that a TrainOperator takes."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import polars as pl
from sklearn.metrics import log_loss


def train(
    rows: pl.DataFrame, features: list[str], label: str, params: dict[str, Any], seed: int, trial: Any
) -> tuple[lightgbm.Booster, dict[str, float]] | None:
    """A model, and how it does on rows that it has not seen."""
    numbers = [name for name in features if rows[name].dtype != pl.String]
    fit, rest = rows[: len(rows) * 4 // 5], rows[len(rows) * 4 // 5 :]
    data = lightgbm.Dataset(fit.select(numbers).to_numpy(), fit[label].to_numpy(), feature_name=numbers)
    settings = {**params, "objective": "binary", "seed": seed, "deterministic": True, "verbose": -1}
    model = lightgbm.Booster(settings, data)
    for step in range(1, 31):
        model.update()
        loss = float(log_loss(rest[label], np.asarray(model.predict(rest.select(numbers).to_numpy()))))
        trial.report(loss, step)
        if trial.should_stop():
            return None
    return model, {"log_loss": loss}
