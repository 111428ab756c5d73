"""Will a flight arrive more than 15 minutes late, as known two hours before its scheduled departure?

Plain functions over the raw tables, and at the end the declaration of what is a feature of what. The times:

* a flight's scheduled departure in UTC is its ``time_hour`` (the hour, UTC) and ``minute``; its local
  ``arr_time`` is in the destination's zone and is not used;
* its departure delay is known when it has departed;
* its arrival delay is known when it has landed: its departure, its ``air_time``, and 2 hours for taxiing,
  which 99.8 % of the flights that stay in New York's time zone do not exceed.

The aircraft (``tailnum``) is taken as assigned when the flight is predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import polars as pl

from airflow_ml_provider import FeatureSet, FeatureView, Label

AHEAD = pl.duration(hours=2)
TAXIING = pl.duration(hours=2)
# An observation carries the hour it was made in, and may have been made at its end.
PUBLISHING = pl.duration(hours=1)
LATE_MINUTES = 15

CLOCK = pl.col("sched_dep_time").cast(pl.String).str.zfill(4)
FLIGHT_ID = pl.concat_str("ds", "carrier", "flight", "origin", CLOCK, separator="-").alias("flight_id")
SCHEDULED = pl.col("time_hour") + pl.duration(minutes="minute")
DEPARTED = SCHEDULED + pl.duration(minutes="dep_delay")
LANDED = DEPARTED + pl.duration(minutes="air_time") + TAXIING
PUBLISHED = pl.col("time_hour") + PUBLISHING


def schedule(flights: pl.LazyFrame) -> pl.LazyFrame:
    """The flights to predict: what the timetable says, known long before."""

    def minutes(clock: str) -> pl.Expr:
        return pl.col(clock) // 100 * 60 + pl.col(clock) % 100

    # Off by the difference of the time zones, which is the same for all flights to a destination.
    planned = (minutes("sched_arr_time") - minutes("sched_dep_time")) % (24 * 60)
    return flights.select(
        FLIGHT_ID,
        "ds",
        *("carrier", "flight", "origin", "dest", "tailnum", "distance"),
        predict_at=SCHEDULED - AHEAD,
        weekday=pl.col("ds").str.to_date().dt.weekday(),
        departure_minute=minutes("sched_dep_time"),
        planned_minutes=planned,
    )


def late_arrival(flights: pl.LazyFrame) -> pl.LazyFrame:
    """The label; cancelled and diverted flights have none."""
    return flights.select(FLIGHT_ID, late=pl.col("arr_delay") > LATE_MINUTES, landed_at=LANDED)


def observations(weather: pl.LazyFrame) -> pl.LazyFrame:
    """Hourly weather at the three airports."""
    rain = pl.col("precip").rolling_sum_by("time_hour", "6h").over("origin")
    return weather.with_columns(published_at=PUBLISHED, rain_6h=rain)


def register(planes: pl.LazyFrame) -> pl.LazyFrame:
    """The register of aircraft, known from the start."""
    start = pl.lit(datetime(1970, 1, 1), pl.Datetime("us", "UTC"))
    return planes.select("tailnum", "seats", built="year", since=start)


def trailing(
    outcomes: pl.LazyFrame, by: tuple[str, ...], delay: str, windows: tuple[str, ...]
) -> pl.LazyFrame:
    """Share of late flights and mean delay in minutes, over windows that end when an outcome became known.

    The windows run over ``known_at``: one over the schedule would hold flights that are still in the air.
    """
    late = pl.col(delay) > LATE_MINUTES
    means = [
        value.cast(pl.Float64).rolling_mean_by("known_at", window).over(by).alias(f"{name}_{window}")
        for window in windows
        for name, value in (("late", late), ("delay", pl.col(delay)))
    ]
    return outcomes.drop_nulls(delay).sort("known_at").select(*by, "known_at", *means)


def landed(name: str, by: tuple[str, ...], *windows: str) -> FeatureView:
    """How late flights landed of late, by what they have in common."""

    def rates(flights: pl.LazyFrame) -> pl.LazyFrame:
        return trailing(flights.with_columns(known_at=LANDED), by, "arr_delay", windows)

    return delays(name, rates, by, windows, max_age="30d")


def departed(name: str, by: tuple[str, ...], *windows: str) -> FeatureView:
    """How late flights left New York in the last hours, by what they have in common."""

    def rates(flights: pl.LazyFrame) -> pl.LazyFrame:
        return trailing(flights.with_columns(known_at=DEPARTED), by, "dep_delay", windows)

    return delays(name, rates, by, windows, max_age="1d")


def delays(
    name: str,
    function: Callable[..., pl.LazyFrame],
    by: tuple[str, ...],
    windows: tuple[str, ...],
    max_age: str,
) -> FeatureView:
    """The view that a function of :func:`trailing` makes."""
    return FeatureView(
        name,
        function,
        by=by,
        event_time="known_at",
        knowledge_time="known_at",
        features=tuple(f"{what}_{window}" for window in windows for what in ("late", "delay")),
        max_age=max_age,
    )


def flights_as_known(flights: pl.LazyFrame, at: datetime) -> pl.LazyFrame:
    """The table of flights at a moment: the schedule, and the outcomes that had happened."""
    return flights.with_columns(
        pl.when(DEPARTED.le(at)).then(pl.col("dep_time", "dep_delay")),
        pl.when(LANDED.le(at)).then(pl.col("arr_time", "arr_delay", "air_time")),
    )


def weather_as_known(weather: pl.LazyFrame, at: datetime) -> pl.LazyFrame:
    """The observations that had been published at a moment."""
    return weather.filter(PUBLISHED.le(at))


LATE_ARRIVAL = FeatureSet(
    rows=schedule,
    key=("flight_id",),
    prediction_time="predict_at",
    row_features=("departure_minute", "weekday", "distance", "planned_minutes"),
    views=(
        FeatureView(
            "weather",
            observations,
            by=("origin",),
            event_time="time_hour",
            knowledge_time="published_at",
            features=(
                *("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust"),
                *("precip", "rain_6h", "pressure", "visib"),
            ),
            max_age="6h",
        ),
        FeatureView(
            "aircraft",
            register,
            by=("tailnum",),
            event_time="since",
            knowledge_time="since",
            features=("built", "seats"),
        ),
        departed("leaving", ("origin",), "1h", "3h"),
        departed("carrier_leaving", ("carrier", "origin"), "3h", "1d"),
        departed("tail_leaving", ("tailnum",), "1d"),
        landed("carrier", ("carrier",), "3h", "1d", "7d"),
        landed("origin", ("origin",), "3h", "1d", "7d"),
        landed("dest", ("dest",), "6h", "1d", "14d"),
        landed("route", ("origin", "dest"), "1d", "14d"),
        landed("tail", ("tailnum",), "1d", "14d"),
        landed("number", ("carrier", "flight", "origin"), "30d"),
    ),
    label=Label("late", late_arrival, known_at="landed_at"),
    keep=("carrier", "origin", "dest"),
    as_known={"flights": flights_as_known, "weather": weather_as_known},
)
