"""Assets of tables, models and drift, and when their events are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Asset
from control_plane import FakeCompute, Wire, context_of, events_of, run_task

from airflow_ml_provider import Column, Model, Schema, Table
from airflow_ml_provider.assets import drift_asset, model_asset, table_asset, validated_asset
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.operators import (
    EvaluateOperator,
    FeaturesOperator,
    IngestOperator,
    MonitorOperator,
    PromoteOperator,
    TrainOperator,
    ValidateOperator,
)
from airflow_ml_provider.triggers import announcements

Connect = Callable[..., None]
SCHEMA = Schema((Column("a"),))
PUBLISHED = {"name": "raw", "version": 3, "uri": "x", "partitions": "2013-06-01", "rows": 9}


def names(task: Any) -> list[str]:
    return [asset.name for asset in task.outlets]


def ingest(ends_with: dict[str, Any], **given: Any) -> IngestOperator:
    with DAG("a_dag"):
        return IngestOperator(
            task_id="ingest", source="x", schema=SCHEMA, publish=Table("raw"), partitions="2013-06-01",
            compute=FakeCompute(ends_with), **given,
        )  # fmt: skip


def test_assets_are_named_after_tables_and_models_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of_them() -> list[tuple[str, str]]:
        assets = [
            table_asset(Table("flights")), validated_asset("flights"), model_asset(Model("late flights")),
            model_asset("flight_delays@challenger"), drift_asset("flight_delays"),
        ]  # fmt: skip
        return [(asset.name, asset.uri) for asset in assets]

    on_a_laptop = all_of_them()
    assert on_a_laptop == [
        ("table:flights", "x-airflow-ml://table/flights"),
        ("validated:flights", "x-airflow-ml://validated/flights"),
        ("model:late flights@champion", "x-airflow-ml://model/late%20flights/champion"),
        ("model:flight_delays@challenger", "x-airflow-ml://model/flight_delays/challenger"),
        ("drift:flight_delays", "x-airflow-ml://drift/flight_delays"),
    ]
    monkeypatch.setenv("AIRFLOW__ML__STORE", "s3://bucket")
    assert all_of_them() == on_a_laptop
    assert table_asset(Table("flights", version=3)) == table_asset("flights")


def test_a_publishing_step_has_its_tables_asset_beside_those_of_the_author() -> None:
    assert names(ingest({})) == ["table:raw"]
    assert names(ingest({}, outlets=[Asset("mine")])) == ["mine", "table:raw"]
    assert names(ingest({}, outlets=Asset("mine"))) == ["mine", "table:raw"]
    assert names(ingest({}, outlets=[table_asset("raw")])) == ["table:raw"]


def test_assets_are_known_through_upstream_outputs() -> None:
    with DAG("a_dag"):
        rows = FeaturesOperator(task_id="rows", features="m:S", tables=["raw"], publish="rows")
        checked = ValidateOperator(task_id="check", table=rows.output, suite="m:s")
        checked_again = ValidateOperator(task_id="again", table=checked.output, suite="m:s")
        fitted = TrainOperator(task_id="train", function="m:f", table=checked.output, model="flight_delays")
        judged = EvaluateOperator(task_id="judge", candidate=fitted.output, table=rows.output)
        promoted = PromoteOperator(task_id="promote", verdict=judged.output)
        unknown = PromoteOperator(task_id="unknown", verdict="{{ params.verdict }}")
        named = PromoteOperator(
            task_id="named", verdict="{{ params.verdict }}", model="flight_delays", alias="live"
        )
    assert names(checked_again) == ["validated:rows"]
    assert names(fitted) == ["model:flight_delays@challenger"]
    assert names(judged) == []
    assert names(promoted) == ["model:flight_delays@champion"]
    assert names(unknown) == []
    assert names(named) == ["model:flight_delays@live"]


def test_a_publication_is_told_with_its_version_rows_and_verdict() -> None:
    verdict = {
        "success": True,
        "expectations": 12,
        "failures": [],
        "details": [{"column": "a"}],
        "run": {"x": 1},
    }
    task = ingest({"table": PUBLISHED, "verdict": verdict}, outlets=[Asset("mine")])
    context = context_of(task)
    output = run_task(task, context)
    told = events_of(context)
    assert told["mine"] == {}
    assert told["table:raw"] == {
        "table": "raw", "version": 3, "partitions": "2013-06-01", "rows": 9, "changed": True,
        "step_key": output["step_key"], "verdict": {"success": True, "expectations": 12, "failures": []},
    }  # fmt: skip


def test_a_publication_that_changed_nothing_is_not_told() -> None:
    task = ingest({"table": {**PUBLISHED, "changed": False}}, outlets=[Asset("mine")])
    context = context_of(task)
    run_task(task, context)
    assert set(events_of(context)) == {"mine"}
    assert names(task) == ["mine", "table:raw"], "the DAG itself keeps its outlet"


def test_a_task_tried_again_tells_what_a_lost_try_may_have_published() -> None:
    task = ingest({"table": {**PUBLISHED, "changed": False}})
    context = context_of(task, try_number=2)
    run_task(task, context)
    assert events_of(context)["table:raw"]["version"] == 3


@pytest.mark.parametrize(
    ("verdict", "told"), [({"success": True}, {"validated:raw"}), ({"success": False}, set())]
)
def test_only_a_table_that_passed_is_told_to_be_validated(
    verdict: dict[str, Any], told: set[str], deployment: Store, tmp_path: Path
) -> None:
    deployment.write("tables/raw/_delta_log/00000000000000000003.json", b"")
    (tmp_path / "mine.py").write_text("suite = 1\n")
    with DAG("a_dag"):
        task = ValidateOperator(
            task_id="check", table="raw", suite="mine:suite", fail=False, code=str(tmp_path),
            compute=FakeCompute({"table": PUBLISHED, "verdict": verdict}),
        )  # fmt: skip
    context = context_of(task)
    run_task(task, context)
    assert set(events_of(context)) == told


@pytest.mark.parametrize("promoted", [True, False])
def test_a_promotion_is_told_only_if_the_alias_moved(
    promoted: bool, wire: Wire, mlflow_connection: Connect
) -> None:
    mlflow_connection(wire.url)
    wire.alias(4)
    model = {"name": "flight_delays", "version": 5, "run_id": "r"}
    compute = FakeCompute(
        {"model": model, "verdict": {"promoted": promoted, "replaced": 4, "reason": "better"}}
    )
    with DAG("a_dag"):
        task = PromoteOperator(task_id="p", verdict={"model": model}, model="flight_delays", compute=compute)
    context = context_of(task, try_number=2)
    run_task(task, context)
    told = events_of(context)
    assert set(told) == ({"model:flight_delays@champion"} if promoted else set())
    if promoted:
        assert told["model:flight_delays@champion"]["version"] == 5
        assert told["model:flight_delays@champion"]["verdict"]["replaced"] == 4


def monitor(verdict: dict[str, Any], deployment: Store) -> MonitorOperator:
    for table in ("scores", "rows"):
        deployment.write(f"tables/{table}/_delta_log/00000000000000000000.json", b"")
    with DAG("a_dag"):
        return MonitorOperator(
            task_id="monitor", predictions="scores", rows="rows", model="flight_delays",
            partitions="2013-06-05", publish="findings",
            compute=FakeCompute({"verdict": verdict, "table": {**PUBLISHED, "name": "findings"}}),
        )  # fmt: skip


def test_a_calm_day_has_no_drift_event(deployment: Store) -> None:
    task = monitor({"drifted": False}, deployment)
    context = context_of(task, try_number=2, partition_key="2013-06-05")
    run_task(task, context)
    assert set(events_of(context)) == {"table:findings"}
    assert announcements.waiting(deployment, "flight_delays") == {}


def test_drift_is_told_once_on_a_schedule_without_partitions(deployment: Store) -> None:
    task = monitor({"drifted": True, "share": 0.7}, deployment)
    context = context_of(task)
    run_task(task, context)
    assert events_of(context)["drift:flight_delays"]["verdict"] == {"drifted": True, "share": 0.7}
    assert announcements.waiting(deployment, "flight_delays") == {}


def test_drift_in_a_partitioned_run_is_announced_to_the_watcher_as_well(deployment: Store) -> None:
    task = monitor({"drifted": True, "reasons": ["the score moved"]}, deployment)
    context = context_of(task, partition_key="2013-06-05")
    output = run_task(task, context)
    assert "drift:flight_delays" in events_of(context)
    [announced] = announcements.waiting(deployment, "flight_delays").values()
    assert announced["step_key"] == output["step_key"]
    assert (announced["model"], announced["partitions"]) == ("flight_delays", "2013-06-05")
    assert announced["verdict"]["reasons"] == ["the score moved"]
