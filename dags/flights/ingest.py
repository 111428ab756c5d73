"""What is done to each raw row before it is published: the partition it belongs to, and an identity."""

from __future__ import annotations

import polars as pl


def by_departure_day(flights: pl.LazyFrame) -> pl.LazyFrame:
    """Adds ``ds``, the local date of the scheduled departure, and ``flight_id``.

    A flight number departs from an airport at a scheduled time of a day once: 2013-06-01-UA-1545-EWR-0515.
    """
    return flights.with_columns(_local_date()).with_columns(
        pl.concat_str(
            "ds",
            "carrier",
            "flight",
            "origin",
            pl.col("sched_dep_time").cast(pl.String).str.zfill(4),
            separator="-",
        ).alias("flight_id")
    )


def by_observation_day(weather: pl.LazyFrame) -> pl.LazyFrame:
    """Adds ``ds``, the local date of the observation."""
    return weather.with_columns(_local_date())


def _local_date() -> pl.Expr:
    two_digits = [pl.col(part).cast(pl.String).str.zfill(2) for part in ("month", "day")]
    return pl.concat_str("year", *two_digits, separator="-").alias("ds")
