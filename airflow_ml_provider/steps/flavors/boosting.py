"""Gradient boosting libraries, each with a format of its own.

Their contributions are SHAP values by TreeSHAP (Lundberg et al. 2020, From local explanations to global
understanding with explainable AI for trees), measured from the training rows as the trees counted them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.steps.flavors.base import Flavor, matrix

if TYPE_CHECKING:
    from airflow_ml_provider.steps.flavors.base import Parts, Scores

_FEW_ROWS = 10_000


class LightGBM(Flavor):
    """LightGBM's boosters, in its own text format; text features where they were pandas categories."""

    name = "lightgbm"
    file = "model.lgb"

    def __init__(self, threads: int = 0) -> None:
        # For one prediction; 0: as many as there are processors.
        self._threads = threads

    def native(self, model: Any) -> Any:
        return getattr(model, "booster_", model)

    def inputs(self, model: Any) -> list[str] | None:
        # Fitted on a bare matrix, LightGBM makes names up.
        names: list[str] = model.feature_name()
        return None if all(name.startswith("Column_") for name in names) else names

    def write(self, model: Any, folder: Path, trusted_types: Iterable[str]) -> dict[str, Any] | None:
        model.save_model(str(folder / self.file))
        return {}

    def load(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        import lightgbm

        return lightgbm.Booster(model_file=str(folder / self.file))

    def load_scorer(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        from airflow_ml_provider.steps.flavors.lightgbm_library import scorer_of

        return scorer_of(folder / self.file) or self.load(folder, settings)

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Scores:
        # Threads that wait for each other cost more than so few rows do; a row's score is the same.
        threads = 1 if rows.height < _FEW_ROWS else self._threads
        return np.asarray(model.predict(self._given(model, rows), num_threads=threads), np.float64)

    def on_threads(self, threads: int) -> Flavor:
        # Its boosters hold a lock that predictions share.
        return LightGBM(threads)

    def inexplicable(self, model: Any, features: int, *, background: bool = False) -> str:
        return _described(model)[0]

    def contributions(
        self, model: Any, rows: pl.DataFrame, background: pl.DataFrame | None = None
    ) -> Parts | None:
        why_not, scale = _described(model)
        if why_not:
            return None
        return _parted(scale * model.predict(self._given(model, rows), pred_contrib=True))

    def leaves(self, model: Any) -> int:
        found = re.findall(r"^num_leaves=(\d+)$", model.model_to_string(), re.MULTILINE)
        return sum(int(each) for each in found)

    def _given(self, model: Any, rows: pl.DataFrame) -> Any:
        if not model.pandas_categorical:
            return matrix(rows, self.name)
        texts = [name for name, dtype in rows.schema.items() if dtype == pl.String]
        return rows.to_pandas().astype(dict.fromkeys(texts, "category"))


class XGBoost(Flavor):
    """XGBoost's boosters, in its own binary JSON."""

    name = "xgboost"
    file = "model.ubj"

    def native(self, model: Any) -> Any:
        return model.get_booster() if hasattr(model, "get_booster") else model

    def inputs(self, model: Any) -> list[str] | None:
        names: list[str] | None = model.feature_names
        return names

    def write(self, model: Any, folder: Path, trusted_types: Iterable[str]) -> dict[str, Any] | None:
        model.save_model(folder / self.file)
        return {}

    def load(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        import xgboost

        booster = xgboost.Booster()
        booster.load_model(folder / self.file)
        return booster

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Scores:
        return np.asarray(model.predict(self._given(model, rows)), np.float64)

    def inexplicable(self, model: Any, features: int, *, background: bool = False) -> str:
        learner = json.loads(model.save_config())["learner"]
        objective, booster = learner["objective"]["name"], learner["gradient_booster"]["name"]
        if objective not in ("binary:logistic", "reg:logistic"):
            return _no_log_odds(objective)
        # Its linear booster measures from zero, not from the training rows.
        return "" if booster in ("gbtree", "dart") else f"XGBoost's {booster} allows no exact contributions"

    def contributions(
        self, model: Any, rows: pl.DataFrame, background: pl.DataFrame | None = None
    ) -> Parts | None:
        if self.inexplicable(model, rows.width):
            return None
        return _parted(model.predict(self._given(model, rows), pred_contribs=True))

    def leaves(self, model: Any) -> int:
        return sum(tree.count("leaf=") for tree in model.get_dump())

    def _given(self, model: Any, rows: pl.DataFrame) -> Any:
        import xgboost

        return xgboost.DMatrix(matrix(rows, self.name), feature_names=model.feature_names)


class CatBoost(Flavor):
    """CatBoost's classifiers, in its own format; missing text is the empty text."""

    name = "catboost"
    file = "model.cb"

    def inputs(self, model: Any) -> list[str] | None:
        # Fitted on a bare matrix, CatBoost calls the columns by their numbers.
        names: list[str] = model.feature_names_
        return None if all(name.isdigit() for name in names) else names

    def write(self, model: Any, folder: Path, trusted_types: Iterable[str]) -> dict[str, Any] | None:
        model.save_model(str(folder / self.file), format="cbm")
        return {}

    def load(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        import catboost

        return catboost.CatBoostClassifier().load_model(folder / self.file)

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Scores:
        return np.asarray(model.predict_proba(self._given(rows))[:, 1], np.float64)

    def inexplicable(self, model: Any, features: int, *, background: bool = False) -> str:
        known = model.get_all_params()
        objective = str(known.get("loss_function")).partition(":")[0]
        if objective not in ("Logloss", "CrossEntropy"):
            return _no_log_odds(objective)
        # Seen with CatBoost 1.2: they are off by whole log-odds, in the library's own sums.
        symmetric = known.get("grow_policy", "SymmetricTree") == "SymmetricTree"
        return "" if symmetric else "CatBoost's contributions add up for symmetric trees only"

    def contributions(
        self, model: Any, rows: pl.DataFrame, background: pl.DataFrame | None = None
    ) -> Parts | None:
        import catboost

        if self.inexplicable(model, rows.width):
            return None
        given = catboost.Pool(self._given(rows), cat_features=model.get_cat_feature_indices())
        return _parted(model.get_feature_importance(given, type="ShapValues"))

    def _given(self, rows: pl.DataFrame) -> Any:
        return rows.with_columns(pl.col(pl.String).fill_null("")).to_pandas()


def _described(model: Any) -> tuple[str, float]:
    """Why a LightGBM model gives no contributions, if so, and what makes log-odds of its raw scores."""
    text = model.model_to_string(num_iteration=1)
    objective = re.search(r"^objective=(.*)$", text, re.MULTILINE)
    words = objective[1].split() if objective else ["none"]
    if words[0] not in ("binary", "cross_entropy"):
        return _no_log_odds(words[0]), 1.0
    if re.search(r"^is_linear=1$", text, re.MULTILINE):
        return "LightGBM gives none for trees with linear leaves", 1.0
    steepness = next((float(word[8:]) for word in words if word.startswith("sigmoid:")), 1.0)
    # Random forests give the mean of their trees, and contributions to the sum.
    averaged = re.search(r"^average_output$", text, re.MULTILINE)
    return "", steepness / (model.num_trees() if averaged else 1)


def _no_log_odds(objective: str) -> str:
    return f"its objective is {objective}, so its scores are not made of log-odds"


def _parted(found: Any) -> Parts:
    """Contributions as these libraries give them: the base is the last column, the same in each row."""
    values = np.asarray(found, np.float64)
    return values[:, :-1], float(values[0, -1])
