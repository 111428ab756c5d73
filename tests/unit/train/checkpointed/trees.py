"""Boosted trees that go on where a killed try saved last."""

from __future__ import annotations

from typing import Any

import lightgbm
import polars as pl

from airflow_ml_provider.contract.checkpoints import Checkpoint

LAP = 20


def train(
    rows: pl.DataFrame,
    features: list[str],
    label: str,
    params: dict[str, Any],
    seed: int,
    checkpoint: Checkpoint,
) -> lightgbm.Booster:
    frame = rows.select(features).to_pandas()
    texts = rows.select(features).select(pl.col(pl.String)).columns
    frame = frame.astype(dict.fromkeys(texts, "category"))
    data = lightgbm.Dataset(frame, rows[label].to_numpy(), free_raw_data=False)
    settings = {"objective": "binary", "num_leaves": params.get("num_leaves", 31), "learning_rate": 0.05,
                "feature_fraction": 0.7, "bagging_fraction": 0.8, "bagging_freq": 1,
                "deterministic": True, "force_row_wise": True, "verbose": -1}  # fmt: skip
    booster, done = None, 0
    if saved := checkpoint.latest():
        booster, done = lightgbm.Booster(model_file=saved.folder / "model.txt"), saved.step
    for first in range(done, params.get("laps", 10) * LAP, LAP):
        # Each lap draws anew, by a seed of its own, in a training that is never killed too.
        booster = lightgbm.train({**settings, "seed": seed + first}, data, LAP, init_model=booster)
        if checkpoint.due(every=params.get("save_every", 60)):
            with checkpoint.save(step=first + LAP) as folder:
                booster.save_model(folder / "model.txt")
    return booster
