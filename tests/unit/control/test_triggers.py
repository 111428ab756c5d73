"""What the triggerer tells, and what it remembers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.triggers.base import BaseEventTrigger
from control_plane import Wire

from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.ledger import Entry, Ledger, Outcome
from airflow_ml_provider.triggers import announcements, polling
from airflow_ml_provider.triggers.drift import DriftTrigger
from airflow_ml_provider.triggers.model import ModelAliasTrigger
from airflow_ml_provider.triggers.polling import MOST_FAILURES
from airflow_ml_provider.triggers.table import TableVersionTrigger
from airflow_ml_provider.triggers.table_log import TableLog

Connect = Callable[..., None]


class AssetState:
    """What Airflow gives a watcher to remember in; survives the trigger."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    async def aget(self, key: str) -> Any:
        return self.kept.get(key)

    async def aset(self, key: str, value: Any) -> None:
        self.kept[key] = json.loads(json.dumps(value))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "_UNTIL_PERSISTED", 0)


def commit(store: Store, version: int, *partitions: str, foreign: bool = False) -> None:
    if foreign:
        actions = [{"add": {"partitionValues": {"ds": value}, "dataChange": True}} for value in partitions]
    else:
        actions = [{"txn": {"appId": f"partition:{value}", "version": 1}} for value in partitions]
    content = "\n".join(json.dumps(action) for action in [{"commitInfo": {}}, *actions])
    store.write(f"tables/raw/_delta_log/{version:020}.json", content.encode())


def told(trigger: Any, *happenings: Callable[[], object], looks: int = 3) -> list[Any]:
    """Run a watcher, let things happen, each when it has looked some times, and give what it told."""
    payloads: list[Any] = []
    looked = asyncio.Semaphore(0)
    look = trigger.look

    async def look_and_tell() -> Any:
        try:
            return await look()
        finally:
            looked.release()

    async def watch() -> None:
        async for event in trigger.run():
            payloads.append(event.payload)  # noqa: PERF401 - the list is read while this runs

    async def live() -> None:
        task = asyncio.create_task(watch())
        for happening in (lambda: None, *happenings):
            happening()
            for _ in range(looks):
                await asyncio.wait_for(looked.acquire(), 30)
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    trigger.look = look_and_tell
    asyncio.run(live())
    return payloads


def waited_for(trigger: BaseEventTrigger) -> Any:
    async def wait() -> Any:
        [event] = [event async for event in trigger.run()]
        return event.payload

    return asyncio.run(asyncio.wait_for(wait(), 30))


def table(partition: str | None = None, **given: Any) -> TableVersionTrigger:
    return TableVersionTrigger("raw", partition, poll_interval=0.02, **given)


def alias(**given: Any) -> ModelAliasTrigger:
    return ModelAliasTrigger("flight_delays", poll_interval=0.02, **given)


