"""Challengers that score along: their scores stand beside the champion's, and their failures cost nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, DataError, UserCodeError
from airflow_ml_provider.steps import known_values, scoring, versions

if TYPE_CHECKING:
    from airflow_ml_provider.contract.models import Model
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.feature_rows import FeatureRows
    from airflow_ml_provider.steps.models import ScoringModel
    from airflow_ml_provider.steps.versions import Registered

SHADOW = "shadow"
_SCORED = {
    "model_name": pl.String(),
    "model_version": pl.Int64(),
    "model_run_id": pl.String(),
    "score": pl.Float64(),
}
TYPE = pl.List(pl.Struct(_SCORED))
# What is wrong with the challenger, not with the place: a storage that fails is worth a retry of it all.
_ITS_FAULT = (DataError, UserCodeError, ConfigError)


class ChallengerFailed(Exception):
    """A challenger failed on rows; it is left out, and the rows are scored once more without it."""


class Challengers:
    """The models that score beside the champion.

    :param asked: which were asked for; one that is not there, or is for other rows, is left out.
    """

    def __init__(self, step: StepContext, asked: Iterable[Model], rows: FeatureRows) -> None:
        self.step = step
        self.rows = rows
        self.asked = tuple(asked)
        self.found: list[Registered] = []
        self.left_out: dict[str, str] = {}
        self._loaded: dict[str, ScoringModel] = {}
        for model in self.asked:
            self._find(model)

    def beside(self, champions: Iterable[Registered]) -> list[Registered]:
        """Those that are another version than all of these."""
        served = {(one.name, one.version) for one in champions}
        return [each for each in self.found if {(each.name, each.version)} != served]

    def load(self, wanted: Iterable[Registered]) -> list[tuple[Registered, ScoringModel]]:
        """Those of the wanted that can be loaded and take the rows; the others are left out."""
        for registered in wanted:
            if str(registered) not in self._loaded and registered in self.found:
                try:
                    model = versions.fetch(self.step, registered, only_scores=True)
                    model.inputs.check(self.rows.lazy().collect_schema(), model.name)
                    known_values.check(model, self.rows.lazy())
                    self._loaded[str(registered)] = model
                except _ITS_FAULT as error:
                    self._leave_out(registered, error.what)
        return [(each, self._loaded[str(each)]) for each in wanted if each in self.found]

    def scores(self, batch: pl.DataFrame, models: list[tuple[Registered, ScoringModel]]) -> pl.Series:
        """The column ``shadow``: for each row, the score of each challenger.

        :raises ChallengerFailed: one of them failed; it is not among those found any more.
        """
        if not models:
            return pl.repeat([], batch.height, dtype=TYPE, eager=True).alias(SHADOW)
        parts = []
        for registered, model in models:
            try:
                found = scoring.scores(model, batch)
            except _ITS_FAULT as error:
                self._leave_out(registered, error.what)
                raise ChallengerFailed(str(registered)) from error
            said = (registered.name, registered.version, registered.run_id)
            columns = [
                pl.lit(value, kind).alias(name)
                for (name, kind), value in zip(_SCORED.items(), said, strict=False)
            ]
            parts.append(pl.struct(*columns, pl.lit(pl.Series("score", found, pl.Float64).fill_nan(None))))
        return batch.select(pl.concat_list(parts).cast(TYPE).alias(SHADOW)).to_series()

    def check_published(self, rows: pl.LazyFrame, wanted: Iterable[Registered]) -> None:
        """Leave out those of the wanted that an earlier try, which published these rows, had left out."""
        there = rows.select(SHADOW).explode(SHADOW).drop_nulls().unnest(SHADOW)
        named = there.select("model_name", "model_version").unique().collect(engine="streaming").rows()
        for registered in [each for each in wanted if (each.name, each.version) not in named]:
            self._leave_out(registered, "it had failed when these predictions were published")

    def _find(self, model: Model) -> None:
        registered = versions.find(self.step, model)
        if registered is None:
            self._say(str(model), f"MLflow at {self.step.tracker.uri} has none")
        elif registered not in self.found:
            try:
                versions.check_features(registered, self.rows, self.rows.table.name)
                self.found.append(registered)
            except _ITS_FAULT as error:
                self._say(str(registered), error.what)

    def _leave_out(self, registered: Registered, why: str) -> None:
        self.found = [each for each in self.found if each is not registered]
        self._say(str(registered), why)

    def _say(self, name: str, why: str) -> None:
        self.left_out[name] = why
        self.step.warn(f"challenger {name} is left out: {why}")
