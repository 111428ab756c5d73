"""The flights' own suites: the real data passes, broken days do not."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from airflow_ml_provider.contract.documents import StepResult

RunStep = Callable[..., StepResult]


@pytest.fixture
def ingest(run_step: RunStep, flights_raw: Path) -> Callable[..., StepResult]:
    def run(table: str, days: str, source: Path | None = None) -> StepResult:
        file, transform = {
            "flights": ("flights.csv.zip", "by_departure_day"),
            "weather": ("weather.csv", "by_observation_day"),
        }[table]
        arguments = {
            "source": str(source or flights_raw / file),
            "schema": f"flights.schemas:{table.upper()}",
            "transform": f"flights.ingest:{transform}",
            "suite": f"flights.expectations:{table}",
            "partitions": days,
            "publish": {"name": table},
            "max_bad_rows": 10,
        }
        return run_step("ingest", arguments)

    return run


@pytest.mark.parametrize("table", ["flights", "weather"])
@pytest.mark.parametrize("days", ["2013-01-01..2013-12-31", "2013-02-08", "2013-03-10", "2013-11-03"])
def test_the_real_data_passes_whole_and_on_its_odd_days(
    ingest: Callable[..., StepResult], table: str, days: str
) -> None:
    """A snow storm, and the days on which the clocks are changed."""
    result = ingest(table, days)
    assert result.status == "success", result.failure


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origin": pl.lit("XXX")}, "expect_column_values_to_be_in_set(origin): "),
        ({"dep_delay": pl.col("dep_delay") * 60}, "expect_column_values_to_be_between(dep_delay): "),
        ({"tailnum": pl.lit(None, pl.String)}, "expect_column_values_to_not_be_null(tailnum): "),
    ],
)
def test_a_broken_day_fails_and_is_not_published(
    ingest: Callable[..., StepResult], flights_raw: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with zipfile.ZipFile(flights_raw / "flights.csv.zip") as archive:
        year = pl.read_csv(archive.read("flights.csv"), null_values="NA")
    day = year.filter(month=6, day=1)
    broken = tmp_path / "broken.csv"
    day.with_columns(**change).write_csv(broken, null_value="NA")
    result = ingest("flights", "2013-06-01", broken)
    assert result.failure is not None
    assert message in result.failure.message
    assert "which are not published" in result.failure.message
