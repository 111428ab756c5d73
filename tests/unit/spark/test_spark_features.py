"""Features on Spark: the same rows as on one machine, from the same tables, proved by the same proof."""

from __future__ import annotations

import zipfile
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from both_engines import Engines, tables
from polars.testing import assert_frame_equal

from airflow_ml_provider.contract.store import Store, local_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_are_equal_to_those_of_one_machine(engines: Engines, seed: int) -> None:
    engines.put_all(seed)
    here, there = engines.built("here"), engines.built("there")
    assert_frame_equal(engines.rows("there"), engines.rows("here"), check_exact=True)
    assert there.metrics == here.metrics
    assert {**there.summary, "feature definition": ""} == {**here.summary, "feature definition": ""}
    assert there.warnings == here.warnings
    assert not list(Store(engines.store).paths("aside"))


def test_partitions_are_replaced_exactly_and_what_is_published_is_not_built_again(engines: Engines) -> None:
    found = tables(2, orders=40, visits=60)
    for name, frame in found.items():
        engines.put(name, frame, "ds" if name == "orders" else None)
    keys = {"fingerprint": "same", "step_key": "same"}
    first = engines.built("there", labels=False, **keys)
    before = engines.rows("there")
    again = engines.built("there", labels=False, **keys)
    assert first.table is not None
    assert again.table is not None
    assert (again.table.version, again.table.changed) == (first.table.version, False)
    engines.put("orders", found["orders"].with_columns(amount=pl.lit(0.5)), "ds")
    second = engines.built("there", labels=False, partitions="2013-06-02")
    assert second.table is not None
    assert second.table.version == first.table.version + 1
    expected = before.with_columns(amount=pl.when(pl.col("ds") == "2013-06-02").then(0.5).otherwise("amount"))
    assert_frame_equal(engines.rows("there"), expected, check_exact=True)


def test_rows_known_after_their_prediction_fail_the_proof_and_publish_nothing(engines: Engines) -> None:
    found = tables(3, orders=40, visits=60)
    late = found["orders"].with_columns(entered_at=pl.col("ordered_at") + timedelta(microseconds=1))
    for name, frame in {**found, "orders": late}.items():
        engines.put(name, frame, "ds" if name == "orders" else None)
    here, there = (engines.build(module, labels=False) for module in ("here", "there"))
    assert there.failure is not None
    assert here.failure is not None
    assert (there.failure.kind, there.failure.message) == (here.failure.kind, here.failure.message)
    assert "is not known when it is used" in there.failure.message
    assert not (local_path(engines.store) / "tables" / "rows_there").exists()


def test_a_function_that_reads_ahead_fails_the_replay_and_an_honest_one_passes(engines: Engines) -> None:
    found = tables(4, orders=60, visits=120)
    for name, frame in found.items():
        engines.put(name, frame, "ds" if name == "orders" else None)
    honest = engines.built("there", "REPLAYED")
    assert "rows replayed from what was known then, all the same" in honest.summary["proof"]
    ahead = """
    def visited(visits: DataFrame) -> DataFrame:
        return visits.crossJoin(visits.agg(F.avg("pages").alias("mean"))).withColumn("long", F.col("mean") > 3) \\
            .withColumn("pages", F.col("mean"))
    """
    engines.code(on_spark=ahead)
    result = engines.build("there", "REPLAYED", publish={"name": "leaky"})
    assert result.failure is not None
    assert result.failure.kind == "data"
    assert "uses what was not known yet" in result.failure.message
    assert not (local_path(engines.store) / "tables" / "leaky").exists()


def test_what_the_users_function_raises_in_an_executor_is_the_users_error(engines: Engines) -> None:
    for name, frame in tables(5, orders=10, visits=10).items():
        engines.put(name, frame, "ds" if name == "orders" else None)
    failing = """
    from pyspark.sql.types import BooleanType

    @F.udf(BooleanType())
    def broken(pages):
        raise ValueError(f"no such page: {pages}")

    def visited(visits: DataFrame) -> DataFrame:
        return visits.withColumn("long", broken("pages"))
    """
    engines.code(on_spark=failing)
    result = engines.build("there", labels=False)
    assert result.failure is not None
    assert result.failure.kind == "user"
    assert "there:visited raised" in result.failure.message
    assert "no such page" in result.failure.message + result.failure.traceback
    assert not list(Store(engines.store).paths("aside"))


def test_keys_that_repeat_are_named_as_on_one_machine(engines: Engines) -> None:
    found = tables(6, orders=20, visits=10)
    twice = pl.concat([found["orders"], found["orders"].head(2)])
    for name, frame in {**found, "orders": twice}.items():
        engines.put(name, frame, "ds" if name == "orders" else None)
    here, there = (engines.build(module, labels=False) for module in ("here", "there"))
    assert there.failure is not None
    assert here.failure is not None
    assert there.failure.message.replace("there:", "here:") == here.failure.message


def test_the_flights_weather_is_the_same_on_both_engines(engines: Engines, flights_raw: Path) -> None:
    with zipfile.ZipFile(flights_raw / "flights.csv.zip") as archive:
        flights = _csv(archive.read("flights.csv"))
    weather = _csv((flights_raw / "weather.csv").read_bytes())
    numbered = _june(flights).with_row_index("flight_id").cast({"flight_id": pl.Int64})
    engines.put("flights", numbered, "ds")
    engines.put("weather", _june(weather))
    on_spark = (Path(__file__).parent / "weather_on_spark.py").read_text()
    declared = on_spark[on_spark.index("WEATHER =") :]
    here = """
import polars as pl
from airflow_ml_provider import FeatureSet, FeatureView

def flown(flights: pl.LazyFrame) -> pl.LazyFrame:
    two_hours_before = pl.col("time_hour") - pl.duration(hours=2)
    return flights.select("flight_id", "ds", "origin", "tailnum", "distance", at=two_hours_before)

def observed(weather: pl.LazyFrame) -> pl.LazyFrame:
    return weather.with_columns(told=pl.col("time_hour") + pl.duration(minutes=75))

def tail(flights: pl.LazyFrame) -> pl.LazyFrame:
    return flights.with_columns(landed=pl.col("time_hour") + pl.duration(hours=6))

"""
    engines.write_code(here=here + declared, there=on_spark)
    for module in ("here", "there"):
        engines.built(
            module,
            "FLIGHTS",
            tables=("flights", "weather"),
            labels=False,
            partitions="2013-06-02..2013-06-05",
        )
    one, other = (engines.rows(module, "flight_id") for module in ("here", "there"))
    assert one.height > 3_000
    assert one["weather__temp"].null_count() < one.height / 10
    assert_frame_equal(other, one, check_exact=True)


def _csv(content: bytes) -> pl.DataFrame:
    return pl.read_csv(content, null_values="NA", infer_schema_length=None)


def _june(frame: pl.DataFrame) -> pl.DataFrame:
    """The first week of June."""
    dated = frame.with_columns(
        pl.col("time_hour").str.to_datetime(time_unit="us", time_zone="UTC"),
        ds=pl.date("year", "month", "day").cast(pl.String),
    )
    return dated.filter(pl.col("ds").is_between(pl.lit("2013-06-01"), pl.lit("2013-06-07")))
