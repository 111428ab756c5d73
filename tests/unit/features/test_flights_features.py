"""The flights' features on the real data: good enough, equal in training and prediction, without a leak."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import lightgbm
import numpy as np
import polars as pl
import pytest
from shop_tables import put_table
from sklearn.metrics import roc_auc_score

from airflow_ml_provider.contract.documents import Code, StepResult, StepSpec, read_spec
from airflow_ml_provider.contract.store import Store, local_path
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps.pinned_tables import open_table
from airflow_ml_provider.steps.runner import run_step as run_spec

DAGS = Path(__file__).parents[3] / "dags"
LEAKS = """
    from dataclasses import replace

    from airflow_ml_provider import FeatureView
    from flights.features import DEPARTED, FLIGHT_ID, LATE_ARRIVAL, SCHEDULED
    from flights.features import flights_as_known, pl, schedule, trailing


    def with_delay(flights: pl.LazyFrame) -> pl.LazyFrame:
        departures = flights.select(FLIGHT_ID, "dep_delay", departed_at=DEPARTED)
        return schedule(flights).join(departures, on="flight_id")


    def rates_by_schedule(flights: pl.LazyFrame) -> pl.LazyFrame:
        return trailing(flights.with_columns(known_at=SCHEDULED), ("carrier",), "arr_delay", ("1d",))


    SMALL = replace(LATE_ARRIVAL, views=(), as_known={})
    DELAY = replace(SMALL, rows=with_delay, row_features=(*SMALL.row_features, "dep_delay"))
    PROVED = replace(DELAY, row_known_at="departed_at")
    REPLAYED = replace(DELAY, as_known={"flights": flights_as_known})
    IN_THE_AIR = replace(SMALL, as_known={"flights": flights_as_known}, views=(FeatureView(
        "carrier", rates_by_schedule, by=("carrier",), event_time="known_at", knowledge_time="known_at",
        features=("late_1d",)),))
