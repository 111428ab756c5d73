"""Models compared on resamples, whose numbers are kept in ``resampled.json``: they must never change.

``python tests/unit/evaluate/resampled.py`` writes that file again, where a change is wanted.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from airflow_ml_provider.steps.metrics import Comparison, Side, compare_groups, compare_unpaired

KEPT = Path(__file__).with_name("resampled.json")


def scored(rows: int, seed: int, decimals: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Labels, two models' scores with few decimals for ties, and five groups of unequal size."""
    random = np.random.default_rng(seed)
    odds = random.normal(-1, 1.2, rows)
    labels = (random.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    scores = [
        (1 / (1 + np.exp(-odds - random.normal(0, noise, rows)))).round(decimals) for noise in (0.5, 0.6)
    ]
    group = random.choice(5, rows, p=[0.5, 0.3, 0.15, 0.04, 0.01])
    return labels, scores, [np.flatnonzero(group == each) for each in range(5)]


def compared() -> dict[str, list[dict[str, Any]]]:
    """Comparisons by name: few rows with many ties, many rows that are drawn in blocks, rows of each side."""
    found: dict[str, list[Comparison]] = {}
    for name, rows, decimals, resamples in (
        ("ties", 300, 1, 300), ("small", 5_000, 3, 150), ("blocks", 70_000, 15, 12),
    ):  # fmt: skip
        labels, scores, groups = scored(rows, len(name), decimals)
        found[name] = compare_groups(labels, scores, groups, resamples=resamples, seed=7)
    sides = [
        Side(labels, scores[0], groups) for labels, scores, groups in (scored(900, 1, 2), scored(700, 2, 2))
    ]
    found["unpaired"] = compare_unpaired(*sides, resamples=100, seed=7)
    return {name: [_document(one) for one in comparisons] for name, comparisons in found.items()}


def _document(comparison: Comparison) -> dict[str, Any]:
    document = asdict(comparison)
    drawn = comparison.drawn
    assert drawn is not None
    # Each resample's differences, to the six decimals that a verdict has.
    document["drawn"] = [[None if np.isnan(cell) else cell for cell in line] for line in drawn[::25].tolist()]
    return document


if __name__ == "__main__":
    KEPT.write_text(json.dumps(compared(), separators=(",", ":")))
