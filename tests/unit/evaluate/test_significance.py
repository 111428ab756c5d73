"""The statistics of gates: against SciPy, by hand, and by simulation of what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.gates import METRICS, Gate
from airflow_ml_provider.steps.judgement import Group, judge, needed_resamples
from airflow_ml_provider.steps.metrics import Comparison, Side, compare, compare_groups, compare_unpaired
from airflow_ml_provider.steps.significance import holm, p_value


def pair(
    rows: int, seed: int, advantage: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """Labels, and two noisy views of the same odds that are equally good; the first better by an advantage."""
    random = np.random.default_rng(seed)
    odds = random.normal(-0.8, 1, rows)
    labels = (random.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    noisy = [odds * (1 + gain) + random.normal(0, 1, rows) for gain in (advantage, 0.0)]
    candidate, champion = (1 / (1 + np.exp(-each)) for each in noisy)
    return labels, candidate, champion, random


def test_holm_is_that_of_the_worked_examples() -> None:
    # R's documentation of p.adjust's method, by hand: 4 x 0.01, 3 x 0.02, 2 x 0.03 (not below 0.06), 1 x 0.04.
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    # Out of order; the second would be 0.09 of itself, the last cannot fall below it.
    assert holm([0.03, 0.5, 0.01, 0.045]) == pytest.approx([0.09, 0.5, 0.04, 0.09])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_paired_interval_is_scipys_percentile_bootstrap() -> None:
    labels, candidate, champion, _ = pair(600, seed=1, advantage=0.5)
    found = compare(labels, candidate, champion, resamples=4000, seed=1).differences
    assert found is not None

    def gain(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean((y - a) ** 2) - np.mean((y - b) ** 2))

    expected = stats.bootstrap(
        (labels.astype(float), candidate, champion), gain, paired=True, vectorized=False, n_resamples=4000,
        method="percentile", rng=np.random.default_rng(2),
    )  # fmt: skip
    ours = found["brier_score"]
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert ours.low == pytest.approx(expected.confidence_interval.low, abs=0.06 * width)
    assert ours.high == pytest.approx(expected.confidence_interval.high, abs=0.06 * width)


def test_the_unpaired_interval_has_the_known_standard_error_and_is_wider_than_the_paired() -> None:
    labels, candidate, champion, _ = pair(4000, seed=3)
    half = len(labels) // 2
    sides = Side(labels[:half], candidate[:half]), Side(labels[half:], champion[half:])
    found = compare_unpaired(*sides, resamples=2000, seed=3)[0].differences
    assert found is not None
    errors = [(side.labels - side.scores) ** 2 for side in sides]
    expected = np.sqrt(sum(each.var() / len(each) for each in errors))
    brier = found["brier_score"]
    assert brier.value == pytest.approx(errors[0].mean() - errors[1].mean(), abs=1e-6)
    assert (brier.high - brier.low) / (2 * 1.96) == pytest.approx(expected, rel=0.08)
    paired = compare(labels[:half], candidate[:half], champion[:half], resamples=500, seed=3).differences
    assert paired is not None
    assert paired["brier_score"].high - paired["brier_score"].low < brier.high - brier.low


def test_p_values_agree_with_the_normal_ones_of_a_mean_of_paired_differences() -> None:
    labels, candidate, champion, _ = pair(3000, seed=4, advantage=0.05)
    compared = compare(labels, candidate, champion, resamples=4000, seed=4)
    gains = (labels - champion) ** 2 - (labels - candidate) ** 2
    for gate, null in (
        (Gate("brier_score", better_by_at_least=0.002), 0.002),
        (Gate("brier_score", better_by_at_least=0.0), 0.0),
        (Gate("brier_score", worse_by_at_most=0.002), -0.002),
    ):
        z = (gains.mean() - null) / (gains.std() / np.sqrt(len(gains)))
        assert p_value(gate, compared) == pytest.approx(stats.norm.sf(z), abs=0.02), str(gate)
    harm = p_value(Gate("brier_score", harm_limit=0.002), compared)
    # The opposite claim to non-inferiority with the same margin.
    non_inferior = p_value(Gate("brier_score", worse_by_at_most=0.002), compared)
    assert harm + non_inferior == pytest.approx(1 + 1 / 4001, abs=2 / 4001)


def test_a_p_value_is_never_zero_and_equal_models_are_neither_better_nor_worse() -> None:
    labels, candidate, champion, _ = pair(500, seed=5)
    same = compare(labels, candidate, candidate.copy(), resamples=99, seed=5)
    assert p_value(Gate("roc_auc", worse_by_at_most=0.0), same) == 1 / 100
    assert p_value(Gate("roc_auc", better_by_at_least=0.0), same) == 1.0
    assert p_value(Gate("roc_auc", harm_limit=0.0), same) == 1.0
    assert p_value(Gate("roc_auc", worse_by_at_most=1.0), compare(labels, candidate, champion, resamples=99,
                                                                  seed=5)) == 1 / 100  # fmt: skip


def passes(gate: Gate, rounds: int, rows: int, groups: int = 1, worse: float = 0.0) -> int:
    """How often a gate passes when both models are equally good, or the candidate is worse by an amount."""
    found = 0
    for seed in range(rounds):
        labels, candidate, champion, random = pair(rows, seed)
        if worse:
            # Each row's squared error is larger by the amount, exactly, whatever the sample.
            champion = candidate
            candidate = labels + np.sqrt(
                (labels - champion) ** 2 + worse + random.normal(0, 0.05, rows).clip(-worse, worse)
            )
        places = (
            [np.flatnonzero(np.arange(rows) % groups == each) for each in range(groups)] if groups > 1 else []
        )
        draws = needed_resamples([gate], _sized(places, labels), 199, compared=True)
        overall, *parts = compare_groups(labels, [candidate, champion], places, resamples=draws, seed=seed)
        by = {"g": [Group("g", str(number), part) for number, part in enumerate(parts)]}
        found += judge(gate, overall, by).passed
    return found


def _sized(places: list[np.ndarray], labels: np.ndarray) -> dict[str, list[Group]]:
    return {
        "g": [
            Group("g", str(n), Comparison(len(own), int(labels[own].sum()), {}))
            for n, own in enumerate(places)
        ]
    }


def most(rounds: int, level: float) -> float:
    """More wrong passes than this happen once in a thousand times if the level is kept."""
    return float(stats.binom.ppf(0.999, rounds, level))


@pytest.mark.parametrize("metric", ["roc_auc", "brier_score"])
def test_without_a_difference_superiority_promotes_falsely_at_most_at_its_rate(metric: str) -> None:
    gate = Gate(metric, better_by_at_least=0.0, confidence=0.8)
    wrong = passes(gate, rounds=150, rows=400)
    assert wrong <= most(150, 0.1)
    # The test has a level to keep, and uses it.
    assert wrong >= 3


def test_at_the_margin_non_inferiority_promotes_falsely_at_most_at_its_rate() -> None:
    gate = Gate("brier_score", worse_by_at_most=0.02, confidence=0.8)
    wrong = passes(gate, rounds=150, rows=400, worse=0.02)
    assert 3 <= wrong <= most(150, 0.1)


def test_over_slices_harm_is_found_falsely_in_any_of_them_at_most_at_the_rate() -> None:
    gate = Gate("brier_score", harm_limit=0.0, confidence=0.8, slice_by="g", minimum_rows=50)
    rejected = 100 - passes(gate, rounds=100, rows=600, groups=5)
    assert rejected <= most(100, 0.1)
    assert rejected >= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("metric", METRICS[:4])
def test_the_rates_hold_in_many_simulations(metric: str) -> None:
    superior = Gate(metric, better_by_at_least=0.0)
    assert passes(superior, rounds=3000, rows=1000) <= most(3000, 0.025)
    harmful = Gate(metric, harm_limit=0.0, slice_by="g", minimum_rows=50)
    assert 600 - passes(harmful, rounds=600, rows=3000, groups=8) <= most(600, 0.025)
    if metric == "brier_score":
        at_margin = Gate(metric, worse_by_at_most=0.02)
        assert passes(at_margin, rounds=3000, rows=1000, worse=0.02) <= most(3000, 0.025)


def test_resamples_are_added_until_holm_can_decide_and_not_without_end() -> None:
    labels = np.tile(np.array([0, 1], np.int8), 600)
    places = [np.arange(start, 1200, 12) for start in range(12)]
    places = [np.sort(np.r_[own, (own + 1) % 1200]) for own in places]
    sized = _sized(places, labels)
    gate = Gate("roc_auc", worse_by_at_most=0.01, slice_by="g")
    assert needed_resamples([gate], sized, 100, compared=True) == 12 * 40 - 1
    assert needed_resamples([gate], sized, 700, compared=True) == 700
    assert needed_resamples([gate], sized, 100, compared=False) == 100
    strict = Gate("roc_auc", worse_by_at_most=0.01, slice_by="g", confidence=0.999)
    with pytest.raises(
        ConfigError, match=r"in 12 groups at a confidence of 0.999; that takes 23,999 resamples"
    ):
        needed_resamples([strict], sized, 100, compared=True)


def test_groups_are_weighed_by_the_draws_of_all_rows() -> None:
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    from airflow_ml_provider.steps.resampling import counts

    labels, candidate, champion, random = pair(400, seed=6)
    candidate, champion = candidate.round(2), champion.round(2)
    group = np.flatnonzero(random.random(400) < 0.4)
    found = compare_groups(labels, [candidate, champion], [group], resamples=50, seed=8)[1]
    drawn = np.concatenate(list(counts(400, 50, seed=8)))
    assert (drawn.sum(axis=1) == 400).all()
    naive = {
        "roc_auc": roc_auc_score, "average_precision": average_precision_score,
        "log_loss": log_loss, "brier_score": brier_score_loss,
    }  # fmt: skip
    for name, metric in naive.items():
        both = np.array(
            [[metric(labels[group], scores[group], sample_weight=line[group]) for scores in (candidate, champion)]
             for line in drawn]
        )  # fmt: skip
        low, high = np.percentile(both[:, 0], [2.5, 97.5])
        assert (found.candidate[name].low, found.candidate[name].high) == pytest.approx((low, high), abs=1e-6)
        assert found.drawn is not None
        assert found.drawn[:, METRICS.index(name)] == pytest.approx(both[:, 0] - both[:, 1], abs=2e-6)


def test_many_rows_are_drawn_in_blocks_and_each_as_often_as_any_other() -> None:
    from airflow_ml_provider.steps.resampling import counts

    drawn = np.concatenate(list(counts(200_000, 60, seed=0))).astype(np.int64)
    assert (drawn.sum(axis=1) == 200_000).all()
    # Counts of a row are nearly Poisson(1): the frequencies of 0, 1, 2 and 3 draws.
    for times in range(4):
        assert (drawn == times).mean() == pytest.approx(stats.poisson.pmf(times, 1), abs=0.001)
    ends = [drawn[:, :65_536].mean(), drawn[:, 65_536:131_072].mean(), drawn[:, 196_608:].mean()]
    assert ends == pytest.approx([1, 1, 1], abs=0.01)
    parts = drawn[:, :65_536].sum(axis=1)
    # Between blocks the draws vary as those of single rows do, not at all being fixed.
    assert parts.std() == pytest.approx(np.sqrt(65_536 * (1 - 65_536 / 200_000)), rel=0.35)
