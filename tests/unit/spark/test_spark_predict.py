"""Predictions on Spark: the same as on one machine, from the same models and rows, published at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_world import World, feature_rows
from polars.testing import assert_frame_equal

from airflow_ml_provider.steps.spark_session import ENGINE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
DAYS = "2013-01-01..2013-01-04"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> World:
    """Version 1 of ``spark_delays`` is linear, of scikit-learn; version 2 is boosted, of LightGBM."""
    world = World.at(tmp_path_factory.mktemp("spark_predict"), mlflow_uri)
    world.publish(feature_rows())
    world.train("spark_delays", "linear")
    world.train("spark_delays", "boosted")
    world.publish(feature_rows(labels=False, seed=1), table="fresh")
    return world


def arguments(publish: str, version: int, **more: object) -> dict[str, object]:
    return {
        "model": {"name": "spark_delays", "version": version},
        "table": {"name": "fresh"},
        "publish": {"name": publish},
        "partitions": DAYS,
        **more,
    }


@pytest.mark.parametrize("version", [1, 2])
def test_predictions_are_equal_to_those_of_one_machine(
    world: World, spark: object, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    here = world.done("predict", arguments(f"here_{version}", version))
    monkeypatch.setenv(ENGINE, "spark")
    there = world.done("predict", arguments(f"there_{version}", version))
    one, other = (
        world.table(f"{name}_{version}").drop("predicted_at").sort("ds", "flight_id")
        for name in ("here", "there")
    )
    assert_frame_equal(other, one, check_exact=True)
    assert there.metrics == here.metrics
    assert there.verdict == here.verdict


def test_one_commit_replaces_the_asked_days_and_a_second_try_changes_nothing(
    world: World, spark: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE, "spark")
    keys = {"step_key": "spark-days", "fingerprint": "spark-days"}
    first = world.done("predict", arguments("spark_days", 1), **keys)
    again = world.done("predict", arguments("spark_days", 1), **keys)
    assert first.table is not None
    assert again.table is not None
    assert (again.table.version, again.table.changed) == (first.table.version, False)
    other = world.done("predict", arguments("spark_days", 2, partitions="2013-01-02"))
    assert other.table is not None
    assert other.table.version == first.table.version + 1
    versions = world.table("spark_days").group_by("ds").agg("model_version").sort("ds")
    assert [set(each) for each in versions["model_version"]] == [{1}, {2}, {1}, {1}]


def test_a_challenger_is_refused_by_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE, "spark")
    challengers = [{"name": "spark_delays", "version": 2}]
    result = world.run("predict", arguments("refused", 1, challengers=challengers))
    assert result.failure is not None
    assert result.failure.kind == "config"
    assert "challengers= cannot run on Spark" in result.failure.message
    assert not Path(world.store.removeprefix("file://"), "tables", "refused").exists()
