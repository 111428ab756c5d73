"""Metrics and their intervals, against scikit-learn and against the plain way of drawing rows again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from threadpoolctl import threadpool_limits

from airflow_ml_provider.contract.gates import METRICS
from airflow_ml_provider.steps.metrics import Estimate, compare, metrics


def scored(n: int = 500, seed: int = 0, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores that tell something of them; few decimals make many ties."""
    random = np.random.default_rng(seed)
    labels = (random.random(n) < 0.3).astype(np.int8)
    return labels, np.clip(random.beta(2, 4, n) + 0.2 * labels, 0, 1).round(decimals)


def by_sklearn(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    return {
        "roc_auc": sk.roc_auc_score(labels, scores),
        "average_precision": sk.average_precision_score(labels, scores),
        "log_loss": sk.log_loss(labels, scores, labels=[0, 1]),
        "brier_score": sk.brier_score_loss(labels, scores),
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), min_size=2, max_size=40
    )
)
def test_metrics_are_those_of_scikit_learn_with_ties_and_certain_scores(
    rows: list[tuple[bool, float]],
) -> None:
    labels = np.array([label for label, _ in rows], np.int8)
    scores = np.array([score for _, score in rows])
    found = metrics(labels, scores)
    if len(set(labels)) == 1:
        assert found["roc_auc"] is None
        assert found["average_precision"] is None
        assert found["brier_score"] == pytest.approx(np.mean((labels - scores) ** 2), abs=1e-6)
        return
    for name, value in by_sklearn(labels, scores).items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_calibration_error_is_the_mean_gap_between_ten_bins_of_equal_counts() -> None:
    labels, scores = scored(n=1000, decimals=12)
    order = np.argsort(scores)
    gaps = [abs(labels[part].mean() - scores[part].mean()) * len(part) for part in np.array_split(order, 10)]
    assert metrics(labels, scores)["calibration_error"] == pytest.approx(sum(gaps) / 1000, abs=1e-6)


def test_calibration_error_is_zero_where_each_score_is_the_share_of_its_rows() -> None:
    labels = np.array([0, 0, 0, 1] * 50 + [0, 1] * 50, np.int8)
    scores = np.array([0.25] * 200 + [0.5] * 100)
    assert metrics(labels, scores)["calibration_error"] == 0.0


def test_resampling_by_weights_is_drawing_the_rows_again() -> None:
    labels, scores = scored(n=150)
    other = np.clip(scores + np.random.default_rng(1).normal(0, 0.1, 150), 0, 1).round(2)
    found = compare(labels, scores, other, resamples=60, seed=3)

    seed = np.random.SeedSequence(3).spawn(1)[0]
    drawn = np.random.default_rng(seed).integers(0, 150, size=(60, 150))
    plain = [
        (by_sklearn(labels[rows], scores[rows]), by_sklearn(labels[rows], other[rows])) for rows in drawn
    ]
    for name in by_sklearn(labels, scores):
        first, second = (np.array([each[model][name] for each in plain]) for model in (0, 1))
        for estimates, values in (
            (found.candidate, first),
            (found.champion, second),
            (found.differences, first - second),
        ):
            assert estimates is not None
            low, high = np.percentile(values, [2.5, 97.5])
            assert (estimates[name].low, estimates[name].high) == pytest.approx((low, high), abs=1e-6), name


def test_the_interval_of_the_area_agrees_with_its_known_standard_error() -> None:
    labels, scores = scored(n=4000, decimals=12)
    auc = compare(labels, scores, resamples=400, seed=0).candidate["roc_auc"]
    assert auc.low is not None
    assert auc.high is not None
    # DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44(3)): from each row's share of rows ranked right.
    positive, negative = scores[labels == 1], scores[labels == 0]
    of_positives = np.searchsorted(np.sort(negative), positive) / len(negative)
    of_negatives = 1 - np.searchsorted(np.sort(positive), negative) / len(positive)
    assert auc.value == pytest.approx(of_positives.mean(), abs=1e-6)
    error = np.sqrt(of_positives.var() / len(positive) + of_negatives.var() / len(negative))
    assert (auc.high - auc.low) / (2 * 1.96) == pytest.approx(error, rel=0.1)


def test_the_same_scores_differ_by_exactly_nothing() -> None:
    labels, scores = scored()
    found = compare(labels, scores, scores.copy(), resamples=50, seed=0)
    assert found.differences is not None
    assert set(found.differences.values()) == {Estimate(0.0, 0.0, 0.0)}


def test_equal_seeds_give_equal_numbers_on_any_number_of_threads_and_others_do_not() -> None:
    labels, scores = scored(n=3000)
    found = []
    for threads in (1, 3):
        with threadpool_limits(threads):
            found.append(compare(labels, scores, resamples=700, seed=1))
    assert found[0] == found[1]
    assert found[0] != compare(labels, scores, resamples=700, seed=2)


def test_rows_of_one_class_or_none_have_no_area_and_break_nothing() -> None:
    labels, scores = scored()
    only = compare(np.ones(20, np.int8), scores[:20], resamples=20, seed=0)
    assert only.candidate["roc_auc"] == only.candidate["average_precision"] == Estimate(None)
    assert only.candidate["brier_score"].low is not None
    nothing = compare(labels[:0], scores[:0], scores[:0], resamples=20, seed=0)
    assert nothing.rows == 0
    assert nothing.differences == dict.fromkeys(METRICS, Estimate(None))


def test_without_resamples_there_are_values_and_no_intervals() -> None:
    auc = compare(*scored(), resamples=0, seed=0).candidate["roc_auc"]
    assert auc.value is not None
    assert (auc.low, auc.high) == (None, None)


def test_a_resample_that_misses_a_class_is_left_out_of_the_interval() -> None:
    labels = np.array([1, *[0] * 9], np.int8)
    scores = np.linspace(0.9, 0.1, 10)
    auc = compare(labels, scores, resamples=200, seed=0).candidate["roc_auc"]
    assert (auc.value, auc.low, auc.high) == (1.0, 1.0, 1.0)
