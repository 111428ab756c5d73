"""Gates of a CI job: what they say, whose value they mean, and that nothing in them is run."""

from __future__ import annotations

from typing import Any

import pytest
from evaluated import EVALUATED
from hypothesis import given
from hypothesis import strategies as st

from airflow_ml_provider.cli.conditions import Condition, Outputs, judge, parse_condition
from airflow_ml_provider.contract.errors import ConfigError

OUTPUTS = Outputs(
    {
        "group.fit": {"verb": "train", "metrics": {"roc_auc": 0.9, "rounds": 63}, "status": "success"},
        "judge": EVALUATED,
        "promote": {"verb": "promote", "verdict": {"promoted": True, "alias": "champion"}},
        "by_hand": {"accuracy": 0.8, "deep": {"er": {"word": "5"}}},
        "count": 7,
        "rows[a]": [1, 2],
    }
)


@pytest.mark.parametrize(
    "text",
    ["roc_auc>=0.74", " roc_auc >= 0.74 ", "roc_auc<1", "roc_auc!=0.7", "log_loss<=4.1e-1", "verdict==promote",
     "verdict=='promote'", 'verdict != "reject"', "group.fit.roc_auc==0.9", "group.fit.rounds==63",
     "verdict.promoted==true", "verdict.metrics.roc_auc.low>0.74", "judge.verdict.rows>12000", "accuracy>0.7",
     "by_hand.accuracy>0.7", "deep.er.word==5", "count.value==7", "promote.verdict.alias==champion",
     "model.version==4"],
)  # fmt: skip
def test_a_gate_that_is_met(text: str) -> None:
    judged = judge(parse_condition(text), OUTPUTS)
    assert judged.passed, judged.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("roc_auc>=0.76", "judge reports 0.7512"),
        ("verdict==reject", "judge reports promote"),
        ("verdict.promoted!=true", "promote reports true"),
        ("verdict.promoted==1", "promote reports true"),
        ("rok_auc>0", "no task reports rok_auc; did you mean 'roc_auc'"),
        ("nobody.roc_auc>0", "no task reports nobody.roc_auc"),
        ("verdict>0", "judge reports promote, which is not a number"),
        ("verdict.promoted>0", "which is not a number"),
    ],
)
def test_a_gate_that_is_not_met_says_why(text: str, reason: str) -> None:
    judged = judge(parse_condition(text), OUTPUTS)
    assert not judged.passed
    assert reason in judged.reason


def test_a_metric_that_two_tasks_report_differently_asks_which() -> None:
    outputs = Outputs({f"fit_{n}": {"verb": "train", "metrics": {"rmse": n}} for n in (1, 2)})
    judged = judge(parse_condition("rmse<9"), outputs)
    assert not judged.passed
    assert "fit_1.rmse = 1, fit_2.rmse = 2; name one of them" in judged.reason
    assert judge(parse_condition("fit_2.rmse==2"), outputs).passed


def test_without_any_output_a_gate_says_that_nothing_is_reported() -> None:
    assert "no task reports a metric or a verdict" in judge(parse_condition("a>1"), Outputs({})).reason


def test_a_metric_that_is_not_a_number_meets_nothing() -> None:
    outputs = Outputs({"fit": {"verb": "train", "metrics": {"auc": float("nan")}}})
    for sign in (">=", "<=", ">", "<", "=="):
        assert not judge(Condition("auc", sign, 0.5), outputs).passed


@pytest.mark.parametrize(
    "text",
    ["", "roc_auc", "roc_auc=0.7", "roc_auc>=", ">=0.7", "roc_auc>=much", "roc_auc>=true", "roc_auc>nan",
     "roc_auc=>0.7", "roc_auc>>1", "a b>1", "roc_auc===1", "0.7<=roc_auc<=0.8"],
)  # fmt: skip
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_condition(text)


@given(st.text())
def test_any_text_is_a_gate_or_refused(text: str) -> None:
    try:
        found: Any = parse_condition(text)
    except ConfigError:
        return
    assert judge(found, OUTPUTS).condition is found


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.sampled_from([">=", "<=", ">", "<"]))
def test_a_comparison_is_the_one_of_python(value: float, bound: float, sign: str) -> None:
    outputs = Outputs({"fit": {"verb": "train", "metrics": {"m": value}}})
    condition = parse_condition(f"m{sign}{bound!r}")
    expected = {">=": value >= bound, "<=": value <= bound, ">": value > bound, "<": value < bound}[sign]
    assert judge(condition, outputs).passed is expected
