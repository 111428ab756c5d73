"""A verdict travels through Airflow's database and on to the next task: it stays small, whatever it judges."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest

from airflow_ml_provider.contract.arguments import EvaluateArguments
from airflow_ml_provider.contract.gates import Gate
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.steps.behaviour import Line
from airflow_ml_provider.steps.evaluation_report import Evaluation, render
from airflow_ml_provider.steps.judgement import judge
from airflow_ml_provider.steps.measurement import measure_scored
from airflow_ml_provider.steps.promote import Verdict
from airflow_ml_provider.steps.verdict import canonical, verdict_of
from airflow_ml_provider.steps.versions import Registered

# What the ready DAGs are held to, a task's whole output.
MOST = 40_000
GATES = (
    Gate("roc_auc", at_least=0.99, slice_by="route", minimum_rows=20),
    Gate("roc_auc", at_least=0.99, worse_by_at_most=0.0, slice_by="carrier", minimum_rows=20),
    Gate("log_loss", at_most=0.01, harm_limit=0.0, slice_by="carrier", minimum_rows=20),
    Gate("brier_score", at_most=0.01, better_by_at_least=0.1, slice_by="carrier", minimum_rows=20),
    Gate("calibration_error", at_most=0.0, slice_by="carrier", minimum_rows=20),
    Gate("roc_auc", at_least=0.99),
)


@pytest.fixture(scope="module")
def verdict() -> dict[str, Any]:
    """Every rule in every group fails, group names are long, and so are the tests' messages."""
    random = np.random.default_rng(0)
    n = 6_000
    rows = pl.DataFrame(
        {
            "late": random.integers(0, 2, n),
            "carrier": [f"carrier {number % 16} " + "x" * 3_000 for number in range(n)],
            "route": [f"route {number % 60}" for number in range(n)],
        }
    )
    scores = [random.random(n), random.random(n)]
    measured = measure_scored(
        rows, scores, label="late", slices=["carrier", "route"], resamples=50, seed=0, gates=GATES
    )
    judgements = [judge(gate, measured.overall, measured.groups) for gate in GATES]
    one, other = (Registered("delays", number, "r" * 32, "", {}) for number in (2, 1))
    lines = [Line(f"test_{n}", f"Line {n}", False, "m" * 500) for n in range(40)]
    return verdict_of(
        EvaluateArguments(candidate=Model("delays", version=2)), measured, judgements, candidate=one,
        champion=other, table=("rows", 3), partitions="2013-05-01..2013-05-31", seed=0, lines=lines,
    )  # fmt: skip


def test_a_verdict_of_many_failed_rules_in_long_named_groups_stays_small(verdict: dict[str, Any]) -> None:
    assert len(json.dumps(verdict)) < MOST - 3_000, "the output has a summary, too"
    assert canonical(verdict)


def test_what_is_left_out_is_counted_and_every_gate_keeps_a_failed_rule(verdict: dict[str, Any]) -> None:
    for gate in verdict["gates"]:
        assert gate["rules"]
        assert not gate["rules"][0]["passed"]
    assert [len(gate["rules"]) + gate["rules_left_out"] for gate in verdict["gates"]] == [
        60,
        32,
        32,
        32,
        16,
        1,
    ]
    assert sum(len(gate["rules"]) for gate in verdict["gates"]) <= 40


def test_why_a_candidate_was_not_promoted_is_told_in_a_bounded_text(verdict: dict[str, Any]) -> None:
    assert len(Verdict.read(verdict).failures()) <= 1_500


@pytest.mark.filterwarnings("error")
def test_a_page_about_long_named_groups_can_be_drawn() -> None:
    n = 400
    rows = pl.DataFrame({"late": [0, 1] * (n // 2), "g": [f"{i % 4} <b>$x^" + "x" * 3_000 for i in range(n)]})
    scores = [np.random.default_rng(0).random(n)]
    measured = measure_scored(rows, scores, label="late", slices=["g"], resamples=20, seed=0)
    page = render(Evaluation("delays/2", True, {}, measured, [], [])).decode()
    assert "<b>" not in page
    assert "x" * 200 not in page
