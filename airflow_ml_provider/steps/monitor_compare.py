"""Partitions of predictions against the reference profiles of the models that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from airflow_ml_provider.contract.arguments import MonitorArguments
from airflow_ml_provider.contract.documents import ModelVersion
from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.partitions import Partitions, parse_partitions
from airflow_ml_provider.steps.drift import Drift, compare
from airflow_ml_provider.steps.feature_rows import FeatureRows
from airflow_ml_provider.steps.monitor_findings import PartitionDrift
from airflow_ml_provider.steps.monitor_reference import SCORE, Reference
from airflow_ml_provider.steps.profiles import Profile, Tally, profiles_of, tally_by

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.pinned_tables import PinnedTable

_MADE_BY = ("model_name", "model_version", "model_run_id", "feature_hash")
# The column that a predict step with a split= adds: which of its models a row was given to.
_VARIANT, _CHAMPION = "variant", "champion"


@dataclass(frozen=True)
class Scored:
    """A partition of the predictions table and the one model version that is monitored there.

    :param rows: how many it predicted; ``others``: how many other variants of a split did.
    """

    partition: str
    model: ModelVersion
    feature_hash: str
    rows: int
    others: int = 0


class Tallies(NamedTuple):
    """Feature rows and scores, counted into the bins of a reference."""

    rows: Tally
    scores: Tally


class Comparer:
    """Measures the drift of partitions.

    :param predictions: what a predict step published.
    :param rows: the feature rows that were predicted.
    """

    def __init__(
        self, step: StepContext, arguments: MonitorArguments, predictions: PinnedTable, rows: PinnedTable
    ) -> None:
        self.step = step
        self.arguments = arguments
        self.predictions = predictions
        self.rows = rows

    @cached_property
    def by(self) -> str:
        """The partition column of the predictions.

        :raises DataError: the table holds no predictions.
        :raises ConfigError: it is not partitioned.
        """
        name, columns = self.predictions.name, self.predictions.columns
        if missing := [column for column in (*_MADE_BY, SCORE) if column not in columns]:
            raise DataError(
                f"table {name!r} has no column {missing[0]!r}, so it holds no predictions",
                todo="name the table that a predict step publishes",
            )
        if self.predictions.partition_by is None:
            raise ConfigError(
                f"table {name!r} is not partitioned, and drift is measured by partition",
                todo=f'publish the predictions with a partition column: Table("{name}", partition_by="ds")',
            )
        return self.predictions.partition_by

    def scored(self, wanted: Partitions | None) -> list[Scored]:
        """Which of the wanted partitions have predictions, in order, and of which model.

        Where models share the keys of a partition, the one monitored is the variant "champion", or the one
        with the most keys if none is called so.

        :raises DataError: a partition has predictions of several model versions that are no variants.
        """
        by = [self.by, *_MADE_BY, *([_VARIANT] if _VARIANT in self.predictions.columns else [])]
        counted = self.predictions.lazy(wanted).group_by(by).agg(rows=pl.len()).sort(by)
        found = counted.collect(engine="streaming").partition_by(self.by, maintain_order=True)
        return [self._scored(part.to_dicts()) for part in found]

    def monitored(self, partitions: Mapping[str, ModelVersion]) -> pl.LazyFrame:
        """The predictions that the model of each partition made."""
        predictions = self.predictions.lazy(parse_partitions(list(partitions)))
        if len(models := set(partitions.values())) == 1:
            # Three comparisons with a constant; a join would hash four texts a row.
            (model,) = models
            return predictions.filter(
                pl.col("model_name") == model.name,
                pl.col("model_version") == model.version,
                pl.col("model_run_id") == model.run_id,
            )
        keys = [(value, model.name, model.version, model.run_id) for value, model in partitions.items()]
        on = [self.by, "model_name", "model_version", "model_run_id"]
        schema = dict(zip(on, (pl.String, pl.String, pl.Int64, pl.String), strict=True))
        wanted = pl.LazyFrame(keys, schema=schema, orient="row")
        return predictions.join(wanted, on=on, how="semi")

    def _scored(self, found: list[dict[str, Any]]) -> Scored:
        made = [
            Scored(
                str(row[self.by]),
                ModelVersion(row["model_name"], row["model_version"], row["model_run_id"]),
                row["feature_hash"],
                row["rows"],
            )
            for row in found
        ]
        variants = [row.get(_VARIANT) for row in found]
        if len(made) > 1 and None in variants:
            raise DataError(
                f"{self.by} = {made[0].partition} of table {self.predictions.name!r} was predicted more "
                f"than once: by {_made_by(made[0])} and by {_made_by(made[1])}",
                todo="run the predict step for this partition again; it replaces the partition whole",
            )
        first = _CHAMPION if _CHAMPION in variants else None
        chosen, _ = max(zip(made, variants, strict=True), key=lambda pair: (pair[1] == first, pair[0].rows))
        rows = sum(each.rows for each in made if each.model == chosen.model)
        return replace(chosen, rows=rows, others=sum(each.rows for each in made) - rows)

    def compare(
        self, scored: Iterable[Scored], tallied: Callable[[int, Reference], Tallies] | None = None
    ) -> tuple[PartitionDrift, ...]:
        """The drift of each partition, in order; the tables are read once per model version.

        :param tallied: gives the counts of a group, by its number in :func:`groups_of`, where they are known.
        """
        found = [
            drift
            for number, group in enumerate(groups_of(scored))
            for drift in self._compare_group(group, tallied and partial(tallied, number))
        ]
        return tuple(sorted(found, key=lambda part: part.partition))

    def tally(
        self,
        reference: Reference,
        rows: pl.LazyFrame,
        made_by: Mapping[str, ModelVersion],
        advance: Callable[[int], object],
    ) -> Tallies:
        """Count feature rows and predictions of partitions into the bins of the reference.

        :param made_by: the partitions, and the model whose predictions there count.
        """
        values = list(made_by)
        row_by = self.rows.partition_by or self.by
        of_rows = tally_by(reference.features, rows, row_by, values, advance)
        return Tallies(of_rows, tally_by(reference.score, self.monitored(made_by), self.by, values))

    def feature_rows(self, partitions: Partitions) -> FeatureRows:
        """The feature rows of partitions."""
        return FeatureRows.open(self.step, self.rows, partitions)

    def _compare_group(
        self, group: list[Scored], tallied: Callable[[Reference], Tallies] | None
    ) -> Iterator[PartitionDrift]:
        model, arguments = group[0].model, self.arguments
        partitions = parse_partitions([scored.partition for scored in group])
        reference = Reference.of(self.step, model, arguments.ignore)
        features, score = reference.features, reference.score
        rows = self.feature_rows(partitions)
        if not rows.rows:
            raise DataError(
                f"{partitions.label} was predicted, and table {self.rows.name!r} has no feature rows there",
                todo="name the table that the predict step read, at a version that has them",
            )
        if rows.hash != group[0].feature_hash:
            raise DataError(
                f"{partitions.label} was predicted from features {group[0].feature_hash[:12]}, and table "
                f"{self.rows.name!r} holds features {rows.hash[:12]} there now",
                todo="run the predict step for these partitions again",
            )
        if tallied:
            tallies = tallied(reference)
        else:
            made_by = {each.partition: each.model for each in group}
            with self.step.progress("rows", rows.rows) as progress:
                tallies = self.tally(reference, rows.lazy(), made_by, progress.advance)
        of_rows = profiles_of(features, tallies.rows, partitions.values)
        of_scores = profiles_of(score, tallies.scores, partitions.values)
        for scored in group:
            current, current_score = of_rows[scored.partition], of_scores[scored.partition]
            predicted = scored.rows + scored.others
            if current["rows"] != predicted:
                self.step.warn(
                    f"{scored.partition} has {predicted:,} predictions and {current['rows']:,} feature rows"
                )
            yield PartitionDrift(
                partition=scored.partition,
                model=model,
                rows=scored.rows,
                decided=min(scored.rows, current["rows"]) >= arguments.minimum_rows,
                max_share=arguments.max_drifted_share,
                score=_drifts(score, current_score, arguments.max_psi)[0],
                features=tuple(_drifts(features, current, arguments.max_psi)),
                reference={**features["columns"], **score["columns"]},
                current={**current["columns"], **current_score["columns"]},
            )


def groups_of(scored: Iterable[Scored]) -> list[list[Scored]]:
    """Partitions that one model version predicted from one definition of features, together."""
    return [list(group) for _, group in groupby(sorted(scored, key=_made_by), key=_made_by)]


def _made_by(scored: Scored) -> str:
    return f"{scored.model.name}/{scored.model.version} from features {scored.feature_hash[:12]}"


def _drifts(reference: Profile, current: Profile, max_psi: float) -> list[Drift]:
    return [
        compare(name, column, current["columns"][name], max_psi)
        for name, column in reference["columns"].items()
    ]
