"""Drift on real data: the weather that New York's flights of 2013 met."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from airflow_ml_provider.steps.drift import compare
from airflow_ml_provider.steps.profiles import Profile, apply_profile_by, build_profile

WEATHER = ("humid", "precip", "pressure", "visib", "wind_speed")


@pytest.fixture(scope="module")
def departures(flights_raw: Path) -> pl.DataFrame:
    """Each flight until June with its day and the weather at its departure."""
    flights = pl.from_pandas(
        pd.read_csv(flights_raw / "flights.csv.zip", usecols=["month", "day", "origin", "time_hour"])
    )
    weather = pl.read_csv(flights_raw / "weather.csv", null_values="NA", infer_schema_length=None)
    met = flights.filter(pl.col("month") <= 6).join(
        weather.select("origin", "time_hour", *WEATHER), on=["origin", "time_hour"], how="left"
    )
    two = [pl.col(part).cast(pl.String).str.zfill(2) for part in ("month", "day")]
    return met.with_columns(ds=pl.concat_str(pl.lit("2013"), *two, separator="-"))


@pytest.fixture(scope="module")
def reference(departures: pl.DataFrame) -> Profile:
    return build_profile(departures.lazy().filter(pl.col("ds") < "2013-05-01"), WEATHER, by="ds")


def drifted(reference: Profile, departures: pl.DataFrame, day: str) -> set[str]:
    current = apply_profile_by(reference, departures.lazy(), "ds", [day])[day]["columns"]
    return {
        name
        for name, column in reference["columns"].items()
        if compare(name, column, current[name], 0.25).drifted
    }


def test_the_day_of_tropical_storm_andrea_has_drifted_and_a_dry_day_before_has_not(
    reference: Profile, departures: pl.DataFrame
) -> None:
    assert drifted(reference, departures, "2013-06-07") >= {"precip", "visib", "humid"}
    assert drifted(reference, departures, "2013-06-05") == set()


def test_against_a_reference_that_knows_no_days_every_day_would_have_drifted(
    departures: pl.DataFrame,
) -> None:
    plain = build_profile(departures.lazy().filter(pl.col("ds") < "2013-05-01"), WEATHER)

    assert all(
        drifted(plain, departures, f"2013-06-{day:02}") >= {"humid", "pressure"} for day in range(1, 11)
    )
