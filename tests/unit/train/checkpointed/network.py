"""A PyTorch network that goes on where a killed try saved last."""

from __future__ import annotations

from typing import Any

import polars as pl
import torch
from torch import nn

from airflow_ml_provider.contract.checkpoints import Checkpoint


class Late(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.normed = nn.BatchNorm1d(features)
        self.layers = nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))

    def odds(self, given: torch.Tensor) -> torch.Tensor:
        return self.layers(self.normed(given)).squeeze(1)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.odds(given))


def train(
    rows: pl.DataFrame,
    features: list[str],
    label: str,
    params: dict[str, Any],
    seed: int,
    checkpoint: Checkpoint,
) -> nn.Module:
    torch.manual_seed(seed)
    x = torch.from_numpy(rows.select(features).to_numpy().astype("float32"))
    y = torch.from_numpy(rows[label].to_numpy().astype("float32"))
    model = Late(len(features))
    optimizer, done = torch.optim.Adam(model.parameters(), lr=0.01), 0
    if saved := checkpoint.latest():
        state = torch.load(saved.folder / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        done = saved.step
    for epoch in range(done, params.get("epochs", 20)):
        for chosen in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model.odds(x[chosen]), y[chosen]).backward()
            optimizer.step()
        if checkpoint.due(every=params.get("save_every", 60)):
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": torch.get_rng_state(),
            }
            with checkpoint.save(step=epoch + 1) as folder:
                torch.save(state, folder / "state.pt")
    return model.eval()
