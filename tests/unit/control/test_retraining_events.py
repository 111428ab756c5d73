"""Retrainings that a monitor step asked for, as events; and why a run exists, on its spec."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, Asset
from control_plane import FakeCompute, context_of, events_of, run_task
from tries import first_event

from airflow_ml_provider import Model, Table
from airflow_ml_provider.assets import drift_asset, retrain_asset
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.retraining import Retrain
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.operators import MonitorOperator
from airflow_ml_provider.operators.runs import reason_of
from airflow_ml_provider.triggers import announcements
from airflow_ml_provider.triggers.drift import RetrainTrigger

BECAUSE = "ROC AUC on 9,000 matured labels is 0.612 (0.590 to 0.634), below 0.65"


def verdict(*, asked: bool) -> dict[str, Any]:
    held = None if asked else {"by": 2, "until": "2013-06-12T00:00:00Z", "clock": "partition"}
    return {
        "drifted": False,
        "partitions": "2013-06-05",
        "retraining": {
            "wanted": True, "asked": asked, "request": 3 if asked else None, "held_back": held,
            "reasons": [{"rule": "min_roc_auc", "because": BECAUSE, "numbers": {"roc_auc": 0.612}}],
            "model": {"name": "flight_delays", "version": 7}, "newest": "2013-06-05",
        },
    }  # fmt: skip


def monitor(deployment: Store, found: dict[str, Any], **given: Any) -> MonitorOperator:
    for table in ("scores", "rows", "flights"):
        deployment.write(f"tables/{table}/_delta_log/00000000000000000004.json", b"")
    settings: dict[str, Any] = {"model": "flight_delays", "retrain": Retrain(min_roc_auc=0.65), **given}
    with DAG("a_dag"):
        return MonitorOperator(
            task_id="monitor", predictions="scores", rows="rows", partitions="2013-06-05",
            compute=FakeCompute({"verdict": found}), **settings,
        )  # fmt: skip


def test_the_assets_of_a_models_retraining_and_drift_are_two() -> None:
    asset = retrain_asset(Model("late flights"))
    assert (asset.name, asset.uri) == ("retrain:late flights", "x-airflow-ml://retrain/late%20flights")
    assert asset != drift_asset("late flights")
    [watcher] = asset.watchers
    assert watcher.name == "retraining of late flights"


def test_a_retraining_that_was_asked_for_is_told_with_its_reasons(deployment: Store) -> None:
    task = monitor(deployment, verdict(asked=True))
    context = context_of(task)
    output = run_task(task, context)
    told = events_of(context)
    assert set(told) == {"retrain:flight_delays"}
    assert told["retrain:flight_delays"] == {
        "model": "flight_delays", "version": 7, "request": 3, "partitions": "2013-06-05",
        "reasons": [BECAUSE], "rules": ["min_roc_auc"], "step_key": output["step_key"],
    }  # fmt: skip
    assert announcements.waiting(deployment, "flight_delays", "retrain") == {}


@pytest.mark.parametrize("found", [verdict(asked=False), {"drifted": False, "retraining": None}])
def test_a_retraining_that_is_held_back_or_not_wanted_is_not_told(
    found: dict[str, Any], deployment: Store
) -> None:
    task = monitor(deployment, found)
    context = context_of(task, partition_key="2013-06-05")
    run_task(task, context)
    assert events_of(context) == {}
    assert announcements.waiting(deployment, "flight_delays", "retrain") == {}


def test_in_a_partitioned_run_it_reaches_schedules_without_partitions_through_the_watcher(
    deployment: Store,
) -> None:
    task = monitor(deployment, verdict(asked=True))
    context = context_of(task, partition_key="2013-06-05")
    run_task(task, context)
    assert "retrain:flight_delays" in events_of(context), "for schedules with partitions"

    payload = asyncio.run(first_event(RetrainTrigger("flight_delays", poll_interval=60)))
    assert (payload["request"], payload["reasons"]) == (3, [BECAUSE])
    assert announcements.waiting(deployment, "flight_delays") == {}, "drift is told apart"


def test_a_retrain_trigger_can_be_made_again_from_what_it_says() -> None:
    path, kwargs = RetrainTrigger("flight_delays", poll_interval=5).serialize()
    assert path == "airflow_ml_provider.triggers.drift.RetrainTrigger"
    assert RetrainTrigger(**kwargs).serialize() == (path, kwargs)


def test_a_run_that_was_asked_to_be_mute_asks_for_no_retraining(deployment: Store) -> None:
    task = monitor(deployment, {"drifted": False, "retraining": None})
    context = context_of(task)
    context["dag_run"].conf = {"mute_events": True}
    run_task(task, context)
    assert task.compute.spec().arguments["retrain"] is None


def test_the_rules_are_in_the_spec_with_their_table_pinned(deployment: Store) -> None:
    rules = Retrain(drift=False, new_rows=0.2, count=Table("flights"), at_most_every="14d")
    task = monitor(
        deployment, verdict(asked=False), retrain=rules, revisit="14d", publish="findings", tables=["flights"]
    )
    run_task(task)
    arguments = task.compute.spec().arguments
    assert arguments["retrain"]["count"] == {"name": "flights", "partition_by": "ds", "version": 4}
    assert (arguments["retrain"]["new_rows"], arguments["retrain"]["at_most_every"]) == (0.2, "14d")
    assert (arguments["revisit"], arguments["model"]) == ("14d", "flight_delays")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": None}, "retrain= was given without a model to train again"),
        ({"revisit": "14d"}, "give publish= (the findings' table) and tables="),
        ({"revisit": "14 days", "publish": "x", "tables": ["flights"]}, "'14 days' is not an age"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_dag_is_parsed(
    given: dict[str, Any], message: str, deployment: Store
) -> None:
    with pytest.raises(ConfigError) as error:
        monitor(deployment, {}, **given)
    assert message in str(error.value)


# Why a run exists


def run_context(kind: str, *, user: str | None = None, events: Any = None, **params: Any) -> Any:
    run = SimpleNamespace(run_type=kind, triggering_user_name=user)
    return {"dag_run": run, "params": params, "triggering_asset_events": events}


def triggered_by(*events: tuple[Asset, dict[str, Any]]) -> Any:
    """Airflow's own accessor over events as its API gives them."""
    from airflow.sdk.api.datamodels._generated import AssetEventDagRunReference
    from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
    from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor

    found = [
        AssetEventDagRunReference.model_validate(
            {
                "asset": {"name": asset.name, "uri": asset.uri, "extra": {}}, "extra": extra,
                "source_task_id": None, "source_dag_id": None, "source_run_id": None, "source_map_index": None,
                "source_aliases": [], "timestamp": "2013-06-06T08:00:00Z",
            }
        )
        for asset, extra in events
    ]  # fmt: skip
    results = [AssetEventDagRunReferenceResult.from_asset_event_dag_run_reference(each) for each in found]
    return TriggeringAssetEventsAccessor.build(results)


