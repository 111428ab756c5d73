"""Resamples: the numbers that they have always had, and those of drawing rows and asking scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from resampled import KEPT, compared, scored
from sklearn import metrics as sk

from airflow_ml_provider.contract.gates import METRICS
from airflow_ml_provider.steps import resampling
from airflow_ml_provider.steps.ranked import Ranked
from airflow_ml_provider.steps.resampling import counts, resampled


def test_equal_rows_and_seed_give_the_numbers_that_they_have_always_given() -> None:
    assert json.loads(json.dumps(compared())) == json.loads(KEPT.read_text())


def views(rows: int, decimals: int) -> tuple[np.ndarray, list[np.ndarray], list[list[Ranked]]]:
    labels, scores, groups = scored(rows, 3, decimals)
    return labels, scores, [[Ranked.of(labels, each, own) for each in scores] for own in (None, *groups)]


@pytest.mark.parametrize("decimals", [1, 3, 15])
def test_each_resample_has_the_metrics_of_scikit_learn_on_the_rows_drawn(decimals: int) -> None:
    labels, scores, ranked = views(1_500, decimals)
    found = resampled(ranked, 1_500, 30, seed=5)
    drawn = np.concatenate(list(counts(1_500, 30, seed=5)))
    for view, of_view in zip(ranked, found, strict=True):
        for line in range(0, 30, 3):
            own = np.sort(view[0].rows)
            rows = own.repeat(drawn[line, own])
            if len(set(labels[rows])) < 2:
                continue
            for model, score in enumerate(scores):
                expected = [
                    sk.roc_auc_score(labels[rows], score[rows]),
                    sk.average_precision_score(labels[rows], score[rows]),
                    sk.log_loss(labels[rows], score[rows], labels=[0, 1]),
                    sk.brier_score_loss(labels[rows], score[rows]),
                ]
                off = np.abs(of_view[line, model, :4] - expected)
                # What is added up of each row is rounded to steps of 1.5e-11 here, so that sums are exact.
                assert (off <= [1e-12, 1e-12, 1.5e-11, 1.5e-11]).all(), off


def test_numbers_do_not_depend_on_threads_or_on_how_many_resamples_are_worked_on_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, _, ranked = views(2_000, 2)
    expected = resampled(ranked, 2_000, 45, seed=1)
    for threads, cells in ((1, 2_000), (3, 10_000), (2, 1 << 30)):
        monkeypatch.setattr(resampling, "available", lambda threads=threads: threads)
        monkeypatch.setattr(resampling, "_WORK_CELLS", cells)
        for ours, theirs in zip(resampled(ranked, 2_000, 45, seed=1), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_metrics_have_the_order_of_their_names() -> None:
    labels, scores, ranked = views(500, 15)
    once = ranked[0][0].metrics(np.ones((1, 500), np.uint8))[0]
    assert dict(zip(METRICS, once, strict=True))["brier_score"] == pytest.approx(
        np.mean((labels - scores[0]) ** 2), abs=1e-12
    )
