"""Predictions of some partitions beside the labels that have matured since: models judged on live rows.

Two models are compared on the same rows where both scored them, one of them in ``shadow``; where keys were
split between them, each on its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, DataError, did_you_mean
from airflow_ml_provider.steps import feature_definition, maturity
from airflow_ml_provider.steps.monitor_labels import matured_labels
from airflow_ml_provider.steps.pinned_tables import open_table
from airflow_ml_provider.steps.shadow import SHADOW

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_ml_provider.contract.documents import ModelVersion
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.pinned_tables import PinnedTable

LABEL = "label"


@dataclass(frozen=True)
class LiveRows:
    """Rows whose label has matured, with the scores that models gave them when they were predicted.

    :param frame: in the order of partition and key: the partition column, the key, the slice columns and
        ``label``, which is 0 or 1 (Int8).
    :param label: the name of that column.
    :param scores: by model (``"flight_delays/7"``, candidate first), one a row of ``frame``; NaN for a row
        that the model did not score, which there is only where keys were split.
    :param paired: whether every row has every model's score.
    :param predicted: rows with these models' scores, by model; the same number for all when paired.
    :param matured: of these, rows whose label is known, by model.
    :param known_at: by when labels had to be known; empty where those that are there are all that count.
    """

    frame: pl.DataFrame
    label: str
    scores: Mapping[str, NDArray[np.float64]]
    paired: bool
    predicted: Mapping[str, int]
    matured: Mapping[str, int]
    known_at: str = ""

    def of(self, model: str) -> tuple[pl.DataFrame, NDArray[np.float64]]:
        """The rows that a model scored, and its scores of them."""
        own = ~pl.Series(self.scores[model]).is_nan()
        return self.frame.filter(own), self.scores[model][own.to_numpy()]


def live_rows(
    step: StepContext,
    predictions: Table,
    partitions: str,
    models: Sequence[ModelVersion],
    *,
    features: str,
    label_tables: Sequence[Table],
    slices: Sequence[str] = (),
    rows: Table | None = None,
    known_at: str = "",
) -> LiveRows:
    """Read predictions and their matured labels. Some 50 bytes a row are in memory, and the slice columns.

    :param predictions: what a predict step published, with ``shadow`` or ``variant`` for two models.
    :param partitions: those to judge; empty for all.
    :param models: the candidate, and the champion if there is one.
    :param features: entry point of the FeatureSet whose label function is called on ``label_tables``.
    :param slices: columns of the predictions or of ``rows``, the feature rows that were predicted.
    :param known_at: labels that matured later do not count; empty counts all that have by now.
    :raises ConfigError: the feature set has no label, or a slice column is nowhere.
    :raises DataError: there are no predictions of a model, or a label is neither 0 nor 1.
    """
    table = step.read(predictions)
    if missing := [name for name in ("score", "model_name", "model_version") if name not in table.columns]:
        raise DataError(
            f"table {table.name!r} has no column {missing[0]!r}, so it holds no predictions",
            todo="name the table that a predict step publishes",
        )
    wanted = step.partitions(partitions)
    names = {f"{model.name}/{model.version}": model for model in models}
    columns = {name: f" score {n}" for n, name in enumerate(names)}
    scored = table.lazy(wanted).with_columns(
        _score_of(model, table).alias(columns[name]) for name, model in names.items()
    )
    scored, paired = _comparable(scored, columns, table, partitions)
    feature_set = feature_definition.load(step, features)
    if feature_set.label and (until := maturity.latest(feature_set.label, known_at)) and not known_at:
        known_at = f"{until.isoformat()}Z"
    by = [table.partition_by] if table.partition_by else []
    key = list(feature_set.key)
    scored = _with_slices(step, scored, table, rows, partitions, key, slices)
    inputs = {each.name: open_table(step.store, each).lazy() for each in label_tables}
    keep = list(dict.fromkeys([*by, *slices, *columns.values()]))
    labelled = matured_labels(step, features, feature_set, inputs, scored, keep=keep, known_at=known_at)
    found = labelled.collect(engine="streaming").sort(*dict.fromkeys([*by, *key]))
    known = found.filter(pl.col("label").is_not_null())
    _check_labels(known["label"])
    frame = known.select(*dict.fromkeys([*by, *key, *slices]), pl.col("label").cast(pl.Int8).alias(LABEL))
    return LiveRows(
        frame,
        LABEL,
        {name: known[column].fill_null(float("nan")).to_numpy() for name, column in columns.items()},
        paired,
        {name: found[column].count() for name, column in columns.items()},
        {name: known[column].count() for name, column in columns.items()},
        known_at,
    )


def _score_of(model: ModelVersion, table: PinnedTable) -> pl.Expr:
    """A model's own score of a row, or the one that it gave beside the champion; null without either."""

    def is_it(name: pl.Expr, version: pl.Expr) -> pl.Expr:
        return (name == model.name) & (version == model.version)

    own = pl.when(is_it(pl.col("model_name"), pl.col("model_version"))).then(pl.col("score"))
    if SHADOW not in table.columns:
        return own
    one = pl.element().struct
    its = pl.when(is_it(one.field("model_name"), one.field("model_version"))).then(one.field("score"))
    return pl.coalesce(own, pl.col(SHADOW).list.eval(its).list.drop_nulls().list.first())


def _comparable(
    scored: pl.LazyFrame, columns: Mapping[str, str], table: PinnedTable, partitions: str
) -> tuple[pl.LazyFrame, bool]:
    """The rows on which the models are compared: those that all scored, if there are any."""
    has = [pl.col(column).is_not_null() for column in columns.values()]
    counts = scored.select(
        pl.all_horizontal(has).sum().alias(" all"), *(pl.col(each).count() for each in columns.values())
    ).collect(engine="streaming")
    for name, column in columns.items():
        if not counts[column][0]:
            where = f", partitions {partitions}" if partitions else ""
            raise DataError(
                f"table {table.name!r}, version {table.version}{where}, has no predictions of model {name}",
                todo="predict with it: PredictOperator(challengers=[...]) or split={...}, or name partitions "
                "that it has predicted",
            )
    paired = bool(counts[" all"][0])
    return scored.filter(pl.all_horizontal(has) if paired else pl.any_horizontal(has)), paired


def _with_slices(
    step: StepContext,
    scored: pl.LazyFrame,
    table: PinnedTable,
    rows: Table | None,
    partitions: str,
    key: list[str],
    slices: Sequence[str],
) -> pl.LazyFrame:
    missing = [name for name in slices if name not in table.columns]
    if not missing:
        return scored
    source = step.read(rows) if rows else table
    if unknown := [name for name in missing if name not in source.columns]:
        known = sorted({*table.columns, *source.columns})
        raise ConfigError(
            f"there is no column {unknown[0]!r} to slice by in {table.name!r}"
            + (f" or {source.name!r}" if rows else ""),
            todo=did_you_mean(unknown[0], known)
            if rows
            else "name the feature rows that were predicted as rows=, which may have it",
        )
    joined = source.lazy(step.partitions(partitions)).select(*key, *missing)
    return scored.join(joined, on=key, how="left")


def _check_labels(labels: pl.Series) -> None:
    wrong: Any = labels.filter(~labels.is_in([0.0, 1.0]))
    if len(wrong):
        raise DataError(f"the label has the value {wrong[0]:g}; models are judged by labels of 0 and 1")
