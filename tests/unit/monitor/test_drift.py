"""Drift of one column: the formulas against scipy, what chance gives, what is usual, what is drift."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from airflow_ml_provider.steps.drift import (
    LEAST_PARTITIONS,
    chi_square,
    compare,
    kolmogorov_smirnov,
    population_stability_index,
    psi_by_chance,
    usual_drift,
)
from airflow_ml_provider.steps.profiles import Profile, apply_profile, build_profile


def _profiles(reference: Any, current: Any) -> tuple[Profile, Profile]:
    profile = build_profile(pl.LazyFrame({"x": reference}), ["x"])
    return profile, apply_profile(profile, pl.LazyFrame({"x": current}))


def _drift(reference: Any, current: Any, max_psi: float = 0.25) -> Any:
    before, after = _profiles(reference, current)
    return compare("x", before["columns"]["x"], after["columns"]["x"], max_psi)


def test_the_index_is_the_symmetric_divergence_of_the_shares() -> None:
    reference, current = [50_000, 30_000, 20_000], [20_000, 30_000, 50_000]
    p, q = np.array(reference) / 1e5, np.array(current) / 1e5

    by_hand = stats.entropy(p, q) + stats.entropy(q, p)

    assert population_stability_index(reference, current) == pytest.approx(by_hand, rel=1e-3)
    assert population_stability_index(reference, reference) == 0
    assert population_stability_index(current, reference) == population_stability_index(reference, current)


def test_a_bin_that_is_empty_on_one_side_is_finite_and_weighs_more_the_more_rows_stand_against_it() -> None:
    few = population_stability_index([1000, 0], [990, 10])
    many = population_stability_index([100_000, 0], [99_000, 1_000])

    assert 0 < few < many < 0.2
    assert population_stability_index([1000, 0, 10], [500, 0, 5]) == population_stability_index(
        [1000, 10], [500, 5]
    )


def test_a_sample_without_rows_has_no_index() -> None:
    assert population_stability_index([1, 2], [0, 0]) == psi_by_chance([1, 2], [0, 0]) == 0.0


@pytest.mark.parametrize(("bins", "rows"), [(10, 200), (10, 900), (50, 900)])
def test_without_drift_the_index_is_on_average_what_chance_gives(bins: int, rows: int) -> None:
    rng = np.random.default_rng(bins + rows)
    shares = np.full(bins, 1 / bins)
    reference = rng.multinomial(100_000, shares)
    found = [
        population_stability_index(reference.tolist(), rng.multinomial(rows, shares).tolist())
        for _ in range(400)
    ]

    assert np.mean(found) == pytest.approx(
        psi_by_chance(reference.tolist(), [rows, *[1] * (bins - 1)]), rel=0.15
    )


def test_a_small_sample_in_many_categories_is_not_taken_for_drift() -> None:
    rng = np.random.default_rng(5)
    names = [f"airport {n}" for n in range(50)]
    drift = _drift(rng.choice(names, 100_000), rng.choice(names, 200))

    assert drift.psi > 0.2
    assert drift.psi_limit > 0.45
    assert not drift.drifted


def test_kolmogorov_smirnov_from_finest_bins_is_the_one_of_the_samples() -> None:
    rng = np.random.default_rng(6)
    first, second = rng.integers(0, 40, 4000), rng.integers(0, 41, 900)
    d, p_value = kolmogorov_smirnov(
        np.bincount(first, minlength=41).tolist(), np.bincount(second, minlength=41).tolist()
    )

    expected = stats.ks_2samp(first, second, method="asymp")
    assert d == pytest.approx(expected.statistic, abs=1e-12)
    assert p_value == pytest.approx(expected.pvalue, rel=0.02)


def test_kolmogorov_smirnov_from_coarse_bins_is_a_lower_bound_and_its_p_value_an_upper_one() -> None:
    rng = np.random.default_rng(7)
    for shift in (0.0, 0.1, 0.5):
        first, second = rng.normal(size=5000), rng.normal(shift, size=800)
        drift = _drift(first, second)
        exact = stats.ks_2samp(first, second, method="asymp")
        assert drift.test == "ks"
        assert drift.statistic <= exact.statistic + 1e-12
        assert drift.statistic > exact.statistic - 0.05
        assert drift.p_value >= exact.pvalue * 0.98


def test_chi_square_is_that_of_scipy_where_no_category_is_rare() -> None:
    reference, current = [5000, 3000, 2000], [420, 280, 200]
    expected = stats.chi2_contingency([reference, current], correction=False)

    assert chi_square(reference, current) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)


def test_rare_categories_are_pooled_before_chi_square() -> None:
    expected = stats.chi2_contingency([[5000, 3000, 25], [420, 280, 4]], correction=False)

    found = chi_square([5000, 3000, 10, 15, 0], [420, 280, 1, 1, 2])

    assert found == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)


@pytest.mark.parametrize(("reference", "current"), [([0, 0], [1, 2]), ([3, 2], [0, 0]), ([7, 0], [9, 0])])
def test_where_there_is_nothing_to_compare_there_is_no_test(reference: list[int], current: list[int]) -> None:
    assert chi_square(reference, current) == (None, None)


def test_numbers_are_tested_by_kolmogorov_smirnov_and_text_by_chi_square() -> None:
    assert _drift([1.0, 2.0, 3.0], [1.0]).test == "ks"
    assert _drift(["a", "b"], ["a"]).test == "chi2"


def test_a_shift_is_drift_and_no_shift_is_none() -> None:
    rng = np.random.default_rng(8)
    reference = rng.normal(size=50_000)

    assert not _drift(reference, rng.normal(size=900)).drifted
    moved = _drift(reference, rng.normal(0.8, size=900))
    assert moved.drifted
    assert moved.p_value < 1e-6


def test_nulls_that_appear_are_drift_though_the_values_are_the_same() -> None:
    values = np.random.default_rng(9).normal(size=2000).tolist()
    drift = _drift(values, values[:500] + [None] * 500)

    assert drift.drifted
    assert (drift.null_share, drift.reference_null_share) == (0.5, 0.0)
    assert drift.p_value > 0.5


def test_a_new_category_is_drift() -> None:
    assert _drift(["a"] * 500 + ["b"] * 500, ["a"] * 250 + ["b"] * 250 + ["new"] * 500).drifted


def test_leaving_a_constant_is_drift() -> None:
    assert not _drift([1.0] * 1000, [1.0] * 300).drifted
    assert _drift([1.0] * 1000, [1.5] * 300).drifted


def test_a_day_is_compared_with_how_far_days_usually_lie_from_the_rest() -> None:
    rng = np.random.default_rng(10)
    weather = np.repeat(rng.normal(size=60), 100) + rng.normal(scale=0.1, size=6_000)
    days = np.repeat([f"day{n:02}" for n in range(60)], 100)
    frame = pl.LazyFrame({"x": weather, "ds": days})
    ordinary = pl.LazyFrame({"x": rng.normal(0.3, 0.1, size=100)})
    extreme = pl.LazyFrame({"x": rng.normal(4.0, 0.1, size=100)})

    plain, aware = build_profile(frame, ["x"]), build_profile(frame, ["x"], by="ds")

    def drifted(profile: Profile, day: pl.LazyFrame) -> bool:
        return compare(
            "x", profile["columns"]["x"], apply_profile(profile, day)["columns"]["x"], 0.25
        ).drifted

    assert drifted(plain, ordinary)
    assert not drifted(aware, ordinary)
    assert drifted(aware, extreme)


def test_too_few_reference_partitions_say_nothing_about_what_is_usual() -> None:
    reference, current = _profiles(list(range(100)), list(range(100)))
    column = reference["columns"]["x"]
    few = {**column, "usual": {"partitions": LEAST_PARTITIONS - 1, "median": 3.0, "p95": 5.0, "maximum": 6.0}}
    enough = {**column, "usual": {"partitions": LEAST_PARTITIONS, "median": 3.0, "p95": 5.0, "maximum": 6.0}}

    limits = [compare("x", c, current["columns"]["x"], 0.25).psi_limit for c in (column, few, enough)]  # type: ignore[arg-type]

    assert limits[0] == limits[1] < 1
    assert limits[2] > 5


def test_a_reference_partition_is_compared_with_the_others_not_with_itself() -> None:
    usual = usual_drift([100, 100], [[100, 0], [0, 100]])

    assert usual["median"] == usual["maximum"] > 9
    assert usual_drift([5, 5], []) == {"partitions": 0, "median": 0.0, "p95": 0.0, "maximum": 0.0}
    assert math.isfinite(usual_drift([5, 5], [[5, 5]])["maximum"])
