"""Features as declarations over plain functions; one definition builds training rows and rows to predict.

The functions take tables by parameter name and give frames; they know nothing of this package::

    def weather(weather: pl.LazyFrame) -> pl.LazyFrame: ...

    LATE_ARRIVAL = FeatureSet(
        rows=flights_to_predict, key=("flight_id",), prediction_time="predict_at",
        views=(FeatureView("weather", weather, by=("origin",), event_time="observed_at",
                           knowledge_time="published_at", features=("temp", "wind_speed"), max_age="6h"),),
        label=Label("late", late_arrival, known_at="landed_at"),
    )
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_ml_provider.contract.errors import ConfigError


@dataclass(frozen=True)
class FeatureView:
    """Facts about an entity over time, joined to each row as they were known when it is predicted.

    :param name: prefix of the features: ``weather`` with feature ``temp`` becomes ``weather__temp``.
    :param function: gives the facts: the ``by`` columns, both times and the features. Its parameters are
        named as the tables it reads.
    :param by: columns that join facts to rows (an entity); the rows have columns of the same names.
    :param event_time: column: when the fact happened (timestamp, UTC).
    :param knowledge_time: column: when it became known. A row uses the fact with the newest event time
        among those whose both times are at or before its prediction time.
    :param features: the feature columns; numbers, booleans or text.
    :param max_age: "6h", "14d": a fact whose event is older than this at prediction time is not used.
    """

    name: str
    function: Callable[..., Any]
    by: tuple[str, ...]
    event_time: str
    knowledge_time: str
    features: tuple[str, ...]
    max_age: str | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f"{self.name!r} cannot be the name of a feature view")
        for what in ("by", "features"):
            given = getattr(self, what)
            if isinstance(given, str) or not given:
                raise ConfigError(f"feature view {self.name!r}: {what} must be a tuple of column names")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names its features have in the training table."""
        return tuple(f"{self.name}__{feature}" for feature in self.features)


@dataclass(frozen=True)
class Label:
    """What is to be predicted, and when it becomes known.

    :param name: the label column of the result; 0/1 or boolean for classification.
    :param function: gives the key columns, the label and ``known_at``.
    :param known_at: column: when the label became known (timestamp, UTC); null or a missing row means that
        it never will be (a cancelled flight).
    """

    name: str
    function: Callable[..., Any]
    known_at: str


@dataclass(frozen=True)
class FeatureSet:
    """Everything that defines a model's input.

    :param rows: function that gives the rows to predict: the key, the prediction time, the partition
        column, the views' ``by`` columns and ``row_features``.
    :param key: columns that identify a row.
    :param prediction_time: column: when the prediction is made (timestamp, UTC).
    :param views: the feature views.
    :param label: the label; None for a set that is only ever predicted.
    :param row_features: columns of ``rows`` used as features as they are (known by construction: the
        schedule, the calendar). A column whose value is only known later does not belong here.
    :param row_known_at: column of ``rows``: when the row itself became known; proved to be no later than
        the prediction time. None declares that rows are known from the start.
    """

    rows: Callable[..., Any]
    key: tuple[str, ...]
    prediction_time: str
    views: tuple[FeatureView, ...] = ()
    label: Label | None = None
    row_features: tuple[str, ...] = ()
    row_known_at: str | None = None
    # Columns of `rows` kept beside the features for slices and reports, never given to the model.
    keep: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        names = [view.name for view in self.views]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"the feature set has two views named {', '.join(twice)}")
        if not self.features:
            raise ConfigError("the feature set has no feature: give views= or row_features=")

    @property
    def features(self) -> tuple[str, ...]:
        """All feature columns, in the order a model gets them."""
        return self.row_features + tuple(column for view in self.views for column in view.columns)
