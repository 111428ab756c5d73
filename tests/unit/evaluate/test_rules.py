"""What a gate may ask for, and how each condition is decided and told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.gates import METRICS, Gate
from airflow_ml_provider.steps.judgement import Group, judge
from airflow_ml_provider.steps.metrics import Comparison, Estimate


def compared(differences: list[float], *, rows: int = 500, positives: int = 100) -> Comparison:
    """Every metric's difference was found to be these in the resamples."""
    drawn = np.repeat(np.array(differences)[:, None], len(METRICS), axis=1)
    middle = float(np.median(differences))
    own = dict.fromkeys(METRICS, Estimate(0.7, 0.6, 0.8))
    between = dict.fromkeys(METRICS, Estimate(middle, *map(float, np.percentile(differences, [2.5, 97.5]))))
    return Comparison(rows, positives, own, own, between, drawn)


def spread(middle: float, half: float = 0.01) -> Comparison:
    return compared(list(np.linspace(middle - half, middle + half, 999)))


@pytest.mark.parametrize(
    ("gate", "middle", "passes", "reason"),
    [
        (Gate("roc_auc", better_by_at_least=0.0), 0.02, True, "shown to be better (p 0.0010)"),
        (Gate("roc_auc", better_by_at_least=0.0), 0.005, False, "not shown to be better (p 0.2510)"),
        (Gate("roc_auc", better_by_at_least=0.02), 0.02, False, "not shown to be better by more than 0.02"),
        (Gate("log_loss", better_by_at_least=0.005), -0.02, True, "shown to be better by more than 0.005"),
        (Gate("roc_auc", worse_by_at_most=0.01), 0.0, True, "worse by at most"),
        (Gate("roc_auc", worse_by_at_most=0.005), 0.0, False, "may be worse by 0.0095, more than 0.005"),
        (Gate("brier_score", worse_by_at_most=0.005), 0.0, False, "may be worse by 0.0095, more than 0.005"),
        (Gate("roc_auc", harm_limit=0.005), 0.0, True, "not shown to be worse by more than 0.005"),
        (Gate("roc_auc", harm_limit=0.005), -0.02, False, "shown to be worse by more than 0.005 (p 0.0010)"),
        (Gate("log_loss", harm_limit=0.005), 0.02, False, "shown to be worse by more than 0.005"),
        # Nine in ten resamples are better: shown at a confidence of 0.8, not at 0.95.
        (Gate("roc_auc", better_by_at_least=0.0, confidence=0.79), 0.008, True, "79 % interval"),
        (Gate("roc_auc", better_by_at_least=0.0), 0.008, False, "95 % interval"),
    ],
)
def test_comparisons_are_decided_by_the_share_of_resamples_beyond_the_margin(
    gate: Gate, middle: float, passes: bool, reason: str
) -> None:
    judged = judge(gate, spread(middle), {})
    assert judged.passed is passes
    assert reason in judged.reason
    (rule,) = judged.document()["rules"]
    assert (rule["rule"], rule["bound"], rule["rows"]) == (gate.comparison, gate.margin, 500)
    assert rule["low"] < rule["estimate"] < rule["high"]
    assert rule["p"] == rule["adjusted_p"]


def test_without_a_champion_comparisons_pass_and_absolute_conditions_count() -> None:
    alone = Comparison(500, 100, dict.fromkeys(METRICS, Estimate(0.7, 0.6, 0.8)))
    for comparison in ("better_by_at_least", "worse_by_at_most", "harm_limit"):
        judged = judge(Gate("roc_auc", at_least=0.5, **{comparison: 0.01}), alone, {})
        assert judged.passed
        assert judged.reason == "0.7000 is at least 0.5; there is no champion yet"
        assert not judge(Gate("roc_auc", at_least=0.75, **{comparison: 0.01}), alone, {}).passed


def test_over_slices_p_values_are_adjusted_and_one_group_that_is_not_shown_fails_the_gate() -> None:
    # p = 26/1000 in each group but the last: enough alone at a level of 0.05, not in three.
    weak = compared([-0.1] * 25 + [0.1] * 974)
    strong = compared([0.1] * 999)
    gate = Gate("roc_auc", better_by_at_least=0.0, slice_by="g", confidence=0.9)
    assert judge(gate, strong, {"g": [Group("g", "a", weak)]}).passed
    groups = [Group("g", "a", weak), Group("g", "b", weak), Group("g", None, strong)]
    judged = judge(gate, strong, {"g": groups})
    assert not judged.passed
    assert "g=a: " in judged.reason
    assert "(p 0.0260, 0.0520 after Holm)" in judged.reason
    rules = judged.document()["rules"]
    assert [(rule["value"], rule["p"], rule["adjusted_p"], rule["passed"]) for rule in rules] == [
        ("a", 0.026, 0.052, False), ("b", 0.026, 0.052, False), (None, 0.001, 0.003, True),
    ]  # fmt: skip


