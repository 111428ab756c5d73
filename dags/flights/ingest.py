"""What is done to each raw row before it is published: the partition it belongs to, and an identity."""

from __future__ import annotations

import polars as pl


def by_departure_day(flights: pl.LazyFrame) -> pl.LazyFrame:
    """Adds ``ds``, the local date of the scheduled departure, and ``flight_id``.

    A flight number departs from an airport at a scheduled time of a day once: 2013-06-01-UA-1545-EWR-0515.
    """
    time = pl.col("sched_dep_time").cast(pl.String).str.zfill(4)
    identity = pl.concat_str("ds", "carrier", "flight", "origin", time, separator="-")
    return flights.with_columns(_local_date()).with_columns(identity.alias("flight_id"))


def by_observation_day(weather: pl.LazyFrame) -> pl.LazyFrame:
    """Adds ``ds``, the local date of the observation."""
    return weather.with_columns(_local_date())


def _local_date() -> pl.Expr:
    # Through a date, so that 31 April is no day: such a row belongs to no partition, and is quarantined.
    text = pl.concat_str("year", "month", "day", separator="-")
    return text.str.to_date("%Y-%m-%d", strict=False).dt.to_string("%Y-%m-%d").alias("ds")
