"""Predictions in shards: the same rows for any number of them, published at once, and each done once."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from model_world import World
from predicting import prediction, without_time

from airflow_ml_provider.contract.documents import StepSpec, read_spec
from airflow_ml_provider.contract.shards import ShardResult, Shards
from airflow_ml_provider.contract.store import Store, local_path
from airflow_ml_provider.steps import runner, shard_files, sharding


def shards_of(world: World, spec: StepSpec) -> Shards:
    return Shards(Store(world.store), spec, spec.arguments["shards"])


def cut(world: World, publish: str, partitions: str = "", shards: int = 2) -> StepSpec:
    """A spec as the step's process reads it."""
    spec = world.spec("predict", prediction(publish, partitions, shards=shards))
    return read_spec(spec.encode(), source="the test")


def versions(world: World, table: str) -> int:
    return DeltaTable(Store(world.store).table_uri(table)).version()


def test_the_rows_are_the_same_for_any_number_of_shards_and_published_in_one_commit(world: World) -> None:
    world.done("predict", prediction("whole"))
    result = world.done("predict", prediction("cut", shards=3, parallelism=2))
    assert without_time(world.table("cut")).equals(without_time(world.table("whole")))
    assert result.table.rows == result.metrics["rows"] == 800
    # One prediction is made at one time, whenever its shards ran.
    assert world.table("cut")["predicted_at"].n_unique() == 1
    # Its creation, and the publication.
    assert versions(world, "cut") == 1


def test_parts_as_a_job_runs_them_are_put_together_by_the_step(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = cut(world, "by_job", "2013-01-01..2013-01-03")
    assert sharding.write_plan(spec) == 0
    shards = shards_of(world, spec)
    plan = shards.plan()
    assert plan is not None
    assert [len(shard["files"]) for shard in plan.shards] == [2, 1]
    # The first index of a Job that was made when only the second shard was pending.
    name = shards.keep_pending([1])
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    monkeypatch.setenv("AIRFLOW_ML_FLEET_PLAN", name)
    part = sharding.wanted(Namespace(plan=False, index=None))
    assert part is not None
    assert part(spec) == 0
    assert shards.pending(plan) == [0]
    assert not (local_path(world.store) / "tables/by_job/_delta_log").exists(), "nothing is visible"
    assert sharding.run_one(spec, 0) == 0
    result = runner.run_step(spec)
    assert result.status == "success"
    assert result.table is not None
    assert result.table.rows == 600 == world.table("by_job").height


def test_a_shard_that_is_done_is_not_done_again(world: World) -> None:
    spec = cut(world, "once")
    assert sharding.run_one(spec, 1) == 0
    shards = shards_of(world, spec)
    before = shards.result(1)
    assert runner.run_step(spec).status == "success"
    assert shards.plan() is None, "what was kept for the publication is removed"
    files = pa.table(DeltaTable(Store(world.store).table_uri("once")).get_add_actions(flatten=True))
    assert before is not None
    assert before.given is not None
    assert {file["path"] for file in before.given["files"]} < set(files["path"].to_pylist())


def test_partitions_that_somebody_else_replaced_since_are_predicted_again(world: World) -> None:
    spec = cut(world, "replaced_since")
    for number in range(2):
        assert sharding.run_one(spec, number) == 0
    assert runner.run_step(spec).status == "success"
    before = world.table("replaced_since")
    world.done("predict", prediction("replaced_since", "2013-01-02", version=2))
    for number in range(2):
        assert sharding.run_one(spec, number) == 0
    assert runner.run_step(spec).status == "success"
    assert without_time(world.table("replaced_since")).equals(without_time(before))


def test_a_failed_shard_fails_the_step_with_its_reason_and_keeps_the_others(world: World) -> None:
    spec = cut(world, "broken")
    assert sharding.run_one(spec, 0) == 0
    # The model of the second shard is gone from the registry when it is looked for.
    gone = msgspec.structs.replace(
        spec, arguments={**spec.arguments, "model": {"name": "delays", "version": 99}}
    )
    assert sharding.run_one(gone, 1) != 0
    shards = shards_of(world, spec)
    plan = shards.plan()
    assert plan is not None
    assert shards.pending(plan) == [1]
    error = shards.error([1], 2)
    assert error.kind == "data"
    assert "shard 1 of 2 failed" in str(error)
    assert "there is no model delays/99" in str(error)
    assert "1 of 2 shards are done" in str(error)
    # The next try does it again, with the spec as it should be.
    assert sharding.run_one(spec, 1) == 0
    assert runner.run_step(spec).status == "success"
    assert world.table("broken").height == 800


def test_shards_of_two_models_are_never_published_together(world: World) -> None:
    spec = cut(world, "torn")
    assert sharding.run_one(spec, 0) == 0
    shards = shards_of(world, spec)
    done = shards.result(0)
    assert done is not None
    assert done.given is not None
    shards.keep(ShardResult(0, {**done.given, "models": [": delays/7 elsewhere"]}))
    assert sharding.run_one(spec, 1) == 0
    result = runner.run_step(spec)
    assert result.failure is not None
    assert "an alias was moved meanwhile" in result.failure.message
    assert not (local_path(world.store) / "tables/torn/_delta_log").exists()
    assert sharding.run_one(spec, 0) == 0, "the shard is scored again"
    assert runner.run_step(spec).status == "success"


def test_files_that_were_swept_away_are_written_again(world: World) -> None:
    spec = cut(world, "swept")
    assert sharding.run_one(spec, 0) == 0
    done = shards_of(world, spec).result(0)
    assert done is not None
    assert done.given is not None
    (local_path(world.store) / "tables/swept" / done.given["files"][0]["path"]).unlink()
    assert sharding.run_one(spec, 1) == 0
    result = runner.run_step(spec)
    assert result.failure is not None
    assert result.failure.kind == "infrastructure"
    assert "shards 0 had written" in result.failure.message
    assert sharding.run_one(spec, 0) == 0
    assert runner.run_step(spec).status == "success"
    assert world.table("swept").height == 800


def test_a_step_in_shards_without_rows_is_skipped(world: World) -> None:
    result = world.run("predict", prediction("nothing", "2014-01-01", shards=4))
    assert result.status == "skipped"


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 100])
def test_files_are_cut_into_runs_of_about_the_same_size(shards: int) -> None:
    sizes = {f"{number:03}": 1 + (number * 37) % 50 for number in range(40)}
    runs = shard_files.cut(sizes, shards)
    assert [path for run in runs for path in run] == list(sizes)
    assert len(runs) <= shards
    assert all(runs)
    fair = sum(sizes.values()) / shards
    assert max(sum(sizes[path] for path in run) for run in runs) <= fair + max(sizes.values())


def test_one_large_file_is_one_shard() -> None:
    sizes: dict[str, Any] = {"a": 0, "b": 10**9, "c": 0}
    assert [path for run in shard_files.cut(sizes, 5) for path in run] == ["a", "b", "c"]
