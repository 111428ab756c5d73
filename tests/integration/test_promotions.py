"""A model's life through a real Airflow: a challenger scored beside the champion, and people who approve."""

from __future__ import annotations

import time

import polars as pl
import pytest
from deltalake import DeltaTable

from airflow_api import AirflowApi
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.history import history
from demo import CALM_DAY, Demo

pytestmark = pytest.mark.timeout(600)


def test_a_challenger_is_scored_beside_the_champion_and_judged_on_what_has_matured(
    story: Demo, api: AirflowApi
) -> None:
    api.pause("flights_shadow", False)
    run = api.trigger("flights_shadow", "shadow", {}, CALM_DAY)
    assert api.wait("flights_shadow", run["dag_run_id"]) == "success"
    scored = pl.scan_delta(
        DeltaTable(str(story.deployment.home / "store" / "tables" / "flight_shadow"))
    ).collect()
    assert scored["model_selection"].unique().to_list() == ["champion now"]
    challenger = story.outputs[("flights_train.evaluate", "again")]["verdict"]["model"]["version"]
    beside = scored["shadow"].list.first().struct
    assert beside.field("model_version").unique().to_list() == [challenger]
    assert beside.field("score").is_between(0, 1).all()
    assert scored["contributions"].list.len().unique().to_list() == [5]
    verdict = (api.output("flights_shadow", run["dag_run_id"], "compare") or {})["verdict"]
    assert verdict["champion"]["version"] == 1
    # Cancelled flights never get a label.
    assert 0 < verdict["rows"] < scored.height
    assert verdict["live"]["paired"]


def test_people_approve_with_the_evidence_before_them_and_the_ledger_says_who(
    story: Demo, api: AirflowApi
) -> None:
    candidate = story.outputs[("flights_train.evaluate", "again")]["verdict"]["model"]
    dag, run_id = "flights_promote_with_approval", "approval"
    api.pause(dag, False)
    api.trigger(dag, run_id, {"candidate": f"{candidate['name']}/{candidate['version']}"})
    question = f"/dags/{dag}/dagRuns/{run_id}/taskInstances/promote/-1/hitlDetails"
    _until(api, dag, run_id, "awaiting_input")
    asked = api.call("GET", question)
    assert asked["subject"] == f"Let flight_delays version {candidate['version']} become champion?"
    assert "| roc\\_auc |" in asked["body"]
    assert "What changed since the champion" in asked["body"]
    # Airflow fails a task that is answered before the process that asked has ended.
    time.sleep(5)
    api.call(
        "PATCH", question, json={"chosen_options": ["Approve"], "params_input": {"note": "it is as good"}}
    )
    assert api.wait(dag, run_id) == "success"
    last = history(Store((story.deployment.home / "store").as_uri()), "flight_delays")[-1].entry
    assert (last.kind, last.version) == ("promotion", candidate["version"])
    assert last.approval["approved"] is True
    assert last.approval["note"] == "it is as good"
    assert last.approval["by"]


def _until(api: AirflowApi, dag: str, run_id: str, state: str) -> None:
    end = time.monotonic() + 240
    while state not in {task["state"] for task in api.tasks(dag, run_id)}:
        assert time.monotonic() < end, api.tasks(dag, run_id)
        time.sleep(1)
