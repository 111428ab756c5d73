"""The flights of New York, as they come, through their own schemas and transformations."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from airflow_ml_provider.contract.documents import StepResult

RunStep = Callable[..., StepResult]


@pytest.fixture
def ingest_flights(run_step: RunStep, flights_raw: Path) -> Callable[..., StepResult]:
    def run(table: str, partitions: str = "", **more: object) -> StepResult:
        file, transform = {
            "flights": ("flights.csv.zip", "flights.ingest:by_departure_day"),
            "weather": ("weather.csv", "flights.ingest:by_observation_day"),
            "planes": ("planes.csv", None),
        }[table]
        arguments = {
            "source": str(flights_raw / file),
            "schema": f"flights.schemas:{table.upper()}",
            "transform": transform,
            "partitions": partitions,
            "publish": {"name": table, "partition_by": "ds" if transform else None},
            **more,
        }
        return run_step("ingest", arguments)

    return run


def published(result: StepResult) -> pl.DataFrame:
    assert result.table is not None
    return pl.read_delta(result.table.uri.removeprefix("file://"))


def test_some_days_of_flights_are_published_typed_and_identified(
    ingest_flights: Callable[..., StepResult],
) -> None:
    result = ingest_flights("flights", "2013-06-01..2013-06-03")
    rows = published(result)
    assert result.summary["rows"] == len(rows) == 2647
    assert rows["ds"].unique().sort().to_list() == ["2013-06-01", "2013-06-02", "2013-06-03"]
    assert rows["flight_id"].n_unique() == len(rows)
    flight = rows.row(by_predicate=pl.col("flight_id") == "2013-06-01-US-1431-EWR-0500", named=True)
    assert flight["time_hour"] == datetime.datetime(2013, 6, 1, 9, tzinfo=datetime.UTC)
    assert (flight["dest"], flight["sched_dep_time"], flight["year"]) == ("CLT", 500, 2013)
    # A cancelled flight has no times, and is a row like any other.
    assert rows["dep_time"].null_count() == rows["dep_delay"].null_count() > 0
    assert rows.schema["dep_delay"] == pl.Int64


def test_a_day_ingested_again_replaces_that_day_only(ingest_flights: Callable[..., StepResult]) -> None:
    before = published(ingest_flights("flights", "2013-06-01..2013-06-02"))
    again = ingest_flights("flights", "2013-06-02")
    assert "already ingested" in again.summary
    with_another = published(ingest_flights("flights", "2013-06-03"))
    kept = with_another.filter(pl.col("ds") != "2013-06-03")
    assert kept.sort("flight_id").equals(before.sort("flight_id"))


def test_a_day_without_flights_yet_is_skipped(ingest_flights: Callable[..., StepResult]) -> None:
    result = ingest_flights("flights", "2026-11-21")
    assert result.status == "skipped"
    assert "of the 336,776 rows of" in result.reason
    assert result.reason.endswith("none is in ds = 2026-11-21")


def test_a_wind_of_1048_miles_per_hour_is_quarantined_on_its_day_alone(
    ingest_flights: Callable[..., StepResult],
) -> None:
    result = ingest_flights("weather", "2013-02-12", max_bad_rows=0)
    assert result.failure is not None
    assert "weather.csv:1011: wind_speed: '1048.36058' is above the maximum 200" in result.failure.message
    assert ingest_flights("weather", "2013-02-11").summary["rejected"] == 0
    result = ingest_flights("weather", "2013-01-01..2013-12-31", max_bad_rows=1)
    assert (result.summary["rows"], result.summary["rejected"]) == (26_114, 1)
    rows = published(result)
    assert rows.select(pl.struct("origin", "time_hour").n_unique()).item() == len(rows)


def test_a_flight_on_a_day_that_does_not_exist_belongs_to_no_partition() -> None:
    from flights.ingest import by_departure_day

    rows = pl.LazyFrame(
        {"year": [2013] * 3, "month": [2, 2, None], "day": [28, 30, 1], "carrier": ["UA"] * 3,
         "flight": [1, 2, 3], "origin": ["EWR"] * 3, "sched_dep_time": [515, 5, 1200]}
    )  # fmt: skip
    found = by_departure_day(rows).select("ds", "flight_id").collect().rows()
    assert found == [("2013-02-28", "2013-02-28-UA-1-EWR-0515"), (None, None), (None, None)]


def test_planes_are_one_whole_table(ingest_flights: Callable[..., StepResult]) -> None:
    rows = published(ingest_flights("planes"))
    assert len(rows) == rows["tailnum"].n_unique() == 3322
    assert rows["year"].null_count() == 70
