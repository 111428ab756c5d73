"""Monitor in shards: the same findings for any number of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from monitor_world import LABELS, TABLES, World, flights

from airflow_ml_provider.contract.documents import Code, StepSpec, Tracking, read_spec
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.contract.shards import Shards
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import runner, shard_files, sharding
from airflow_ml_provider.steps.pinned_tables import open_table

DAYS = "2013-06-01..2013-06-04"


@pytest.fixture
def spec_of(store: str, tmp_path: Path, mlflow_uri: str, user_code: Callable[..., str]) -> Any:
    """A spec of the step as its process reads it: ``spec_of(3, publish="findings")``."""
    user_code(labels=LABELS)

    def made(shards: int, *, publish: str = "findings", **arguments: Any) -> StepSpec:
        given = {
            "predictions": {"name": "predictions"}, "rows": {"name": "rows"}, "partitions": DAYS,
            "publish": {"name": publish}, "shards": shards, **arguments,
        }  # fmt: skip
        spec = StepSpec(
            verb="monitor",
            store=store,
            arguments=given,
            step_key=f"monitor-{publish}",
            # MLflow is shared: a run of the same step and fingerprint would be taken for an earlier try's.
            fingerprint=document_digest([store, publish, sorted(arguments)]),
            code=Code(roots=(str(tmp_path / "code"),)),
            tracking=Tracking(uri=mlflow_uri, experiment="tests"),
        )
        return read_spec(spec.encode(), source="the test")

    return made


def run_shards(spec: StepSpec) -> int:
    """Run all shards one after another, in this process; gives how many there are."""
    assert sharding.write_plan(spec) == 0
    shards = shards_of(spec)
    plan = shards.plan()
    assert plan is not None
    for number in shards.pending(plan):
        assert sharding.run_one(spec, number) == 0, shards.result(number)
    return len(plan.shards)


def shards_of(spec: StepSpec) -> Shards:
    return Shards(Store(spec.store), spec, spec.arguments["shards"])


def findings(spec: StepSpec, table: str) -> pl.DataFrame:
    return pl.read_delta(Store(spec.store).table_uri(table)).sort("ds", "is_score", "column")


def test_findings_are_the_same_for_any_number_of_shards(world: World, spec_of: Any) -> None:
    # Days of several files, one that drifted, one of another model.
    for day, moved in ((0, 0.0), (1, 1.0), (2, 0.0)):
        frame = flights(day, moved=moved)
        world.publish(frame[:130])
        world.publish(frame[130:])
    world.publish(flights(3), version=4, run_id=world.train())
    whole_spec = spec_of(1, publish="whole", **TABLES)
    whole = runner.run_step(whole_spec)
    assert whole.status == "success", whole.failure
    assert (whole.verdict or {})["drifted"]
    for shards, expected in ((2, 2), (5, 5), (100, 14)):
        spec = spec_of(shards, publish=f"cut{shards}", **TABLES)
        assert run_shards(spec) == expected
        result = runner.run_step(spec)
        assert result.status == "success", result.failure
        assert result.verdict == whole.verdict
        assert result.metrics == whole.metrics
        assert result.summary == whole.summary
        assert result.warnings == whole.warnings
        assert findings(spec, f"cut{shards}").equals(findings(spec, "whole"))


def test_a_step_in_shards_runs_them_over_processes_where_nobody_has(world: World, spec_of: Any) -> None:
    world.publish(flights(0))
    whole = runner.run_step(spec_of(1, publish="whole", partitions="2013-06-01"))
    spec = spec_of(2, partitions="2013-06-01", parallelism=2)
    result = runner.run_step(spec)
    assert result.status == "success", result.failure
    assert result.verdict == whole.verdict
    assert len((shards_of(spec).plan() or pytest.fail("no plan")).shards) == 2


def test_counts_of_tables_as_they_were_are_not_taken(world: World, spec_of: Any) -> None:
    world.publish(flights(0))
    spec = spec_of(2, partitions="2013-06-01")
    run_shards(spec)
    before = shards_of(spec).result(0)
    # The spec pins no version, and there are more rows since.
    world.publish(flights(0, rows=300))
    run_shards(spec)
    result = runner.run_step(spec)
    assert result.status == "success", result.failure
    assert result.metrics["rows"] == 700
    assert shards_of(spec).result(0) != before
    whole = runner.run_step(spec_of(1, publish="whole", partitions="2013-06-01"))
    assert result.verdict == whole.verdict


def test_counts_in_bins_of_another_reference_are_not_taken(world: World, spec_of: Any) -> None:
    world.publish(flights(0))
    run_id = world.train(score=False)
    world.publish(flights(1), run_id=run_id)
    spec = spec_of(2, partitions="2013-06-02")
    run_shards(spec)
    # The model is evaluated after the shards have counted: the score's reference is another one.
    moved = {**_profile(world, flights(5, moved=1.0)), "rows": 400}
    world.client.log_dict(run_id, moved, "score_profile.json")
    result = runner.run_step(spec)
    assert result.failure is not None
    assert result.failure.kind == "infrastructure"
    assert "counted into bins that are no longer the reference's" in result.failure.message
    run_shards(spec)
    again = runner.run_step(spec)
    assert again.status == "success", again.failure and again.failure.message


def test_a_shard_reads_its_files_only(world: World, spec_of: Any) -> None:
    world.publish(flights(0))
    world.publish(flights(1))
    spec = spec_of(2, partitions="2013-06-01..2013-06-02")
    run_shards(spec)
    plan = shards_of(spec).plan()
    assert plan is not None
    planned = [path for shard in plan.shards for part in shard["parts"] for path in part["rows"]]
    table = open_table(Store(spec.store), Table("rows"))
    assert sorted(planned) == sorted(table.sizes(parse_partitions("2013-06-01..2013-06-02")))
    counted = []
    for number in range(2):
        result = shards_of(spec).result(number)
        assert result is not None
        assert result.given is not None
        counted += [
            sum(columns["delay"]) for part in result.given["parts"] for columns in part["rows"].values()
        ]
    assert sorted(counted) == [400, 400]


def test_a_step_in_shards_without_predictions_is_skipped(world: World, spec_of: Any) -> None:
    world.publish(flights(0))
    spec = spec_of(2, partitions="2014-01-01")
    assert sharding.write_plan(spec) == 0
    result = runner.run_step(spec)
    assert result.status == "skipped"


def test_files_of_any_kind_of_name_are_cut() -> None:
    sizes = {(0, "rows", "a"): 5, (0, "predictions", "a"): 5, (1, "rows", "b"): 10}
    assert shard_files.cut(sizes, 2) == [[(0, "rows", "a"), (0, "predictions", "a")], [(1, "rows", "b")]]


def _profile(world: World, frame: pl.DataFrame) -> dict[str, Any]:
    from airflow_ml_provider.steps.profiles import build_profile

    return dict(build_profile(frame.lazy(), ["score"], by="ds"))