def test_a_run_says_what_the_events_say_that_triggered_it() -> None:
    facts = {"model": "flight_delays", "partitions": "2013-06-05", "reasons": [BECAUSE, "more"]}
    drift = {"partitions": "2013-06-04", "verdict": {"drifted": True, "reasons": ["the score moved"]}}
    asked = retrain_asset("flight_delays")
    of_retraining = f"retrain:flight_delays 2013-06-05: {BECAUSE}; more"

    def reason(*events: tuple[Asset, dict[str, Any]]) -> str:
        return reason_of(run_context("asset_triggered", events=triggered_by(*events)))

    assert reason((asked, facts)) == of_retraining
    assert reason((asked, {"from_trigger": True, "payload": facts})) == of_retraining
    assert reason((drift_asset("flight_delays"), drift)) == "drift:flight_delays 2013-06-04: the score moved"
    assert reason((Asset("mine"), {}), (Asset("mine"), {})) == "mine"
    assert reason((Asset("mine"), {"reasons": "somebody's text"})) == "mine: somebody's text"


@pytest.mark.parametrize(
    ("kind", "user", "params", "said"),
    [
        ("scheduled", None, {}, "schedule"),
        ("scheduled", None, {"reason": " "}, "schedule"),
        ("backfill", "ada", {}, "backfill"),
        ("manual", "ada", {}, "by ada"),
        ("manual", "ada", {"reason": "new planes"}, "by ada: new planes"),
        ("manual", None, {"reason": "new planes"}, "by hand: new planes"),
        ("manual", None, {}, "by hand"),
        ("asset_triggered", None, {}, "asset triggered"),
    ],
)
def test_a_run_that_nothing_triggered_says_who_or_what_started_it(
    kind: str, user: str | None, params: dict[str, Any], said: str
) -> None:
    assert reason_of(run_context(kind, user=user, **params)) == said


def test_a_reason_is_never_longer_than_a_tag() -> None:
    assert len(reason_of(run_context("manual", user="ada", reason="x" * 5_000))) == 1_000


def test_the_reason_is_in_the_spec_and_changes_no_fingerprint(deployment: Store) -> None:
    specs = []
    for text in ("new planes", "because"):
        task = monitor(deployment, verdict(asked=False))
        run_task(task, context_of(task, run_id=text, user="ada", params={"reason": text}))
        specs.append(task.compute.spec())
    assert [spec.run.reason for spec in specs] == ["by ada: new planes", "by ada: because"]
    assert specs[0].fingerprint == specs[1].fingerprint
    assert "reason" not in specs[0].parts


def test_a_training_dag_is_scheduled_on_what_the_monitoring_dag_emits() -> None:
    from retraining_dags import LABEL, monitoring, training

    told = {asset.name for asset in monitoring.get_task("monitor").outlets}
    waits_for = {asset.name for asset in training.schedule.asset_condition.objects}
    assert waits_for == {"retrain:churn"}
    assert waits_for < told
    assert LABEL.matures_after_seconds == 30 * 86_400
