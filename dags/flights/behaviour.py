"""How a model of late flights must behave, whatever its metrics: each test is a line of the verdict.

Plain functions: pytest can run them with a model and rows of one's own.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import polars as pl

WEATHER = "weather__"
# Trees are not monotone: among thousands of flights some fall a little when the wind rises. This much, on
# average over the flights, would be a model that has learnt the opposite.
WIND_TOLERANCE = 0.005
# One flight scored alone must not be slow enough for a person to wait for, on a busy machine, too.
SECONDS_FOR_ONE_FLIGHT = 0.5
# A flight at a time when every delay that is known is large is at least this much more at risk.
LEAST_EFFECT_OF_DELAYS = 0.05


def test_more_wind_never_lowers_the_risk(model: Any, rows: pl.DataFrame) -> None:
    """More wind does not lower the risk"""
    speed, gust = f"{WEATHER}wind_speed", f"{WEATHER}wind_gust"
    windy = rows.filter(pl.col(speed).is_not_null())
    before = model.score(windy).mean()
    for more in (5, 10, 20):
        change = model.score(windy.with_columns(pl.col(speed) + more, pl.col(gust) + more)).mean() - before
        assert change >= -WIND_TOLERANCE, f"{more} mph more wind changes the mean risk by {change:+.4f}"


def test_neither_the_order_nor_the_company_of_flights_matters(model: Any, rows: pl.DataFrame) -> None:
    """A flight's risk does not depend on which other flights are scored with it, nor on its name"""
    scores = model.score(rows)
    reversed_scores = model.score(rows.reverse())[::-1]
    assert np.array_equal(scores, reversed_scores), "the order of the flights changes their risk"
    alone = model.score(rows.head(1))[0]
    assert abs(alone - scores[0]) < 1e-9, f"alone {alone:.6f}, among others {scores[0]:.6f}"
    renamed = model.score(rows.with_columns(flight_id=pl.lit("somebody else's")))
    assert np.array_equal(scores, renamed), "the flight's id changes its risk"


def test_flights_without_weather_still_get_probabilities(model: Any, rows: pl.DataFrame) -> None:
    """Without any weather the risk is still a probability, and not the same for all"""
    blind = rows.with_columns(
        pl.lit(None, pl.Float64).alias(name) for name in rows.columns if name.startswith(WEATHER)
    )
    scores = model.score(blind)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert len(np.unique(scores)) > 1, "all flights get the same risk"


def test_one_flight_is_scored_quickly(model: Any, rows: pl.DataFrame) -> None:
    """One flight is scored in half a second at most"""
    flight = rows.head(1)
    model.score(flight)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        model.score(flight)
        times.append(time.perf_counter() - begun)
    assert min(times) <= SECONDS_FOR_ONE_FLIGHT, f"it took {min(times):.3f} s"


def test_a_carrier_in_lower_case_is_refused(model: Any, rows: pl.DataFrame) -> None:
    """A carrier whose name is written in lower case is refused instead of scored as an unknown one"""
    refusal = ""
    try:
        model.score(rows.with_columns(pl.col("carrier").str.to_lowercase()))
    except Exception as error:
        refusal = str(error)
    assert refusal, 'it was scored; train with known_values=("carrier",)'
    assert "carrier" in refusal, f"refused, but not for the carrier: {refusal}"


def test_a_day_of_delays_is_riskier_than_a_day_without(model: Any, rows: pl.DataFrame) -> None:
    """When everything leaves an hour late the risk is clearly higher than when nothing does"""
    delays = [name for name in rows.columns if "leaving__delay" in name]
    shares = [name for name in rows.columns if "leaving__late" in name]

    def risk(minutes: float, share: float) -> float:
        changed = rows.with_columns(
            *(pl.lit(minutes).alias(name) for name in delays), *(pl.lit(share).alias(name) for name in shares)
        )
        return float(model.score(changed).mean())

    calm, late = risk(-3.0, 0.0), risk(60.0, 0.9)
    assert late - calm >= LEAST_EFFECT_OF_DELAYS, f"{calm:.3f} without delays, {late:.3f} with"
