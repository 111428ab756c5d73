"""Challengers beside the champion and models that share the keys, with a real MLflow."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable
from model_world import World, feature_rows
from predicting import prediction, without_time

from airflow_ml_provider.contract.assignment import variant_of
from airflow_ml_provider.contract.store import Store

DAY, NEXT = "2013-01-02", "2013-01-03"
SECOND = {"name": "delays", "version": 2}
FRAGILE = """
    import numpy as np
    import polars as pl
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    class Fragile(TransformerMixin, BaseEstimator):
        '''Fails on rows that were never seen in training: a distance below zero.'''
        def fit(self, X, y=None):
            self.feature_names_in_ = np.array(X.columns, dtype=object)
            return self
        def transform(self, X):
            if (np.asarray(X) < 0).any():
                raise ValueError("a distance below zero")
            return X

    def train(rows: pl.DataFrame, label):
        model = make_pipeline(Fragile(), LogisticRegression())
        return model.fit(rows.select("distance").to_pandas(), rows[label])
"""
SPLIT = [
    {"name": "challenger", "share": 0.25, "model": SECOND},
    {"name": "champion", "share": 0.75, "model": {"name": "delays", "version": 1}},
]


def scores_by(world: World, version: int) -> dict[int, float]:
    table = f"alone_{version}"
    world.done("predict", prediction(table, version=version))
    rows = world.table(table)
    return dict(zip(rows["flight_id"], rows["score"], strict=True))


@pytest.fixture(scope="module")
def alone(world: World) -> dict[int, dict[int, float]]:
    """The scores of each version by itself."""
    return {version: scores_by(world, version) for version in (1, 2)}


def test_challengers_score_the_same_rows_and_the_champion_stays_what_it_was(
    world: World, alone: dict[int, dict[int, float]]
) -> None:
    result = world.done("predict", prediction("shadowed", version=1, challengers=[SECOND], batch_rows=150))
    rows = world.table("shadowed")
    assert DeltaTable(Store(world.store).table_uri("shadowed")).version() == result.table.version == 1
    assert rows["model_version"].unique().to_list() == [1]
    assert rows["score"].to_list() == [alone[1][key] for key in rows["flight_id"]]
    (shadow,) = zip(*rows["shadow"].to_list(), strict=True)
    run_id = world.client.get_model_version("delays", "2").run_id
    assert {(one["model_name"], one["model_version"], one["model_run_id"]) for one in shadow} == {
        ("delays", 2, run_id)
    }
    assert [one["score"] for one in shadow] == pytest.approx(
        [alone[2][key] for key in rows["flight_id"]], abs=1e-12
    )
    assert result.verdict["challengers"] == [{"name": "delays", "version": 2, "run_id": run_id}]
    assert (result.summary["challengers"], result.warnings) == ("delays/2", ())


def test_a_challenger_that_is_the_champion_is_left_out_without_a_word(world: World) -> None:
    result = world.done(
        "predict", prediction("itself", version=1, challengers=[{"name": "delays", "version": 1}])
    )
    assert world.table("itself")["shadow"].to_list() == [[]] * 800
    assert (result.warnings, result.summary["challengers"]) == ((), "none")


def test_a_challenger_beside_a_champion_of_empty_partitions_has_not_failed(world: World) -> None:
    each = [{"model": {"name": "delays", "version": 1}, "partitions": "2012-12-31"},
            {"model": SECOND, "partitions": DAY}]  # fmt: skip
    arguments = prediction("gaps", f"2012-12-31,{DAY}", by_partition=each, challengers=[SECOND])
    result = world.done("predict", arguments)
    assert world.table("gaps")["model_version"].unique().to_list() == [2]
    assert (result.warnings, (result.verdict or {})["left_out"]) == ((), {})


def test_a_challenger_that_is_not_there_is_left_out_with_a_warning(world: World) -> None:
    asked = [{"name": "delays", "alias": "contender"}, {"name": "delays", "version": 99}]
    result = world.done("predict", prediction("absent", DAY, version=1, challengers=asked))
    assert world.table("absent")["shadow"].to_list() == [[]] * 200
    assert [warning.partition(":")[0] for warning in result.warnings] == [
        "challenger delays@contender is left out", "challenger delays/99 is left out"
    ]  # fmt: skip


def test_a_challenger_trained_on_other_features_is_left_out_with_a_warning(world: World) -> None:
    world.publish(feature_rows(), table="rows_of_others", feature_hash="beef" * 16)
    world.train("other_delays", arguments={"table": {"name": "rows_of_others"}})
    asked = [{"name": "other_delays", "version": 1}, SECOND]
    result = world.done("predict", prediction("mixed", DAY, version=1, challengers=asked))
    (warning,) = result.warnings
    assert "challenger other_delays/1 is left out" in warning
    assert "trained on beefbeefbeef" in warning
    assert {len(found) for found in world.table("mixed")["shadow"].to_list()} == {1}


def test_a_challenger_that_fails_on_a_late_row_costs_the_champion_nothing(
    world: World, alone: dict[int, dict[int, float]]
) -> None:
    world.write("fragile", FRAGILE)
    world.train("fragile_delays", "fragile:train", arguments={"trusted_types": ["fragile.Fragile"]})
    rows = feature_rows(labels=False)
    last = pl.int_range(pl.len()) == rows.height - 1
    world.publish(
        rows.with_columns(distance=pl.when(last).then(-1.0).otherwise("distance")), table="below_zero"
    )
    arguments = prediction(
        "robust", table={"name": "below_zero"}, version=1, batch_rows=100,
        challengers=[{"name": "fragile_delays", "version": 1}, SECOND],
    )  # fmt: skip
    result = world.done("predict", arguments, step_key="robust", fingerprint="f")
    (warning,) = result.warnings
    assert "challenger fragile_delays/1 is left out" in warning
    assert "a distance below zero" in warning
    published = world.table("robust")
    assert published.height == 800
    kept = published.filter(pl.col("flight_id") != rows["flight_id"][-1])
    assert kept["score"].to_list() == [alone[1][key] for key in kept["flight_id"]]
    assert {tuple(one["model_name"] for one in found) for found in published["shadow"].to_list()} == {
        ("delays",)
    }
    again = world.done("predict", arguments, step_key="robust again", fingerprint="f")
    assert not again.table.changed
    assert "fragile_delays/1 is left out: it had failed when" in again.warnings[0]
    assert [one["name"] for one in again.verdict["challengers"]] == ["delays"]


def test_a_challenger_that_refuses_a_value_is_left_out_with_a_warning(world: World) -> None:
    world.train("choosy_delays", arguments={"known_values": ["origin"]})
    moved = pl.when(pl.col("flight_id") == 7).then(pl.lit("SWF")).otherwise("origin")
    world.publish(feature_rows(labels=False).with_columns(origin=moved), table="from_elsewhere")
    arguments = prediction(
        "choosy",
        table={"name": "from_elsewhere"},
        version=1,
        challengers=[{"name": "choosy_delays", "version": 1}],
    )
    result = world.done("predict", arguments)
    assert result.metrics["rows"] == 800
    assert "challenger choosy_delays/1 is left out" in result.warnings[0]
    assert "SWF" in result.warnings[0]


def test_a_champion_that_fails_fails_the_step_whatever_the_challengers_do(world: World) -> None:
    rows = feature_rows(labels=False).with_columns(night=pl.lit(float("inf")))
    world.publish(rows, table="endless")
    failure = world.run(
        "predict", prediction("never_shadowed", table={"name": "endless"}, version=1, challengers=[SECOND])
    ).failure
    assert failure is not None
    assert failure.kind == "user"
    assert "model delays/1" in failure.message
    assert not DeltaTable.is_deltatable(Store(world.store).table_uri("never_shadowed"))


def test_columns_come_and_go_and_old_partitions_read_as_null(world: World) -> None:
    split: dict[str, Any] = {"split": SPLIT, "salt": "s"}
    world.done("predict", prediction("changing", "2013-01-01", version=1))
    world.done("predict", prediction("changing", DAY, version=1, challengers=[SECOND]))
    world.done("predict", prediction("changing", NEXT, explain=2, **split))
    world.done("predict", prediction("changing", "2013-01-04", version=1))
    rows = world.table("changing")
    assert rows.height == 800
    known = rows.group_by("ds").agg(pl.col("shadow", "variant", "contributions").count()).sort("ds")
    assert known.rows() == [
        ("2013-01-01", 0, 0, 0), (DAY, 200, 0, 0), (NEXT, 0, 200, 200), ("2013-01-04", 0, 0, 0)
    ]  # fmt: skip
    world.done("predict", prediction("changing", DAY, version=1))
    assert world.table("changing").filter(pl.col("ds") == DAY)["shadow"].null_count() == 200
    assert world.table("changing").height == 800


def test_each_key_of_a_split_is_scored_by_its_own_model_and_says_so(
    world: World, alone: dict[int, dict[int, float]]
) -> None:
    result = world.done("predict", prediction("split", split=SPLIT, salt="exp1", batch_rows=333))
    rows = world.table("split")
    shares = {"champion": 0.75, "challenger": 0.25}
    wanted = [variant_of(str(key), shares, "exp1") for key in rows["flight_id"]]
    assert rows["variant"].to_list() == wanted
    version = {"champion": 1, "challenger": 2}
    assert rows["model_version"].to_list() == [version[name] for name in wanted]
    assert rows["score"].to_list() == pytest.approx(
        [alone[version[name]][key] for name, key in zip(wanted, rows["flight_id"], strict=True)], abs=1e-12
    )
    assert set(rows["model_selection"]) == {"champion 75 % of keys", "challenger 25 % of keys"}
    assert {one["variant"]: one["rows"] for one in result.verdict["models"]} == {
        name: wanted.count(name) for name in shares
    }
    assert result.verdict["salt"] == "exp1"


def test_a_split_is_the_same_for_rows_in_another_order_and_batches_of_another_size(world: World) -> None:
    world.publish(feature_rows(labels=False).sample(fraction=1, shuffle=True, seed=3), table="shuffled")
    world.done("predict", prediction("split_one_way", split=SPLIT, salt="exp1"))
    other = prediction("split_other_way", table={"name": "shuffled"}, split=SPLIT, salt="exp1", batch_rows=64)
    world.done("predict", other)
    first, second = (
        without_time(world.table(name)).select("flight_id", "variant", "model_version", "model_selection")
        for name in ("split_one_way", "split_other_way")
    )
    assert first.equals(second)


def test_challengers_score_every_row_of_a_split(world: World) -> None:
    world.done("predict", prediction("split_shadowed", DAY, split=SPLIT, challengers=[SECOND]))
    rows = world.table("split_shadowed")
    assert {found[0]["model_version"] for found in rows["shadow"].to_list()} == {2}
    own = rows.filter(pl.col("variant") == "challenger")
    assert own["score"].to_list() == pytest.approx(
        [found[0]["score"] for found in own["shadow"].to_list()], abs=1e-12
    )


def test_the_features_that_moved_a_score_stand_beside_it(world: World) -> None:
    result = world.done("predict", prediction("explained", DAY, version=2, explain=2))
    rows = world.table("explained")
    assert {len(found) for found in rows["contributions"].to_list()} == {2}
    named = {one["feature"] for found in rows["contributions"].to_list() for one in found}
    assert named <= {"distance", "night", "weather__temp", "origin"}
    assert result.warnings == ()
