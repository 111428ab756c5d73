"""The rows of a predictions table: batches of feature rows through the models that score them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.features import FEATURE_HASH
from airflow_ml_provider.steps import scoring, threads, versions
from airflow_ml_provider.steps.assignment import assign
from airflow_ml_provider.steps.shadow import SHADOW, TYPE

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import PredictArguments
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.feature_rows import FeatureRows
    from airflow_ml_provider.steps.models import ScoringModel
    from airflow_ml_provider.steps.scorers import Part, Scorer
    from airflow_ml_provider.steps.shadow import Challengers
    from airflow_ml_provider.steps.versions import Registered

_UTC = pl.Datetime("us", "UTC")
_CONTRIBUTIONS = pl.List(pl.Struct({"feature": pl.String, "contribution": pl.Float64}))
_ROW = "__row"


class ScoredRows:
    """Feature rows with their scores, and what was scored by which model, why and when.

    :param parts: which models score which rows.
    :param challengers: the models that score along.
    :param at: when the prediction is made, as each row records it; now, unless it is a shard of one.
    """

    def __init__(
        self,
        step: StepContext,
        arguments: PredictArguments,
        rows: FeatureRows,
        parts: Sequence[Part],
        challengers: Challengers,
        at: datetime | None = None,
    ) -> None:
        self.step = step
        self.arguments = arguments
        self.rows = rows
        self.parts = parts
        self.challengers = challengers
        self.at = at or datetime.now(UTC)
        self._texts = {name: pl.Enum(texts) for name, texts in self._said().items()}
        known = (arguments.publish.partition_by, rows.prediction_time)
        self.keep = list(dict.fromkeys([*rows.key, *(name for name in known if name in rows.table.columns)]))
        self._warned: set[str] = set()

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """The columns, in order; texts that many rows share are enumerations of them."""
        kept = self.rows.lazy().select(self.keep).collect_schema()
        arguments = self.arguments
        return {
            **kept,
            "score": pl.Float64(),
            "model_name": self._texts["model_name"],
            "model_version": pl.Int64(),
            "model_run_id": self._texts["model_run_id"],
            FEATURE_HASH: self._texts[FEATURE_HASH],
            "predicted_at": _UTC,
            "model_selection": self._texts["model_selection"],
            **({"variant": pl.String()} if arguments.split else {}),
            **({SHADOW: TYPE} if arguments.challengers else {}),
            **({"contributions": _CONTRIBUTIONS} if arguments.explain else {}),
        }

    def batches(self) -> Iterator[pl.DataFrame]:
        """The rows, a few batches in memory at a time.

        :raises ChallengerFailed: a challenger failed on them, and is left out from now on.
        """
        columns = list(self.schema)
        with self.step.progress("rows", self.rows.rows) as progress:
            for batch in self._batches(columns):
                yield batch
                progress.advance(batch.height)

    def _batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        for part in self.parts:
            loaded = {
                each.variant: (
                    each,
                    versions.fetch(self.step, each.registered, only_scores=not self.arguments.explain),
                )
                for each in part.scorers
            }
            beside = self.challengers.load(
                self.challengers.beside([each.registered for each in part.scorers])
            )
            models = [model for _, model in loaded.values()] + [model for _, model in beside]
            batches = scoring.table_batches(
                self.step, self.rows.table, part.partitions, models, self.keep, self.arguments.batch_rows
            )
            alone = self._on_threads(loaded)
            finished = partial(self._finished, loaded=alone or loaded, beside=beside, columns=columns)
            if alone is None:
                yield from map(finished, batches)
            else:
                yield from threads.in_order(partial(finished, batch) for batch in batches)

    def _finished(
        self,
        batch: pl.DataFrame,
        loaded: Mapping[str, tuple[Scorer, ScoringModel]],
        beside: list[tuple[Registered, ScoringModel]],
        columns: Sequence[str],
    ) -> pl.DataFrame:
        """Some rows as they are published."""
        frame = self._scored(batch, loaded).with_columns(pl.lit(self.at, _UTC).alias("predicted_at"))
        if self.arguments.challengers:
            frame = frame.with_columns(self.challengers.scores(batch, beside))
        return frame.select(columns)

    def _on_threads(
        self, loaded: Mapping[str, tuple[Scorer, ScoringModel]]
    ) -> Mapping[str, tuple[Scorer, ScoringModel]] | None:
        """The one model that scores all rows, if it can score several batches at once.

        Threads that share a batch wait for the last of them; with a batch each, none waits.
        """
        arguments = self.arguments
        if arguments.split or arguments.challengers or arguments.explain:
            return None
        ((variant, (scorer, model)),) = loaded.items()
        of_each = -(-threads.processors() // threads.available())
        found = model.on_threads(of_each)
        return None if found is None else {variant: (scorer, found)}

    def _scored(self, batch: pl.DataFrame, loaded: Mapping[str, tuple[Scorer, ScoringModel]]) -> pl.DataFrame:
        """Each row with the score of the one model that is its own, in the batch's order."""
        if not self.arguments.split:
            ((scorer, model),) = loaded.values()
            return self._scored_by(batch, scorer, model)
        shares = {each.name: each.share for each in self.arguments.split}
        numbered = batch.with_columns(
            assign(batch, self.rows.key, shares, self.arguments.salt)
        ).with_row_index(_ROW)
        groups = numbered.partition_by("variant", as_dict=True)
        scored = [self._scored_by(group, *loaded[str(name)]) for (name,), group in groups.items()]
        return pl.concat(scored).sort(_ROW)

    def _scored_by(self, batch: pl.DataFrame, scorer: Scorer, model: ScoringModel) -> pl.DataFrame:
        registered, selection = scorer.registered, scorer.selection
        by, texts = self.rows.partition_by, self._texts
        if isinstance(selection, str) or by is None:
            why = pl.lit(str(selection), texts["model_selection"])
        else:
            values = pl.col(by).cast(pl.String)
            why = values.replace_strict(dict(selection), return_dtype=texts["model_selection"])
        frame = batch.with_columns(
            pl.Series("score", scoring.scores(model, batch), pl.Float64).fill_nan(None),
            pl.lit(registered.name, texts["model_name"]).alias("model_name"),
            pl.lit(registered.version, pl.Int64).alias("model_version"),
            pl.lit(registered.run_id, texts["model_run_id"]).alias("model_run_id"),
            pl.lit(self.rows.hash, texts[FEATURE_HASH]).alias(FEATURE_HASH),
            why.alias("model_selection"),
        )
        return frame.with_columns(self._contributions(model, batch)) if self.arguments.explain else frame

    def _said(self) -> dict[str, list[str]]:
        """The few texts that rows say of what scored them, by column."""
        said: dict[str, dict[str, None]] = {
            name: {} for name in ("model_name", "model_run_id", FEATURE_HASH, "model_selection")
        }
        said[FEATURE_HASH][self.rows.hash] = None
        for scorer in (each for part in self.parts for each in part.scorers):
            said["model_name"][scorer.registered.name] = None
            said["model_run_id"][scorer.registered.run_id] = None
            why = scorer.selection
            said["model_selection"] |= dict.fromkeys(
                [why] if isinstance(why, str) else [*why.values(), str(why)]
            )
        return {name: list(texts) for name, texts in said.items()}

    def _contributions(self, model: ScoringModel, batch: pl.DataFrame) -> pl.Series:
        """The features that moved each row's score most; null where the model cannot tell."""
        from airflow_ml_provider.steps import contributions

        if model.name not in self._warned and (why := contributions.inexplicable(model)):
            self._warned.add(model.name)
            self.step.warn(why)
        features = batch.select(model.inputs.expressions())
        return contributions.contributions_column(model, features, self.arguments.explain)
