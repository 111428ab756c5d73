"""PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.steps.flavors.base import (
    Flavor,
    flavor_module,
    matrix,
    one_column,
    without_unpickling,
)

if TYPE_CHECKING:
    from airflow_ml_provider.steps.flavors.base import Scores


class PyTorch(Flavor):
    """PyTorch modules, as a program exported by ``torch.export``; numbers only, as 32-bit floats.

    The module's ``forward`` takes a tensor ``(rows, features)`` and gives the probability, a tensor
    ``(rows,)`` or ``(rows, 1)``.
    """

    name = "pytorch"

    def native(self, model: Any) -> Any:
        return model.cpu().eval()

    def options(self, model: Any, trusted_types: Iterable[str], example: pl.DataFrame) -> dict[str, Any]:
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        single = np.dtype(np.float32)
        return {
            "serialization_format": "pt2",
            "input_example": matrix(example, self.name).astype(np.float32),
            "signature": ModelSignature(
                Schema([TensorSpec(single, (-1, example.width))]), Schema([TensorSpec(single, (-1,))])
            ),
        }

    def load(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        with without_unpickling():
            return flavor_module(self.name).load_model(str(folder))

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Scores:
        import torch

        with torch.inference_mode():
            given = torch.from_numpy(matrix(rows, self.name).astype(np.float32))
            return one_column(model(given).numpy())
