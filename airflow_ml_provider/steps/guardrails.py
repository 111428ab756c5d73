"""Guardrails: what a model costs to use, whatever its scores are worth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, did_you_mean
from airflow_ml_provider.contract.gates import GUARDRAILS, Gate

if TYPE_CHECKING:
    from airflow_ml_provider.steps.models import ScoringModel

SAMPLE_ROWS = 1_000
_REPEATS = 11


def wanted(gates: Sequence[Gate]) -> list[str]:
    """The guardrails that gates ask for."""
    asked = {gate.metric for gate in gates}
    return [name for name in GUARDRAILS if name in asked]


def measure(
    names: Sequence[str], model: ScoringModel, rows: pl.DataFrame, given: Mapping[str, float]
) -> dict[str, float]:
    """The guardrails by name.

    :param rows: features to score for the latency, in the form that the model gets them.
    :param given: what was measured before, taken as it is: a latency is the one number of a verdict that
        depends on the machine.
    :raises ConfigError: something else is given.
    """
    if strange := [name for name in given if name not in GUARDRAILS]:
        raise ConfigError(f"measured names {strange[0]!r}", todo=did_you_mean(strange[0], GUARDRAILS))
    found = {}
    for name in names:
        if name in given:
            found[name] = float(given[name])
        elif name == "model_megabytes":
            found[name] = round(model.size / 1e6, 6)
        else:
            found[name] = round(latency(model, rows), 3)
    return found


def latency(model: ScoringModel, rows: pl.DataFrame) -> float:
    """Milliseconds to score 1,000 rows: the median of repeated scoring, after one that is not counted."""
    model.scores(rows)
    times = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        model.scores(rows)
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1_000 * 1_000 / max(1, rows.height)
