"""Gradient boosting libraries, each with a format of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.steps.flavors.base import Flavor, matrix

if TYPE_CHECKING:
    from airflow_ml_provider.steps.flavors.base import Scores


class LightGBM(Flavor):
    """LightGBM's boosters, in its own text format; text features where they were pandas categories."""

    name = "lightgbm"
    file = "model.lgb"

    def native(self, model: Any) -> Any:
        return getattr(model, "booster_", model)

    def inputs(self, model: Any) -> list[str] | None:
        # Fitted on a bare matrix, LightGBM makes names up.
        names: list[str] = model.feature_name()
        return None if all(name.startswith("Column_") for name in names) else names

    def load(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        import lightgbm

        return lightgbm.Booster(model_file=str(folder / self.file))

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Scores:
        if not model.pandas_categorical:
            return np.asarray(model.predict(matrix(rows, self.name)), np.float64)
        texts = [name for name, dtype in rows.schema.items() if dtype == pl.String]
        given = rows.to_pandas().astype(dict.fromkeys(texts, "category"))
        return np.asarray(model.predict(given), np.float64)


class XGBoost(Flavor):
    """XGBoost's boosters, in its own binary JSON."""

    name = "xgboost"
    file = "model.ubj"

    def native(self, model: Any) -> Any:
        return model.get_booster() if hasattr(model, "get_booster") else model

    def inputs(self, model: Any) -> list[str] | None:
        names: list[str] | None = model.feature_names
        return names

    def load(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        import xgboost

        booster = xgboost.Booster()
        booster.load_model(folder / self.file)
        return booster

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Scores:
        import xgboost

        given = xgboost.DMatrix(matrix(rows, self.name), feature_names=model.feature_names)
        return np.asarray(model.predict(given), np.float64)


class CatBoost(Flavor):
    """CatBoost's classifiers, in its own format; missing text is the empty text."""

    name = "catboost"
    file = "model.cb"

    def inputs(self, model: Any) -> list[str] | None:
        # Fitted on a bare matrix, CatBoost calls the columns by their numbers.
        names: list[str] = model.feature_names_
        return None if all(name.isdigit() for name in names) else names

    def load(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        import catboost

        return catboost.CatBoostClassifier().load_model(folder / self.file)

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Scores:
        given = rows.with_columns(pl.col(pl.String).fill_null("")).to_pandas()
        return np.asarray(model.predict_proba(given)[:, 1], np.float64)
