"""The statistical gate: two models, all rows and ten slices, paired resamples, against a loop over scikit-learn.

The loop draws the rows again and asks scikit-learn for the four of our metrics that it has, for each model on
all rows and on each slice. It is run on a few resamples only, and its seconds are scaled to as many as ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.measuring import Cost, Row, in_turn
from bench.scene import Scene

RESAMPLES, LOOPED = 1_000, 2
SCENE = """
import sys
import numpy as np
rows, resamples = int(sys.argv[1]), int(sys.argv[2])
random = np.random.default_rng(0)
odds = random.normal(-1, 1, rows)
labels = (random.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int8)
scores = [1 / (1 + np.exp(-odds - random.normal(0, noise, rows))) for noise in (0.5, 0.6)]
group = random.integers(0, 10, rows)
"""
OURS = """
from airflow_ml_provider.steps.metrics import compare_groups
places = [np.flatnonzero(group == one) for one in range(10)]
compare_groups(labels, scores, places, resamples=resamples, seed=1)
"""
LOOP = """
from sklearn import metrics as sk
metrics = (sk.roc_auc_score, sk.average_precision_score, sk.log_loss, sk.brier_score_loss)
for _ in range(resamples):
    drawn = random.integers(0, rows, rows)
    label, of = labels[drawn], group[drawn]
    for score in (one[drawn] for one in scores):
        for own in (slice(None), *(of == one for one in range(10))):
            for metric in metrics:
                metric(label[own], score[own])
"""


def rows(scene: Scene) -> Iterator[Row]:
    """A tenth of the scene's rows, and what fewer and more rows cost."""
    size = scene.rows // 10

    def ours(rows: int) -> Cost:
        return scene.python(SCENE + OURS, rows, RESAMPLES)

    def loop() -> Cost:
        few = scene.python(SCENE + LOOP, size, LOOPED)
        start = scene.python(SCENE, size, 0)
        once = (few.seconds - start.seconds) / LOOPED, (few.cpu - start.cpu) / LOOPED
        seconds, cpu = (
            fixed + RESAMPLES * each for fixed, each in zip((start.seconds, start.cpu), once, strict=True)
        )
        return replace(few, seconds=seconds, cpu=cpu)

    mine, others = in_turn(lambda: ours(size), loop, scene.repeats)
    yield Row(
        f"statistical gate, {size:,} rows, {RESAMPLES:,} paired resamples, ten slices",
        "a loop over scikit-learn's metrics",
        "at least 50x faster",
        mine,
        others,
        as_speed=True,
        limit=50.0,
        note=f"the loop is timed on {LOOPED} resamples and scaled",
    )
    for times in (0.1, 5):
        more = int(size * times)
        yield Row(f"statistical gate, {more:,} rows", "", "linear", [ours(more)])
