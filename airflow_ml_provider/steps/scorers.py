"""Which models score which rows of a predict step, and why: as its arguments say, found in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.models import selection_of
from airflow_ml_provider.contract.partitions import Partitions, moment_text, parse_partitions, start_of
from airflow_ml_provider.steps import versions

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import PredictArguments
    from airflow_ml_provider.contract.models import Model
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.feature_rows import FeatureRows
    from airflow_ml_provider.steps.versions import Registered


@dataclass(frozen=True)
class Scorer:
    """A version that scores rows.

    :param selection: why, as each row records it; by partition where that differs.
    :param variant: its name in a split; empty without one.
    :param share: of the keys.
    """

    registered: Registered
    selection: str | Mapping[str, str]
    variant: str = ""
    share: float = 1.0


@dataclass(frozen=True)
class Part:
    """Rows that the same versions score.

    :param partitions: of the feature rows; None for all of them.
    :param scorers: one, or the variants of a split.
    """

    partitions: Partitions | None
    scorers: tuple[Scorer, ...]

    def identity(self) -> str:
        """What of it decides about the predictions' content."""
        who = (f"{each.registered} {each.registered.run_id}" for each in self.scorers)
        return f"{self.partitions.label if self.partitions else ''}: {', '.join(who)}"


def parts_of(
    step: StepContext, arguments: PredictArguments, rows: FeatureRows, partitions: Partitions | None
) -> list[Part]:
    """The parts in which rows are scored; together they are all rows.

    :raises DataError: a version does not exist, or was trained on another definition of the features.
    :raises ConfigError: versions by partition leave out a partition that is asked for, or have another.
    """
    if arguments.split:
        return [
            Part(
                partitions,
                tuple(
                    Scorer(_found(step, each.model, rows), each.selection, each.name, each.share)
                    for each in arguments.split
                ),
            )
        ]
    if not arguments.by_partition:
        selection = arguments.selection or selection_of(arguments.model)
        return [Part(partitions, (Scorer(_found(step, arguments.model, rows), selection),))]
    parts = []
    for each in arguments.by_partition:
        of_version = parse_partitions(each.partitions)
        alias = arguments.model.alias
        reasons = {value: f"{alias} as of {moment_text(start_of(value))}" for value in of_version.values}
        parts.append(Part(of_version, (Scorer(_found(step, each.model, rows), reasons),)))
    given = [value for part in parts if part.partitions for value in part.partitions.values]
    if sorted(given) != sorted(partitions.values if partitions else ()):
        raise ConfigError(
            "the partitions that have a version each are not the partitions to predict",
            todo="name each partition of partitions= once in by_partition=",
        )
    return parts


def verdict_of(
    parts: list[Part], arguments: PredictArguments, published: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Who scored what, for the result.

    :param published: the facts of the published rows by variant, and by version where there is no split.
    """
    models = []
    for part in parts:
        for each in part.scorers:
            known = published.get(each.variant or str(each.registered), {})
            models.append(
                {
                    **each.registered.document(),
                    "selection": each.selection if isinstance(each.selection, str) else arguments.selection,
                    "partitions": part.partitions.label if part.partitions else "",
                    **({"variant": each.variant, "share": each.share} if each.variant else {}),
                    **known,
                }
            )
    return {"models": models, **({"salt": arguments.salt} if arguments.split else {})}


def _found(step: StepContext, model: Model, rows: FeatureRows) -> Registered:
    registered = versions.find(step, model)
    if registered is None:
        raise DataError(
            f"there is no model {model} in MLflow at {step.tracker.uri}",
            todo="train and promote it: run the training DAG, or name a version that exists",
        )
    versions.check_features(registered, rows, rows.table.name)
    return registered
