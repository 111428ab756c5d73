"""The shop, and the flights' own tables."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from shop_tables import Shop, orders, put_table, returns, visits

from airflow_ml_provider.contract.documents import StepResult


@pytest.fixture
def shop(store: str, user_code: Callable[..., str], run_step: Callable[..., StepResult]) -> Shop:
    """The shop with its three tables and its code."""
    made = Shop(store, user_code, run_step)
    made.code()
    made.put("orders", orders(), "ds")
    made.put("visits", visits())
    made.put("returns", returns())
    return made


@pytest.fixture(scope="session")
def flights_store(flights_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the tables flights, weather and planes, as the flights' ingest publishes them."""
    store = (tmp_path_factory.mktemp("flights") / "store").as_uri()
    with zipfile.ZipFile(flights_raw / "flights.csv.zip") as archive:
        flights = _csv(archive.read("flights.csv"))
    put_table(store, "flights", _by_day(flights), "ds")
    put_table(store, "weather", _by_day(_csv((flights_raw / "weather.csv").read_bytes())), "ds")
    put_table(store, "planes", _csv((flights_raw / "planes.csv").read_bytes()))
    return store


def _csv(content: bytes) -> pl.DataFrame:
    return pl.read_csv(content, null_values="NA", infer_schema_length=None)


def _by_day(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.col("time_hour").str.to_datetime(time_unit="us", time_zone="UTC"),
        ds=pl.date("year", "month", "day").cast(pl.String),
    )