def test_a_slice_too_small_to_prove_anything_does_not_fail_a_harm_limit() -> None:
    wide = spread(-0.01, half=0.2)
    groups = {"g": [Group("g", "small", wide)]}
    assert not judge(Gate("roc_auc", worse_by_at_most=0.02, slice_by="g"), wide, groups).passed
    assert judge(Gate("roc_auc", harm_limit=0.02, slice_by="g"), wide, groups).passed
    few = {"g": [Group("g", "few", compared([0.0] * 99, rows=20))]}
    judged = judge(Gate("roc_auc", harm_limit=0.02, slice_by="g"), wide, few)
    assert judged.passed
    assert "nothing was shown" in judged.reason


def test_too_few_positives_show_nothing_and_such_groups_are_not_judged() -> None:
    gate = Gate("roc_auc", at_least=0.5, minimum_positives=30)
    judged = judge(gate, compared([0.0] * 99, positives=29), {})
    assert not judged.passed
    assert judged.reason == "29 positives are fewer than 30: nothing was shown"
    sliced = Gate("roc_auc", at_least=0.5, minimum_positives=30, slice_by="g")
    groups = [Group("g", "many", spread(0.0)), Group("g", "few", compared([0.0] * 99, positives=29))]
    judged = judge(sliced, spread(0.0), {"g": groups})
    assert judged.passed
    assert judged.reason == (
        "met in all of 1 groups; 1 without 100 rows, 30 positives and a negative were not judged"
    )


def test_where_each_model_has_its_own_rows_both_must_have_enough() -> None:
    own = spread(0.0)
    few = Comparison(own.rows, own.positives, own.candidate, own.champion, own.differences, own.drawn, 60, 20)
    judged = judge(Gate("roc_auc", worse_by_at_most=0.05), few, {})
    assert judged.reason == "60 rows of the champion are fewer than 100: nothing was shown"


def test_guardrails_are_judged_by_what_was_measured_of_the_model() -> None:
    gate = Gate("model_megabytes", at_most=5)
    assert judge(gate, spread(0.0), {}, guardrails={"model_megabytes": 4.2}).passed
    judged = judge(gate, spread(0.0), {}, guardrails={"model_megabytes": 5.2})
    assert not judged.passed
    assert judged.reason == "5.2 is not at most 5"
    unknown = judge(gate, spread(0.0), {})
    assert not unknown.passed
    assert unknown.reason == "model_megabytes was not measured: nothing was shown"


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"metric": "auc", "at_least": 1}, "unknown metric 'auc'"),
        ({"metric": "roc_auc"}, "states no condition"),
        ({"metric": "roc_auc", "worse_by_at_most": -0.01}, "write better_by_at_least=0.01"),
        ({"metric": "roc_auc", "better_by_at_least": -0.01}, "write worse_by_at_most=0.01"),
        ({"metric": "roc_auc", "harm_limit": -0.01}, "write harm_limit=0.01"),
        ({"metric": "roc_auc", "worse_by_at_most": 0, "harm_limit": 0}, "write two gates"),
        ({"metric": "roc_auc", "at_least": 0.7, "confidence": 95}, "write 0.95 for 95 %"),
        ({"metric": "roc_auc", "at_least": float("nan")}, "give a number"),
        ({"metric": "roc_auc", "at_least": 0.7, "minimum_rows": 0}, "give at least 1 row"),
        ({"metric": "model_megabytes", "at_least": 1}, 'write Gate("model_megabytes", at_most=...) alone'),
        ({"metric": "model_megabytes", "at_most": 1, "slice_by": "g"}, "has slice_by"),
        ({"metric": "milliseconds_per_1000_rows", "at_most": 1, "harm_limit": 0}, "has harm_limit"),
    ],
)
def test_a_gate_that_asks_for_nothing_sensible_says_what_to_write(
    terms: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        Gate(**terms)
    assert message in str(refused.value)


def test_gates_read_as_sentences() -> None:
    assert str(Gate("roc_auc", better_by_at_least=0)) == "roc_auc better than the champion"
    assert str(Gate("roc_auc", better_by_at_least=0.01)) == "roc_auc more than 0.01 better than the champion"
    said = "roc_auc not shown to be more than 0.02 worse than the champion in every dest"
    assert str(Gate("roc_auc", harm_limit=0.02, slice_by="dest")) == said
