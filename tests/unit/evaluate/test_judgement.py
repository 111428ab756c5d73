"""Gates: when they hold, when they do not, and what they say."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from airflow_ml_provider.contract.gates import METRICS, Gate
from airflow_ml_provider.steps.judgement import Group, judge
from airflow_ml_provider.steps.metrics import Comparison, Estimate


def comparison(
    value: float | None = 0.75,
    difference: tuple[float, float, float] | None = None,
    *,
    rows: int = 500,
    positives: int = 100,
) -> Comparison:
    """Every metric has the same value, so that a gate on any of them can be tried."""
    same: Mapping[str, Estimate] = dict.fromkeys(METRICS, Estimate(value, value, value))
    if difference is None:
        return Comparison(rows, positives, same)
    between = dict.fromkeys(METRICS, Estimate(*difference))
    return Comparison(rows, positives, same, same, between)


@pytest.mark.parametrize(
    ("gate", "passes", "reason"),
    [
        (Gate("roc_auc", at_least=0.75), True, "0.7500 is at least 0.75"),
        (Gate("roc_auc", at_least=0.76), False, "0.7500 is not at least 0.76"),
        (Gate("log_loss", at_most=0.75), True, "0.7500 is at most 0.75"),
        (Gate("log_loss", at_most=0.0), False, "0.7500 is not at most 0"),
        (Gate("brier_score", at_least=0.7, at_most=0.7), False, "0.7500 is not at most 0.7"),
        (Gate("roc_auc", at_least=0.5, minimum_rows=501), False, "500 rows are fewer than 501"),
        (Gate("roc_auc", worse_by_at_most=0.0), True, "there is no champion yet"),
    ],
)
def test_bounds(gate: Gate, passes: bool, reason: str) -> None:
    judged = judge(gate, comparison(), {})
    assert judged.passed is passes
    assert reason in judged.reason
    assert judged.document()["gate"] == str(gate)


@pytest.mark.parametrize(
    ("metric", "difference", "passes"),
    [
        ("roc_auc", (-0.001, -0.004, 0.002), True),
        ("roc_auc", (-0.001, -0.006, 0.004), False),
        ("roc_auc", (0.05, 0.04, 0.06), True),
        ("log_loss", (0.001, -0.002, 0.004), True),
        ("log_loss", (0.001, -0.004, 0.006), False),
        ("log_loss", (-0.05, -0.06, -0.04), True),
    ],
)
def test_against_the_champion_the_unfavourable_end_of_the_interval_counts(
    metric: str, difference: tuple[float, float, float], passes: bool
) -> None:
    judged = judge(Gate(metric, worse_by_at_most=0.005), comparison(0.7, difference), {})
    assert judged.passed is passes
    assert "95 % interval" in judged.reason


def test_zero_asks_for_not_worse_and_equal_models_meet_it() -> None:
    gate = Gate("roc_auc", worse_by_at_most=0.0)
    assert judge(gate, comparison(0.7, (0.0, 0.0, 0.0)), {}).passed
    assert not judge(gate, comparison(0.7, (0.01, -0.001, 0.02)), {}).passed


def test_a_champion_that_cannot_be_scored_fails_only_the_gates_against_it() -> None:
    why = "the champion m/1 was trained on another feature definition"
    assert judge(Gate("roc_auc", at_least=0.5), comparison(), {}, why).passed
    failed = judge(Gate("roc_auc", worse_by_at_most=0.1), comparison(), {}, why)
    assert not failed.passed
    assert failed.reason == why


@pytest.mark.parametrize("positives", [0, 500])
def test_rows_of_one_class_show_nothing(positives: int) -> None:
    judged = judge(Gate("brier_score", at_most=1.0), comparison(0.1, positives=positives), {})
    assert not judged.passed
    assert f"all 500 labels are {int(positives > 0)}: nothing was shown" in judged.reason


def test_in_slices_the_condition_holds_in_every_group_that_is_large_enough() -> None:
    gate = Gate("roc_auc", at_least=0.7, slice_by="origin")
    groups = [
        Group("origin", "EWR", comparison(0.8)),
        Group("origin", None, comparison(0.72)),
        Group("origin", "LGA", comparison(0.1, rows=99)),
    ]
    judged = judge(gate, comparison(0.1), {"origin": groups})
    assert judged.passed
    assert judged.value == 0.72
    assert judged.reason == "met in all of 2 groups; 1 with fewer than 100 rows were not judged"
    judged = judge(gate, comparison(0.9), {"origin": [*groups, Group("origin", "JFK", comparison(0.6))]})
    assert not judged.passed
    assert judged.reason == "origin=JFK: 0.6000 is not at least 0.7"


def test_slices_without_a_group_that_is_large_enough_show_nothing() -> None:
    gate = Gate("roc_auc", at_least=0.7, slice_by="origin", minimum_rows=600)
    judged = judge(gate, comparison(), {"origin": [Group("origin", "EWR", comparison())]})
    assert not judged.passed
    assert "no group of origin has 600 rows: nothing was shown" in judged.reason
