"""The flights' behavioural tests, on a model of two weeks of real flights and on models that misbehave."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from deltalake import write_deltalake
from gate_examples import GATES
from model_world import World

from airflow_ml_provider.contract.documents import Code, StepSpec
from airflow_ml_provider.contract.store import Store

DAGS = Path(__file__).parents[3] / "dags"
TRAINING, EVALUATION = "2013-01-01..2013-01-14", "2013-01-15..2013-01-16"
HARMLESS = {"test_neither_the_order_nor_the_company_of_flights_matters", "test_one_flight_is_scored_quickly"}


class Flights(World):
    """The flights' world: their own code, and rows of the year's first weeks."""

    def spec(self, verb: str, arguments: dict[str, Any], **fields: Any) -> StepSpec:
        code = Code(roots=(str(DAGS), str(self.code)))
        return msgspec.structs.replace(super().spec(verb, arguments, **fields), code=code)


def csv(content: bytes) -> pl.DataFrame:
    return pl.read_csv(content, null_values="NA", infer_schema_length=None)


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str, flights_raw: Path) -> Flights:
    """Version 1 of ``flights_behave`` is trained with known carriers, version 2 without."""
    world = Flights.at(tmp_path_factory.mktemp("flights_behave"), mlflow_uri)
    with zipfile.ZipFile(flights_raw / "flights.csv.zip") as archive:
        raw = {"flights": csv(archive.read("flights.csv"))}
    raw |= {name: csv((flights_raw / f"{name}.csv").read_bytes()) for name in ("weather", "planes")}
    for name, frame in raw.items():
        by_day = name != "planes"
        if by_day:
            frame = frame.with_columns(
                pl.col("time_hour").str.to_datetime(time_unit="us", time_zone="UTC"),
                ds=pl.date("year", "month", "day").cast(pl.String),
            ).filter(pl.col("ds") < "2013-01-18")
        uri = Store(world.store).table_uri(name)
        arrow = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        write_deltalake(uri, arrow, partition_by=["ds"] if by_day else None)
    features = {
        "features": "flights.features:LATE_ARRIVAL",
        "tables": [{"name": name} for name in raw],
        "publish": {"name": "rows", "partition_by": "ds"},
        "partitions": "2013-01-01..2013-01-16",
    }
    world.done("features", features)
    for known in (["carrier"], []):
        training = {
            "function": "flights.model:train",
            "table": {"name": "rows"},
            "model": {"name": "flights_behave"},
            "partitions": TRAINING,
            "params": {"rounds": 60},
            "known_values": known,
        }
        world.done("train", training, seed=2013)
    return world


def verdict_on(flights: Flights, version: int, **more: Any) -> dict[str, Any]:
    arguments = {
        "candidate": {"name": "flights_behave", "version": version},
        "table": {"name": "rows"},
        "partitions": EVALUATION,
        "gates": [{"metric": "roc_auc", "at_least": 0.6}],
        "slices": ["origin", "carrier"],
        "resamples": 50,
        "behaviour": "flights.behaviour",
        **more,
    }
    return flights.done("evaluate", arguments).verdict or {}


def test_the_model_of_real_flights_behaves(flights: Flights) -> None:
    verdict = verdict_on(flights, 1)
    lines = verdict["behaviour"]
    assert [line for line in lines if not line["passed"]] == []
    assert len(lines) == 6
    assert lines[0]["text"] == "More wind does not lower the risk"
    assert verdict["decision"] == "promote"


def test_a_model_trained_without_known_carriers_is_rejected_for_its_behaviour_alone(flights: Flights) -> None:
    verdict = verdict_on(flights, 2)
    assert all(gate["passed"] for gate in verdict["gates"])
    failed = [line for line in verdict["behaviour"] if not line["passed"]]
    assert [line["test"] for line in failed] == ["test_a_carrier_in_lower_case_is_refused"]
    assert 'train with known_values=("carrier",)' in failed[0]["message"]
    assert verdict["decision"] == "reject"


def test_the_documented_gates_say_what_they_should_of_two_equal_models(flights: Flights) -> None:
    gates = [msgspec.to_builtins(gate) for gate in GATES]
    champion = {"name": "flights_behave", "version": 2}
    verdict = verdict_on(flights, 1, champion=champion, gates=gates, behaviour="")
    assert [gate["gate"] for gate in verdict["gates"] if not gate["passed"]] == [
        "average_precision better than the champion"
    ]
    hauls = [rule["value"] for rule in verdict["gates"][4]["rules"]]
    assert sorted(hauls) == ["long", "medium", "short"]
    assert verdict["measured"].keys() == {"milliseconds_per_1000_rows", "model_megabytes"}
    assert verdict["decision"] == "reject"


class Oddity:
    """A model that does everything wrong: the more wind, the less risk, and it fails without weather."""

    features = ("weather__wind_speed",)

    def score(self, rows: pl.DataFrame) -> np.ndarray:
        speed = rows["weather__wind_speed"]
        if speed.null_count():
            return np.full(rows.height, np.nan)
        return 1 / (1 + np.exp(speed.to_numpy() / 10))


def test_the_tests_fail_for_a_model_that_does_everything_wrong(flights: Flights) -> None:
    from flights import behaviour

    rows = flights.table("rows").head(300).drop_nulls("weather__wind_speed")
    tests = {name: test for name, test in vars(behaviour).items() if name.startswith("test_")}
    failed = set()
    for name, test in tests.items():
        try:
            test(Oddity(), rows)
        except AssertionError:
            failed.add(name)
    assert failed == set(tests) - HARMLESS
