"""Labels that have arrived since: which predictions can be judged by now, and how good they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.features import FeatureSet, Label
from airflow_ml_provider.steps import feature_definition, functions, maturity, metrics
from airflow_ml_provider.steps.feature_inputs import Given, Inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.context import StepContext

REPORTED = ("roc_auc", "log_loss", "brier_score")
_RESAMPLES = 200
# Names that no user's column has.
_PREDICTED, _KNOWN = " predicted", " known"
# Beyond, an interval is narrower than anybody acts on and takes minutes.
_MOST_ROWS_RESAMPLED = 1_000_000


@dataclass(frozen=True)
class Performance:
    """How the scores of some predictions turned out, on those whose label is known.

    :param predicted: rows with a prediction.
    :param matured: of these, rows whose label had matured at the moment asked for. The others have a label
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
        """The share of predictions whose label has matured."""
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


class Judge:
    """Predictions of some partitions beside the labels that have matured; judged together or by partition.

    Scores and labels are held in memory, some 30 bytes a row.

    :param features: entry point of the FeatureSet whose label function is called.
    :param tables: what the label function may ask for.
    :param by: the predictions' partition column.
    :param known_at: labels that matured later do not count; empty counts all that have by now.
    :raises ConfigError: the feature set has no label.
    :raises UserCodeError: the label function raised, or its columns are not those declared.
    :raises DataError: a key has two labels, or a label is neither 0 nor 1.
    """

    def __init__(
        self,
        step: StepContext,
        features: str,
        tables: Mapping[str, pl.LazyFrame],
        predictions: pl.LazyFrame,
        by: str,
        *,
        known_at: str,
        minimum_rows: int,
    ) -> None:
        self.by, self.minimum_rows, self.seed = by, minimum_rows, step.spec.seed
        feature_set = feature_definition.load(step, features)
        joined = matured_labels(
            step, features, feature_set, tables, predictions, keep=[by, "score"], known_at=known_at
        )
        label = feature_set.label
        assert label is not None
        with functions.blame(label.function):
            # The join keeps no order, and which rows a resample draws depends on it.
            self.rows = (
                joined.select(by, "score", "label").collect(engine="streaming").sort(by, "score", "label")
            )
        _check_values(self.rows["label"], label)

    def matured(self) -> dict[str, tuple[int, int]]:
        """How many rows of each partition were predicted, and of how many the label has matured."""
        judged = pl.col("label").is_not_null() & _is_number(pl.col("score"))
        counted = self.rows.group_by(self.by).agg(pl.len().alias("predicted"), judged.sum().alias("matured"))
        return {str(part): (predicted, matured) for part, predicted, matured in counted.iter_rows()}

    def judge(self, partitions: Iterable[str]) -> tuple[Performance, dict[str, Performance]]:
        """How the scores of partitions turned out: all together, with intervals, and by partition."""
        rows = self.rows.filter(pl.col(self.by).is_in(list(partitions)))
        parts = rows.partition_by(self.by, as_dict=True)
        by_partition = {str(value): _judge(part, self.minimum_rows) for (value,), part in parts.items()}
        return _judge(rows, self.minimum_rows, resamples=_RESAMPLES, seed=self.seed), by_partition


def matured_labels(
    step: StepContext,
    features: str,
    feature_set: FeatureSet,
    tables: Mapping[str, pl.LazyFrame],
    predictions: pl.LazyFrame,
    *,
    keep: Sequence[str],
    known_at: str,
) -> pl.LazyFrame:
    """Predictions with a column ``label``: null where it has not matured.

    :param predictions: rows with the set's key, the ``keep`` columns and, for a label that matures some time
        after its prediction, the prediction time. Each row of them comes back once.
    :param keep: columns to have beside the key.
    :raises ConfigError: the feature set has no label, or the predictions have no prediction time.
    :raises UserCodeError: the label function raised, or its columns are not those declared.
    :raises DataError: a key has two labels.
    """
    label = feature_set.label
    if label is None:
        raise ConfigError(
            f"the feature set {features!r} declares no label, so there is no performance to report",
            todo="name a feature set with a label, or leave tables= out of the monitor step",
        )
    given = Inputs(tables, step.scratch).call(label.function)
    given.check([*feature_set.key, label.name, *label.times])
    key = list(feature_set.key)
    schema = predictions.collect_schema()
    time = [_prediction_time(feature_set, schema)] if label.matures_after else []
    scored = predictions.select(
        *(pl.col(name) for name in dict.fromkeys([*key, *keep])),
        *(pl.col(name).dt.replace_time_zone(None).alias(_PREDICTED) for name in time),
    )
    labels = given.frame.select(
        *(given.stored(column).cast(schema[column]).alias(column) for column in key),
        *(given.time(column, up=True).alias(_KNOWN) for column in label.times),
        given.stored(label.name).cast(pl.Float64).alias("label"),
    ).drop_nulls("label")
    matured = maturity.as_expression(label, predicted=pl.col(_PREDICTED), known=pl.col(_KNOWN))
    until = maturity.latest(label, known_at)
    counts = matured.is_not_null() if until is None else matured <= until
    with functions.blame(label.function):
        _refuse_duplicates(labels.join(scored.select(key), on=key, how="semi"), given, key)
        joined = scored.join(labels, on=key, how="left")
        return joined.with_columns(pl.when(counts).then(pl.col("label")).alias("label")).drop(
            _PREDICTED, _KNOWN, strict=False
        )


def _prediction_time(feature_set: FeatureSet, schema: pl.Schema) -> str:
    name = feature_set.prediction_time
    if not isinstance(schema.get(name), pl.Datetime):
        raise ConfigError(
            f"the predictions have no column {name!r} with the prediction time, from which their labels mature",
            todo=f"predict rows that have it: a features step publishes {name!r}, and a predict step keeps it",
        )
    return name


def _refuse_duplicates(labels: pl.LazyFrame, given: Given, key: Sequence[str]) -> None:
    twice = (
        labels.group_by(key).len().filter(pl.col("len") > 1).sort(key).limit(1).collect(engine="streaming")
    )
    if not twice.height:
        return
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
    known = rows.filter(pl.col("label").is_not_null() & _is_number(pl.col("score")))
    labels: NDArray[Any] = known["label"].to_numpy()
    positives = int(np.count_nonzero(labels))
    estimates: dict[str, metrics.Estimate] = {}
    if known.height >= max(minimum_rows, 1) and 0 < positives < known.height:
        draws = resamples if known.height <= _MOST_ROWS_RESAMPLED else 0
        found = metrics.compare(labels, known["score"].to_numpy(), resamples=draws, seed=seed).candidate
        estimates = {name: found[name] for name in REPORTED}
    return Performance(rows.height, known.height, positives, estimates)


def _is_number(score: pl.Expr) -> pl.Expr:
    return score.is_not_null() & score.is_not_nan()
