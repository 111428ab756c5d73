"""Features as declarations over plain functions; one definition builds training rows and rows to predict.

The functions take tables by parameter name and give frames; they know nothing of this package::

    def weather(weather: pl.LazyFrame) -> pl.LazyFrame: ...

    LATE_ARRIVAL = FeatureSet(
        rows=flights_to_predict, key=("flight_id",), prediction_time="predict_at",
        views=(FeatureView("weather", weather, by=("origin",), event_time="observed_at",
                           knowledge_time="published_at", features=("temp", "wind_speed"), max_age="6h"),),
        label=Label("late", late_arrival, known_at="landed_at"),
    )
    CHURNED = Label("churned", churned, matures_after="30d")

Times are timestamps; one without a time zone is taken as UTC, one with a time zone is converted to UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ml_provider.contract.ages import age_seconds
from airflow_ml_provider.contract.errors import ConfigError

FEATURE_HASH = "feature_hash"
LABEL_KNOWN_AT = "label_known_at"


@dataclass(frozen=True)
class FeatureView:
    """Facts about an entity over time, joined to each row as they were known when it is predicted.

    A row with prediction time ``t`` uses, of the facts with its ``by`` values whose event time *and*
    knowledge time are at or before ``t``, the one with the newest event time; of several with the same event
    time, the one that became known last. So a correction replaces what it corrects, but only from the moment
    it is known. A fact without one of its times is never used, and a null in ``by`` matches nothing.

    The leak that people write most often is in the function, not in the join: an aggregate over a window
    that holds facts which are not known yet when its row says they are. Let a window over outcomes run over
    the time they became known, and give that time as both event and knowledge time.

    :param name: prefix of the features: ``weather`` with feature ``temp`` becomes ``weather__temp``.
    :param function: gives the facts: the ``by`` columns, both times and the features. Its parameters are
        named as the tables it reads.
    :param by: columns that join facts to rows (an entity); the rows have columns of the same names.
    :param event_time: column: when the fact happened (timestamp).
    :param knowledge_time: column: when it became known (timestamp); may be the same column.
    :param features: the feature columns; numbers, booleans or text.
    :param max_age: "90m", "6h", "14d", "2w": a fact whose event is older than this at prediction time is not
        used, nor is an older one in its place.
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
            _check_names(getattr(self, what), f"feature view {self.name!r}: {what}", empty=False)
        if self.max_age is not None:
            age_seconds(self.max_age, what=f"feature view {self.name!r}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names its features have in the table of feature rows."""
        return tuple(f"{self.name}__{feature}" for feature in self.features)

    @property
    def max_age_seconds(self) -> int | None:
        """``max_age`` in seconds."""
        return age_seconds(self.max_age, what=f"feature view {self.name!r}") if self.max_age else None


@dataclass(frozen=True)
class Label:
    """What is to be predicted, and when it has matured: from which moment it may be learned from or judged by.

    With ``known_at`` alone a label matures when it became known (a flight's delay at its landing). With
    ``matures_after`` alone it matures that long after the row's prediction time, whatever the function gives
    before (who has not left after three days has not stayed for thirty). With both, at the later of the two.
    A label is never used before it has matured: not for training, evaluation or monitoring.

    :param name: the label column of the result: a number or a boolean, 0/1 for classification.
    :param function: gives the key columns, the label and ``known_at``; at most one row a key. Its parameters
        are named as the tables it reads.
    :param known_at: column: when the label became known (timestamp); null or a missing row means that it
        never will be (a cancelled flight).
    :param matures_after: "36h", "30d", "12w": how long after the prediction time the label is final.
    """

    name: str
    function: Callable[..., Any]
    known_at: str | None = None
    matures_after: str | None = None

    def __post_init__(self) -> None:
        if self.known_at is None and self.matures_after is None:
            raise ConfigError(
                f"label {self.name!r} does not say when it matures",
                todo='give known_at="column" (when it became known), matures_after="30d" (how long after the '
                "prediction), or both",
            )
        if self.matures_after is not None:
            age_seconds(self.matures_after, what=f"label {self.name!r}: matures_after")

    @property
    def matures_after_seconds(self) -> int | None:
        """``matures_after`` in seconds."""
        if self.matures_after is None:
            return None
        return age_seconds(self.matures_after, what=f"label {self.name!r}: matures_after")

    @property
    def times(self) -> tuple[str, ...]:
        """The columns of times that its function gives."""
        return (self.known_at,) if self.known_at is not None else ()


@dataclass(frozen=True)
class FeatureSet:
    """Everything that defines a model's input.

    :param rows: function that gives the rows to predict: the key, the prediction time, the partition
        column, the views' ``by`` columns and ``row_features``.
    :param key: columns that identify a row.
    :param prediction_time: column: when the prediction is made (timestamp).
    :param views: the feature views.
    :param label: the label; None for a set that is only ever predicted.
    :param row_features: columns of ``rows`` used as features as they are (known by construction: the
        schedule, the calendar). A column whose value is only known later does not belong here.
    :param row_known_at: column of ``rows``: when the row itself became known; proved to be no later than
        the prediction time. None declares that rows are known from the start.
    :param keep: columns of ``rows`` kept beside the features for slices and reports, never given to the
        model.
    :param as_known: table name to a function that gives this table as it was known at the moment ``at``
        (``def flights_as_known(flights: pl.LazyFrame, at: datetime) -> pl.LazyFrame``). When given, each
        build is replayed at a few of its prediction times from the tables as they were known then, and fails
        where a feature comes out different: that finds leaks inside the functions, which no check of times
        can see. A table without a function here is taken as known from the start.
    """

    rows: Callable[..., Any]
    key: tuple[str, ...]
    prediction_time: str
    views: tuple[FeatureView, ...] = ()
    label: Label | None = None
    row_features: tuple[str, ...] = ()
    row_known_at: str | None = None
    keep: tuple[str, ...] = ()
    as_known: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_names(self.key, "the feature set's key", empty=False)
        _check_names(self.row_features, "the feature set's row_features")
        _check_names(self.keep, "the feature set's keep")
        if twice := _twice(view.name for view in self.views):
            raise ConfigError(f"the feature set has two views named {', '.join(twice)}")
        if not self.features:
            raise ConfigError("the feature set has no feature: give views= or row_features=")
        label = (self.label.name, LABEL_KNOWN_AT) if self.label else ()
        kept = [name for name in self.keep if name not in self.row_columns]
        if twice := _twice(
            (*self.row_columns, *kept, *self.features[len(self.row_features) :], *label, FEATURE_HASH)
        ):
            raise ConfigError(
                f"the table of feature rows would have two columns named {', '.join(twice)}",
                todo="rename one of them where it is made",
            )

    @property
    def features(self) -> tuple[str, ...]:
        """All feature columns, in the order a model gets them."""
        return self.row_features + tuple(column for view in self.views for column in view.columns)

    @property
    def row_columns(self) -> tuple[str, ...]:
        """The key, the prediction time and the row features."""
        return (*self.key, self.prediction_time, *self.row_features)


def _check_names(given: Any, what: str, *, empty: bool = True) -> None:
    if isinstance(given, str) or not all(isinstance(name, str) for name in given) or not (given or empty):
        raise ConfigError(f"{what} must be a tuple of column names, not {given!r}")
    if twice := _twice(given):
        raise ConfigError(f"{what} names a column twice: {', '.join(twice)}")


def _twice(names: Iterable[str]) -> list[str]:
    names = list(names)
    return sorted({name for name in names if names.count(name) > 1})
