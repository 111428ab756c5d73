"""Scored rows, of one table or of an A/B split, measured and judged without a model at hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.gates import Gate
from airflow_ml_provider.steps.evaluation_report import Evaluation, render
from airflow_ml_provider.steps.judgement import judge
from airflow_ml_provider.steps.measurement import Measured, measure_scored, measure_split
from airflow_ml_provider.steps.metrics import compare, metrics
from airflow_ml_provider.steps.reports import Report


def live(rows: int, seed: int, origins: tuple[str, ...]) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows whose labels have matured, and the scores they were given."""
    random = np.random.default_rng(seed)
    odds = random.normal(-1, 1, rows)
    labels = random.random(rows) < 1 / (1 + np.exp(-odds))
    frame = pl.DataFrame(
        {"late": labels, "origin": random.choice(origins, rows), "ds": ["2013-06-01"] * rows}
    )
    return frame, 1 / (1 + np.exp(-odds - random.normal(0, 0.5, rows)))


def test_scored_rows_are_measured_as_they_are() -> None:
    frame, scores = live(1200, 1, ("EWR", "JFK"))
    other = scores[::-1].copy()
    found = measure_scored(
        frame, [scores, other], label="late", slices=["origin"], partition="ds", resamples=60, seed=2
    )
    labels = frame["late"].cast(pl.Int8).to_numpy()
    assert found.overall == compare(labels, scores, other, resamples=60, seed=2)
    assert found.partitions is not None
    assert found.partitions.name == "ds"
    for group in found.groups["origin"]:
        chosen = (frame["origin"] == group.value).to_numpy()
        value = group.comparison.candidate["roc_auc"].value
        assert value == metrics(labels[chosen], scores[chosen])["roc_auc"]
        assert group.comparison.rows == chosen.sum()


def split(gate: Gate) -> Measured:
    (ours, our_scores), (theirs, their_scores) = live(900, 3, ("EWR", "JFK")), live(4000, 4, ("EWR", "LGA"))
    return measure_split(
        ours, theirs, (our_scores, their_scores), label="late", slices=["origin"], resamples=60, seed=5,
        gates=[gate],
    )  # fmt: skip


def test_an_ab_split_is_judged_by_the_same_gates_on_rows_of_each_models_own() -> None:
    gate = Gate("brier_score", worse_by_at_most=0.05, slice_by="origin")
    found = split(gate)
    assert (found.overall.rows, found.overall.champion_rows) == (900, 4000)
    assert found.overall.differences is not None
    assert found.overall.differences["roc_auc"].low < found.overall.differences["roc_auc"].high
    sizes = {
        each.value: (each.comparison.rows, each.comparison.champion_rows) for each in found.groups["origin"]
    }
    assert (sizes["JFK"][1], sizes["LGA"][0]) == (0, 0)
    judged = judge(gate, found.overall, found.groups)
    assert judged.passed
    # Only where both were at work can they be compared.
    assert [rule.value for rule in judged.rules] == ["EWR"]
    assert judged.reason == "met in all of 1 groups; 2 with fewer than 100 rows were not judged"
    again = split(gate)
    assert again.overall == found.overall
    assert again.groups == found.groups


def test_the_report_of_a_split_says_that_the_rows_differ_and_takes_further_sections() -> None:
    gate = Gate("brier_score", worse_by_at_most=0.05)
    found = split(gate)

    def section(report: Report) -> None:
        report.heading("Something more")

    page = render(
        Evaluation(
            "m/2 against champion 1",
            True,
            {},
            found,
            [judge(gate, found.overall, found.groups)],
            [],
            extra_sections=[section],
        )
    ).decode()
    assert "differences are between models on rows of their own" in page
    assert "Comparisons with the champion: candidate minus champion" in page
    assert "Something more" in page


def test_too_many_groups_are_refused() -> None:
    frame, scores = live(1500, 6, ("EWR",))
    frame = frame.with_row_index("number")
    with pytest.raises(ConfigError, match="1,500 different values; a slice has at most 1,000"):
        measure_scored(frame, [scores], label="late", slices=["number"], resamples=2, seed=0)
