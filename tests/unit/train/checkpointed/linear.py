"""A linear model over batches that goes on where a killed try saved last."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import skops.io
from sklearn.impute import SimpleImputer
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from airflow_ml_provider.contract.checkpoints import Checkpoint


def train(
    rows: pl.DataFrame,
    features: list[str],
    label: str,
    params: dict[str, Any],
    seed: int,
    checkpoint: Checkpoint,
) -> Pipeline:
    numbers = [name for name in features if rows[name].dtype != pl.String]
    frame, late = rows.select(numbers).cast(pl.Float64).to_pandas(), rows[label].to_numpy()
    prepare = make_pipeline(SimpleImputer(), StandardScaler()).fit(frame)
    given = prepare.transform(frame)
    model, done = SGDClassifier(loss="log_loss", random_state=seed), 0
    if saved := checkpoint.latest():
        # With the count of rows seen, which the learning rate depends on.
        model, done = skops.io.load(saved.folder / "model.skops"), saved.step
    for batch in range(done, params.get("batches", 200)):
        # By seed and batch, so that no state of a generator is to be kept.
        chosen = np.random.default_rng([seed, batch]).integers(0, len(late), 500)
        model.partial_fit(given[chosen], late[chosen], classes=[0, 1])
        if checkpoint.due(every=params.get("save_every", 60)):
            with checkpoint.save(step=batch + 1) as folder:
                skops.io.dump(model, folder / "model.skops")
    return make_pipeline(prepare, model)