@pytest.mark.parametrize(
    "trigger",
    [
        TableVersionTrigger("raw", "2013-06-01", newer_than=3, poll_interval=5, once=True),
        ModelAliasTrigger("m", "champion", other_than=2, mlflow_conn_id="mine"),
        DriftTrigger("flight_delays"),
    ],
)
def test_a_trigger_can_be_made_again_from_what_it_says(trigger: BaseEventTrigger) -> None:
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(__import__(module, fromlist=[name]), name)(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (path, kwargs)
    assert " at 0x" not in repr(again)


# Watching


def test_a_watcher_tells_changes_and_not_what_it_first_sees(deployment: Store) -> None:
    commit(deployment, 0)
    payloads = told(table(), lambda: commit(deployment, 1), lambda: None, lambda: commit(deployment, 2))
    assert payloads == [
        {"table": "raw", "version": 1, "partition": None, "before": 0},
        {"table": "raw", "version": 2, "partition": None, "before": 1},
    ]


def test_a_table_that_is_made_is_told(deployment: Store) -> None:
    assert [payload["before"] for payload in told(table(), lambda: commit(deployment, 0))] == [None]


def test_a_watcher_of_a_partition_tells_its_publications_only(deployment: Store) -> None:
    commit(deployment, 0, "2013-06-01")
    payloads = told(
        table("2013-06-02"),
        lambda: commit(deployment, 1, "2013-06-01"),
        lambda: commit(deployment, 2, "2013-06-02", "2013-06-03"),
        lambda: commit(deployment, 3, "2013-06-01"),
        lambda: commit(deployment, 4, "2013-06-02", foreign=True),
    )
    assert [payload["version"] for payload in payloads] == [2, 4]


def test_a_change_while_the_triggerer_was_down_is_told_once(deployment: Store) -> None:
    commit(deployment, 0)
    state, payloads = AssetState(), []
    for version in (1, 2):
        watcher = table()
        watcher.asset_state_store = state  # type: ignore[assignment]
        payloads += told(watcher)
        commit(deployment, version)
    watcher = table()
    watcher.asset_state_store = state  # type: ignore[assignment]
    payloads += told(watcher)
    assert [payload["version"] for payload in payloads] == [1, 2]


def test_a_watcher_without_a_place_to_remember_still_watches(deployment: Store) -> None:
    class Several(AssetState):
        async def aget(self, key: str) -> Any:
            raise ValueError("Task has 2 concrete inlets and outlets")

    commit(deployment, 0)
    watcher = table()
    watcher.asset_state_store = Several()  # type: ignore[assignment]
    assert len(told(watcher, lambda: commit(deployment, 1))) == 1


def test_an_alias_moved_by_anybody_is_told_and_recorded(
    deployment: Store, wire: Wire, mlflow_connection: Connect
) -> None:
    mlflow_connection(wire.url)
    wire.alias(4)
    payloads = told(
        alias(), lambda: wire.alias(5), wire.no_alias, lambda: wire.alias(5), lambda: wire.alias(4)
    )
    told_of = {"model": "flight_delays", "alias": "champion"}
    assert payloads == [
        {**told_of, "version": 5, "mlflow_run_id": "run5", "before": 4, "external": True, "ledger_entry": 2},
        {**told_of, "version": 4, "mlflow_run_id": "run4", "before": 5, "external": True, "ledger_entry": 5},
    ]
    entries = Ledger(deployment, "flight_delays").entries()
    assert [(entry.previous, entry.version) for entry in entries] == [
        (None, 4),
        (4, 5),
        (5, None),
        (None, 5),
        (5, 4),
    ]
    assert {entry.kind for entry in entries} == {"external"}
    assert entries[0].reason == "noticed by the watcher: found when the ledger began"
    assert entries[2].reason == "noticed by the watcher: the ledger says version 5"


def test_a_promotion_under_way_is_not_taken_for_somebodys_hand(
    deployment: Store, wire: Wire, mlflow_connection: Connect
) -> None:
    mlflow_connection(wire.url)
    wire.alias(4)
    ledger = Ledger(deployment, "flight_delays")

    def promote() -> None:
        now = datetime.now(UTC).isoformat()
        entry = Entry(2, "flight_delays", "champion", 5, 4, now, "ada", "better", "d", "", "a-step")
        assert ledger.append(entry)
        wire.alias(5)

    (payload,) = told(alias(), promote, lambda: ledger.conclude(Outcome(2, True, "2013-06-01", "a-step")))
    assert (payload["version"], payload["external"], payload["ledger_entry"]) == (5, False, 2)
    assert len(ledger.entries()) == 2


def test_a_change_is_told_though_the_ledger_cannot_be_read_and_recorded_later(
    deployment: Store, wire: Wire, mlflow_connection: Connect
) -> None:
    mlflow_connection(wire.url)
    wire.alias(4)
    path = "registry/flight_delays/ledger/00000002.json"

    def break_ledger() -> None:
        deployment.write(path, b"no entry")
        wire.alias(5)

    payloads = told(alias(), break_ledger, lambda: deployment.delete(path))
    assert [(payload["version"], "external" in payload) for payload in payloads] == [(5, False)]
    assert [entry.version for entry in Ledger(deployment, "flight_delays").entries()] == [4, 5]


def test_the_alias_that_training_moves_has_no_ledger(
    deployment: Store, wire: Wire, mlflow_connection: Connect
) -> None:
    mlflow_connection(wire.url)
    wire.alias(4)
    challenger = ModelAliasTrigger("flight_delays", "challenger", poll_interval=0.02)
    assert [payload["version"] for payload in told(challenger, lambda: wire.alias(5))] == [5]
    assert Ledger(deployment, "flight_delays").entries() == []


def test_a_watcher_outlives_any_number_of_failed_looks(wire: Wire, mlflow_connection: Connect) -> None:
    mlflow_connection(wire.url)
    wire.alias(4)
    path = "/api/2.0/mlflow/registered-models/alias"

    def fail() -> None:
        wire.answers[path] = (503, "busy")

    payloads = told(
        alias(), fail, lambda: wire.alias(4), fail, lambda: wire.alias(5), looks=MOST_FAILURES + 1
    )
    assert [payload["version"] for payload in payloads] == [5]
    assert len(wire.requests) > 2 * MOST_FAILURES


# Waiting


def test_a_sensors_trigger_ends_with_what_it_waited_for(deployment: Store) -> None:
    commit(deployment, 3)
    found = waited_for(table(once=True, newer_than=2))
    assert found == {"status": "success", "found": {"table": "raw", "version": 3, "partition": None}}


def test_a_sensors_trigger_bears_some_failed_looks_and_then_gives_up(
    wire: Wire, mlflow_connection: Connect
) -> None:
    mlflow_connection(wire.url)
    wire.answers["/api/2.0/mlflow/registered-models/alias"] = (503, "busy")
    payload = waited_for(alias(once=True))
    assert (payload["status"], payload["kind"]) == ("error", "transient")
    assert "answered HTTP 503" in payload["message"]
    assert len(wire.requests) == MOST_FAILURES + 1


def test_a_sensors_trigger_does_not_wait_for_what_cannot_be(wire: Wire, mlflow_connection: Connect) -> None:
    mlflow_connection(wire.url)
    wire.answers["/api/2.0/mlflow/registered-models/alias"] = (401, "no")
    assert waited_for(alias(once=True))["kind"] == "config"
    assert len(wire.requests) == 1


def test_a_trigger_without_its_connection_says_which_is_missing() -> None:
    payload = waited_for(alias(once=True))
    assert "there is no Airflow connection 'mlflow_default'" in payload["message"]


# Drift


def test_each_announcement_of_drift_is_told_and_then_taken_away(deployment: Store) -> None:
    announcements.post(deployment, "flight_delays", "step-1", {"model": "flight_delays"})
    announcements.post(deployment, "another", "step-2", {"model": "another"})
    payloads = told(
        DriftTrigger("flight_delays", poll_interval=0.05),
        lambda: announcements.post(deployment, "flight_delays", "step-3", {"model": "flight_delays"}),
    )
    assert [payload["model"] for payload in payloads] == ["flight_delays", "flight_delays"]
    assert announcements.waiting(deployment, "flight_delays") == {}
    assert len(announcements.waiting(deployment, "another")) == 1


def test_an_announcement_is_kept_until_its_event_had_time_to_arrive(deployment: Store) -> None:
    announcements.post(deployment, "flight_delays", "step-1", {"model": "flight_delays"})
    assert len(told(DriftTrigger("flight_delays", poll_interval=60), looks=1)) == 1
    assert len(announcements.waiting(deployment, "flight_delays")) == 1, "a new triggerer tells it again"


def test_an_announcement_from_before_a_long_pause_is_dropped(deployment: Store) -> None:
    long_ago = (datetime.now(UTC) - announcements.KEPT_FOR - timedelta(hours=1)).isoformat()
    deployment.write_json("announcements/drift/flight_delays/step-1.json", {"announced_at": long_ago})
    assert told(DriftTrigger("flight_delays", poll_interval=0.05)) == []
    assert list(deployment.paths("announcements")) == []


def test_a_model_of_any_name_can_be_announced(deployment: Store) -> None:
    announcements.post(deployment, "50 % größer?", "step-1", {})
    assert len(announcements.waiting(deployment, "50 % größer?")) == 1


# The log of a table


def test_a_partition_is_found_behind_a_cleaned_up_log(deployment: Store) -> None:
    import polars as pl
    from deltalake import DeltaTable

    from airflow_ml_provider.contract.store import local_path

    uri = local_path(deployment.table_uri("raw"))
    for day in ("2013-06-01", "2013-06-02", "2013-06-03"):
        frame = pl.DataFrame({"ds": [day], "a": [1]})
        frame.write_delta(uri, mode="append", delta_write_options={"partition_by": ["ds"]})
    DeltaTable(uri).create_checkpoint()
    for version in (0, 1):
        (uri / "_delta_log" / f"{version:020}.json").unlink()
    assert TableLog(deployment, "raw", "2013-06-03").newest() == 2
    assert TableLog(deployment, "raw", "2013-06-01").newest() == 1, "it was published there or before"
    assert TableLog(deployment, "raw", "2013-07-01").newest() is None
    assert TableLog(deployment, "nothing", "2013-07-01").newest() is None
