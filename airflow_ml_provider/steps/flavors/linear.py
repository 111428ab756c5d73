"""scikit-learn's linear classifiers, taken apart: what each feature adds to the log-odds, exactly.

A linear model's log-odds are ``intercept + sum(weight * column)`` over the columns that its pipeline encodes
the features into. Where every encoded column is made of one feature, the columns of a feature can be added
up, and ``weight * (column - mean of column)`` is its SHAP value under independent features (Lundberg & Lee
2017, A Unified Approach to Interpreting Model Predictions, corollary 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

UNKNOWN_MEANS = (
    "it does not keep the means of its training rows, which contributions are measured from; a StandardScaler "
    "or SimpleImputer before the linear model keeps them"
)


class Inexact(Exception):
    """A model whose contributions cannot be had exactly; the message says why."""


@dataclass(frozen=True)
class Columns:
    """Columns of numbers on their way through a pipeline.

    :param feature: of each column, the number of the feature that it is made of.
    :param mean: of each column, over the training rows; NaN where the model does not keep it.
    """

    feature: NDArray[np.int64]
    mean: Floats

    def take(self, chosen: Any) -> Columns:
        """Some of the columns."""
        return Columns(self.feature[chosen], self.mean[chosen])


@dataclass(frozen=True)
class Linear:
    """A linear classifier, taken apart.

    :param encoder: turns features into columns; None if they are the columns.
    :param weights: of the encoded columns, for the class 1.
    """

    encoder: Any
    columns: Columns
    weights: Floats
    intercept: float

    @property
    def knows_means(self) -> bool:
        """Whether the model keeps the mean of every column that it uses."""
        return not np.isnan(self.columns.mean[self.weights != 0]).any()

    def contributions(self, given: Any, background: Any, features: int) -> tuple[Floats, float]:
        """What each feature adds to the log-odds of each row, ``(rows, features)``, and the mean log-odds.

        :param given: the rows, as the model is given them.
        :param background: rows to take means from that the model does not keep; None if it keeps them.
        """
        from scipy.sparse import csr_array  # type: ignore[import-untyped]

        columns, used = len(self.weights), self.weights != 0
        by_feature = csr_array(
            (self.weights, (np.arange(columns), self.columns.feature)), shape=(columns, features)
        )
        mean = self.columns.mean if background is None else _means(self._encoded(background))
        # An unused column may have an unknown mean.
        expected = np.where(used, mean, 0.0) @ by_feature
        found = self._encoded(given) @ by_feature
        values = found.toarray() if hasattr(found, "toarray") else np.asarray(found)
        return values - expected, self.intercept + float(expected.sum())

    def _encoded(self, given: Any) -> Any:
        found = given if self.encoder is None else self.encoder.transform(given)
        return found if hasattr(found, "tocsr") else np.asarray(found, np.float64)


def taken_apart(model: Any, features: int) -> Linear:
    """A fitted linear classifier, or a Pipeline that ends in one.

    :raises Inexact: it is something else, or has a step that mixes features or that is not known here.
    """
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
    from sklearn.pipeline import Pipeline

    encoder, last = None, model
    # By exact type, here and below: a class derived from one of these may do something else.
    if type(model) is Pipeline and len(model.steps) > 1:
        encoder, last = model[:-1], model.steps[-1][1]
    logistic = type(last) in (LogisticRegression, LogisticRegressionCV) or (
        type(last) is SGDClassifier and last.loss == "log_loss"
    )
    if not logistic:
        raise Inexact(
            f"a {type(last).__name__} of {type(last).__module__.partition('.')[0]} allows no exact contributions"
        )
    if len(last.classes_) != 2:
        raise Inexact(f"it tells {len(last.classes_)} classes apart, not two")
    columns = Columns(np.arange(features), np.full(features, np.nan))
    if encoder is not None:
        columns = _through(encoder, columns)
    sign = 1.0 if int(last.classes_[1]) == 1 else -1.0
    weights = sign * np.asarray(last.coef_, np.float64).ravel()
    if len(weights) != len(columns.feature):
        raise Inexact("its encoded columns cannot be told apart by feature")
    return Linear(encoder, columns, weights, sign * float(np.ravel(last.intercept_)[0]))


def _through(step: Any, columns: Columns) -> Columns:
    """The columns that a fitted transformer makes of some.

    :raises Inexact: a column is made of several, or the transformer is not known here.
    """
    if step is None or isinstance(step, str):
        return columns if step != "drop" else columns.take([])
    known = _KNOWN.get(type(step).__name__)
    if known is None or not type(step).__module__.startswith("sklearn."):
        raise Inexact(f"its step {type(step).__name__} is not known to keep the features apart")
    return known(step, columns)


def _pipeline(step: Any, columns: Columns) -> Columns:
    for _, each in step.steps:
        columns = _through(each, columns)
    return columns


def _column_transformer(step: Any, columns: Columns) -> Columns:
    names = [str(name) for name in getattr(step, "feature_names_in_", ())]
    parts = [
        _through(each, columns.take(_positions(chosen, names, len(columns.feature))))
        for _, each, chosen in step.transformers_
        if not (isinstance(each, str) and each == "drop")
    ]
    return _side_by_side(parts)


def _positions(chosen: Any, names: Sequence[str], count: int) -> NDArray[np.int64]:
    """The numbers of the columns that a part of a ColumnTransformer is given."""
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):
            raise Inexact("its ColumnTransformer chooses columns by a range of names")
        return np.arange(count)[chosen]
    listed: NDArray[Any] = np.atleast_1d(np.asarray(chosen))
    if not len(listed):
        return np.arange(0)
    if listed.dtype.kind in "biu":
        found: NDArray[np.int64] = np.arange(count)[listed]
        return found
    place = {name: number for number, name in enumerate(names)}
    if any(str(name) not in place for name in listed):
        raise Inexact("its ColumnTransformer chooses columns that cannot be told from their names")
    return np.array([place[str(name)] for name in listed])


def _side_by_side(parts: Sequence[Columns]) -> Columns:
    return Columns(
        np.concatenate([np.arange(0), *(part.feature for part in parts)]),
        np.concatenate([np.zeros(0), *(part.mean for part in parts)]),
    )


def _simple_imputer(step: Any, columns: Columns) -> Columns:
    # Where every value was missing there is no statistic, and the column is left out.
    kept = [step.keep_empty_features or each == each for each in step.statistics_]
    mean = np.full(len(kept), np.nan)
    if step.strategy == "mean":
        # Filled with the mean of those present, the mean of all is the same.
        mean = np.asarray(step.statistics_, np.float64)
    filled = Columns(columns.feature, mean).take(np.flatnonzero(kept))
    if not step.add_indicator:
        return filled
    marked = columns.feature[step.indicator_.features_]
    return _side_by_side([filled, Columns(marked, np.full(len(marked), np.nan))])


def _standard_scaler(step: Any, columns: Columns) -> Columns:
    if step.with_mean:
        return Columns(columns.feature, np.zeros(len(columns.feature)))
    return Columns(columns.feature, columns.mean if step.scale_ is None else columns.mean / step.scale_)


def _min_max_scaler(step: Any, columns: Columns) -> Columns:
    mean = np.full(len(columns.mean), np.nan) if step.clip else columns.mean * step.scale_ + step.min_
    return Columns(columns.feature, mean)


def _column_by_column(step: Any, columns: Columns) -> Columns:
    """Each column by itself, in a way that does not tell the new mean from the old one."""
    return Columns(columns.feature, np.full(len(columns.feature), np.nan))


def _one_hot(step: Any, columns: Columns) -> Columns:
    rare = getattr(step, "infrequent_categories_", None) or [None] * len(step.categories_)
    parts = []
    for number, categories in enumerate(step.categories_):
        many = len(categories) - (0 if rare[number] is None else len(rare[number]) - 1)
        dropped = step.drop_idx_ is not None and step.drop_idx_[number] is not None
        # How frequent each was the encoder does not keep, so each counts the same.
        mean = np.full(many - dropped, 1 / many)
        parts.append(Columns(np.repeat(columns.feature[number], many - dropped), mean))
    return _side_by_side(parts)


_KNOWN: dict[str, Callable[[Any, Columns], Columns]] = {
    "Pipeline": _pipeline,
    "ColumnTransformer": _column_transformer,
    "SimpleImputer": _simple_imputer,
    "StandardScaler": _standard_scaler,
    "MinMaxScaler": _min_max_scaler,
    "OneHotEncoder": _one_hot,
    "MaxAbsScaler": _column_by_column,
    "RobustScaler": _column_by_column,
    "OrdinalEncoder": _column_by_column,
    "QuantileTransformer": _column_by_column,
    "PowerTransformer": _column_by_column,
}


def _means(encoded: Any) -> Floats:
    return np.asarray(encoded.mean(axis=0), np.float64).ravel()
