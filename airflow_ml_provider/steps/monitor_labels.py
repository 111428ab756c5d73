"""Labels that have arrived since: which predictions can be judged by now, and how good they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.features import Label
from airflow_ml_provider.steps import feature_definition, functions, metrics
from airflow_ml_provider.steps.feature_inputs import Given, Inputs
from airflow_ml_provider.steps.moments import moment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.context import StepContext

REPORTED = ("roc_auc", "log_loss", "brier_score")
_RESAMPLES = 200
# Beyond, an interval is narrower than anybody acts on and takes minutes.
_MOST_ROWS_RESAMPLED = 1_000_000


@dataclass(frozen=True)
class Performance:
    """How the scores of some predictions turned out, on those whose label is known.

    :param predicted: rows with a prediction.
    :param matured: of these, rows whose label was known at the moment asked for. The others have a label
        that is late or never comes (a cancelled flight); which of the two cannot be told before it comes.
    :param positives: matured rows with label 1.
    :param metrics: ``roc_auc``, ``log_loss`` and ``brier_score``; empty with too few matured rows or rows of
        one class only.
    """

    predicted: int
    matured: int
    positives: int
    metrics: Mapping[str, metrics.Estimate]

    @property
    def share(self) -> float:
        """The share of predictions whose label is known."""
        return self.matured / self.predicted if self.predicted else 0.0

    def document(self) -> dict[str, Any]:
        """As it stands in the verdict."""
        return {
            "predicted": self.predicted,
            "matured": self.matured,
            "share": round(self.share, 6),
            "without_label": self.predicted - self.matured,
            "positives": self.positives,
            **{name: estimate.document() for name, estimate in self.metrics.items()},
        }


def performance(
    step: StepContext,
    features: str,
    tables: Mapping[str, pl.LazyFrame],
    predictions: pl.LazyFrame,
    by: str,
    *,
    known_at: str,
    minimum_rows: int,
) -> tuple[Performance, dict[str, Performance]]:
    """Judge predictions by the labels of a feature set; all together, and by partition.

    Scores and labels of the partitions are held in memory, some 30 bytes a row.

    :param features: entry point of the FeatureSet whose label function is called.
    :param tables: what the label function may ask for.
    :param by: the predictions' partition column.
    :param known_at: labels that became known later do not count; empty counts all.
    :raises ConfigError: the feature set has no label.
    :raises UserCodeError: the label function raised, or its columns are not those declared.
    :raises DataError: a key has two labels, or a label is neither 0 nor 1.
    """
    feature_set = feature_definition.load(step, features)
    label = feature_set.label
    if label is None:
        raise ConfigError(
            f"the feature set {features!r} declares no label, so there is no performance to report",
            todo="name a feature set with a label, or leave tables= out of the monitor step",
        )
    given = Inputs(tables, step.scratch).call(label.function)
    given.check([*feature_set.key, label.name, label.known_at])
    scored = predictions.select(list(dict.fromkeys([by, *feature_set.key, "score"])))
    labels = _known_labels(given, label, feature_set.key, scored, moment(known_at, name="known_at"))
    with functions.blame(label.function):
        joined = scored.join(labels, on=list(feature_set.key), how="left")
        # The join keeps no order, and which rows a resample draws depends on it.
        found = joined.select(by, "score", "label").collect(engine="streaming").sort(by, "score", "label")
        if found.height > predictions.select(pl.len()).collect().item():
            _refuse_duplicates(
                labels.join(scored, on=list(feature_set.key), how="semi"), given, feature_set.key
            )
    _check_values(found["label"], label)
    everything = _judge(found, minimum_rows, resamples=_RESAMPLES, seed=step.spec.seed)
    parts = found.partition_by(by, as_dict=True)
    return everything, {str(value): _judge(part, minimum_rows) for (value,), part in parts.items()}


def _known_labels(
    given: Given, label: Label, key: Sequence[str], scored: pl.LazyFrame, until: datetime | None
) -> pl.LazyFrame:
    schema = scored.collect_schema()
    known_at = given.time(label.known_at, up=True)
    return given.frame.select(
        *(given.stored(column).cast(schema[column]).alias(column) for column in key),
        label=pl.when(known_at.is_not_null() if until is None else known_at <= until).then(
            given.stored(label.name).cast(pl.Float64)
        ),
    ).drop_nulls("label")


def _refuse_duplicates(labels: pl.LazyFrame, given: Given, key: Sequence[str]) -> None:
    twice = labels.group_by(key).len().filter(pl.col("len") > 1).sort(key).limit(1).collect()
    *first, rows = twice.row(0)
    named = ", ".join(f"{name}={value!r}" for name, value in zip(key, first, strict=True))
    raise DataError(
        f"{given.name} gives {rows:,} labels for {named}", todo="make it give at most one row for a key"
    )


def _check_values(labels: pl.Series, label: Label) -> None:
    wrong = labels.filter(labels.is_not_null() & ~labels.is_in([0.0, 1.0]))
    if len(wrong):
        raise DataError(
            f"label {label.name!r} has the value {wrong[0]:g}; performance is reported for labels of 0 and 1"
        )


def _judge(rows: pl.DataFrame, minimum_rows: int, *, resamples: int = 0, seed: int = 0) -> Performance:
    known = rows.drop_nulls().drop_nans()
    labels: NDArray[Any] = known["label"].to_numpy()
    positives = int(np.count_nonzero(labels))
    estimates: dict[str, metrics.Estimate] = {}
    if known.height >= max(minimum_rows, 1) and 0 < positives < known.height:
        draws = resamples if known.height <= _MOST_ROWS_RESAMPLED else 0
        found = metrics.compare(labels, known["score"].to_numpy(), resamples=draws, seed=seed).candidate
        estimates = {name: found[name] for name in REPORTED}
    return Performance(rows.height, known.height, positives, estimates)