"""


def spec_of(store: str, partitions: str, publish: str, *, labels: bool) -> StepSpec:
    arguments = {
        "features": "flights.features:LATE_ARRIVAL",
        "tables": [{"name": name} for name in ("flights", "weather", "planes")],
        "publish": {"name": publish},
        "partitions": partitions,
        "labels": labels,
    }
    return StepSpec("features", store, arguments, code=Code(roots=(str(DAGS),)))


def build(store: str, partitions: str, publish: str, *, labels: bool) -> tuple[StepResult, pl.DataFrame]:
    spec = spec_of(store, partitions, publish, labels=labels)
    result = run_spec(read_spec(spec.encode(), source="the test"))
    assert result.failure is None, result.failure
    return result, rows_of(store, publish)


def rows_of(store: str, table: str) -> pl.DataFrame:
    return open_table(Store(store), Table(table)).lazy().sort("flight_id").collect()


def features_of(store: str, table: str) -> list[str]:
    (document,) = (local_path(store) / "tables" / table / "_ml").glob("features-*.json")
    return list(json.loads(document.read_text())["features"])


@pytest.fixture(scope="module")
def half_year(flights_store: str) -> tuple[StepResult, pl.DataFrame]:
    """The rows of January to June, with labels."""
    return build(flights_store, "2013-01-01..2013-06-30", "flights_training", labels=True)


def test_no_honest_feature_is_warned_of_and_the_replay_finds_nothing(
    half_year: tuple[StepResult, pl.DataFrame],
) -> None:
    result, rows = half_year
    assert result.warnings == ()
    assert "600 rows replayed from what was known then, all the same" in result.summary["proof"]
    assert result.summary["rows without a known label, left out"] == 5480
    assert rows.height == 166_158 - 5480


def test_the_rows_of_half_a_year_are_the_ones_that_they_have_always_been(
    half_year: tuple[StepResult, pl.DataFrame],
) -> None:
    rows = half_year[1].drop("feature_hash")
    assert hashlib.sha256(rows.write_ndjson().encode()).hexdigest()[:16] == "4a7e56e49cde2641"


def test_a_model_of_january_to_april_reaches_an_honest_auc_of_0_75_in_may_and_june(
    half_year: tuple[StepResult, pl.DataFrame], flights_store: str
) -> None:
    features, month = features_of(flights_store, "flights_training"), pl.col("ds").str.slice(5, 2)
    rows = half_year[1].with_columns(pl.col(features).cast(pl.Float32))

    def of(*months: str) -> tuple[np.ndarray, np.ndarray]:
        chosen = rows.filter(month.is_in(months))
        return chosen.select(features).to_numpy(), chosen["late"].to_numpy()

    settings = {"objective": "binary", "num_leaves": 63, "learning_rate": 0.08, "verbose": -1, "seed": 1,
                "deterministic": True, "force_row_wise": True, "num_threads": 1}  # fmt: skip
    model = lightgbm.train(settings, lightgbm.Dataset(*of("01", "02", "03", "04")), num_boost_round=100)
    aucs = {
        name: roc_auc_score(late, model.predict(x, num_threads=1))
        for name in ("05", "06")
        for x, late in [of(name)]
    }
    assert min(aucs.values()) >= 0.76, aucs
    assert max(aucs.values()) < 0.80, f"too good to be honest: {aucs}"


def test_a_day_built_to_predict_equals_the_same_day_built_to_train(
    half_year: tuple[StepResult, pl.DataFrame], flights_store: str
) -> None:
    _, day = build(flights_store, "2013-06-10", "flights_to_predict", labels=False)
    trained = half_year[1].filter(pl.col("ds") == "2013-06-10")
    same = day.join(trained.select("flight_id"), on="flight_id", how="semi").sort("flight_id")
    assert trained.height > 900
    assert day.height > trained.height
    assert same.equals(trained.select(day.columns))


def test_a_day_comes_out_the_same_on_one_thread(flights_store: str, tmp_path: Path) -> None:
    _, day = build(flights_store, "2013-06-11", "flights_two_threads", labels=False)
    path = tmp_path / "spec.json"
    path.write_bytes(spec_of(flights_store, "2013-06-11", "flights_one_thread", labels=False).encode())
    command = [sys.executable, "-m", "airflow_ml_provider.steps", "features", "--spec", str(path)]
    subprocess.run(command, env={**os.environ, "POLARS_MAX_THREADS": "1"}, check=True)
    assert rows_of(flights_store, "flights_one_thread").equals(day)


def test_features_of_a_morning_are_the_same_when_the_afternoon_has_not_happened(
    half_year: tuple[StepResult, pl.DataFrame], flights_store: str, tmp_path: Path
) -> None:
    midday = datetime(2013, 3, 15, 16, tzinfo=UTC)
    morning = (tmp_path / "store").as_uri()
    flights, weather = (
        open_table(Store(flights_store), Table(name)).lazy() for name in ("flights", "weather")
    )
    departed = pl.col("time_hour") + pl.duration(minutes=pl.col("minute") + pl.col("dep_delay"))
    landed = departed + pl.duration(minutes=pl.col("air_time") + 120)
    outcomes = {
        "dep_time": departed,
        "dep_delay": departed,
        "arr_time": landed,
        "arr_delay": landed,
        "air_time": landed,
    }
    cut = flights.with_columns(
        pl.when(known <= midday).then(column).alias(column) for column, known in outcomes.items()
    )
    put_table(morning, "flights", cut.collect(), "ds")
    put_table(
        morning, "weather", weather.filter(pl.col("time_hour") <= midday.replace(hour=15)).collect(), "ds"
    )
    put_table(morning, "planes", open_table(Store(flights_store), Table("planes")).lazy().collect())

    _, day = build(morning, "2013-03-15", "flights_to_predict", labels=False)
    day = day.filter(pl.col("predict_at") <= midday)
    with_labels = half_year[1].join(day.select("flight_id"), on="flight_id", how="semi").sort("flight_id")
    same = day.join(with_labels.select("flight_id"), on="flight_id", how="semi").sort("flight_id")
    assert same.height > 400
    assert same.filter(pl.col("predict_at") > midday.replace(hour=15)).height > 20
    assert same.equals(with_labels.select(day.columns))


@pytest.fixture
def leak(
    user_code: Callable[..., str], run_step: Callable[..., StepResult], flights_store: str
) -> Callable[[str], StepResult]:
    """Builds February with a set of the module of leaks."""
    user_code(leaks=LEAKS)

    def built(name: str) -> StepResult:
        arguments = {
            "features": f"leaks:{name}",
            "tables": [{"name": "flights"}],
            "publish": {"name": f"leak_{name.lower()}"},
            "partitions": "2013-02-01..2013-02-28",
        }
        return run_step("features", arguments, store_uri=flights_store)

    return built


def test_the_flights_own_departure_delay_is_warned_of(leak: Callable[[str], StepResult]) -> None:
    (warning,) = leak("DELAY").warnings
    assert warning.startswith("feature 'dep_delay' by itself predicts the label with an AUC of 0.89")


def test_the_flights_own_departure_delay_fails_where_the_rows_say_when_they_are_known(
    leak: Callable[[str], StepResult],
) -> None:
    failure = leak("PROVED").failure
    assert failure is not None
    assert "'dep_delay' is not known when it is used" in failure.message
    assert "and the value has 'departed_at' 2013-02-" in failure.message


def test_the_flights_own_departure_delay_fails_the_replay(leak: Callable[[str], StepResult]) -> None:
    failure = leak("REPLAYED").failure
    assert failure is not None
    assert "feature 'dep_delay' uses what was not known yet" in failure.message


def test_a_trailing_rate_over_the_schedule_holds_flights_in_the_air_and_fails_the_replay(
    leak: Callable[[str], StepResult],
) -> None:
    failure = leak("IN_THE_AIR").failure
    assert failure is not None
    assert "feature 'carrier__late_1d' uses what was not known yet" in failure.message
