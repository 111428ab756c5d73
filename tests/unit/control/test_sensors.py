"""Waiting for tables and aliases, in the worker and deferred."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSensorTimeout, TaskDeferred
from control_plane import Wire, context_of, run_task

from airflow_ml_provider import Model, Table
from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError, TransientError
from airflow_ml_provider.contract.models import as_model
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.contract.tables import as_table
from airflow_ml_provider.sensors import ModelAliasSensor, TablePartitionSensor

Connect = Callable[..., None]


def commit(store: Store, version: int, partition: str = "2013-06-01") -> None:
    action = f'{{"txn": {{"appId": "partition:{partition}", "version": 1}}}}'
    store.write(f"tables/flights/_delta_log/{version:020}.json", action.encode())


def sensor(kind: Any, **given: Any) -> Any:
    with DAG("a_dag"):
        return kind(task_id="wait", poke_interval=0.05, timeout=0.3, **given)


def test_a_published_partition_ends_the_wait_and_is_handed_on_at_its_version(deployment: Store) -> None:
    commit(deployment, 0)
    commit(deployment, 1, "2013-06-02")
    task = sensor(TablePartitionSensor, table=Table("flights"), partition="{{ params.day }}")
    output = run_task(task, params={"day": "2013-06-01"})
    assert as_table(output) == Table("flights", version=0)
    assert output["partitions"] == "2013-06-01"


def test_an_unpublished_partition_is_waited_for_until_the_timeout(deployment: Store) -> None:
    commit(deployment, 0)
    with pytest.raises(AirflowSensorTimeout):
        run_task(sensor(TablePartitionSensor, table="flights", partition="2013-07-01"))
    with pytest.raises(AirflowSensorTimeout):
        run_task(sensor(TablePartitionSensor, table="flights", newer_than=0))
    commit(deployment, 1)
    assert as_table(run_task(sensor(TablePartitionSensor, table="flights", newer_than="0"))).version == 1


def test_an_alias_ends_the_wait_when_it_names_another_version(wire: Wire, mlflow_connection: Connect) -> None:
    mlflow_connection(wire.url)
    wire.alias(4)
    task = sensor(ModelAliasSensor, model=Model("flight_delays"), other_than=4)
    with pytest.raises(AirflowSensorTimeout):
        run_task(task)
    wire.alias(3)
    assert as_model(run_task(task)) == Model("flight_delays", version=3)
    assert run_task(sensor(ModelAliasSensor, model="flight_delays@live"))["model"]["alias"] == "live"
    assert wire.requests[-1].query == "name=flight_delays&alias=live"


def test_failed_looks_are_borne_in_the_worker_too(wire: Wire, mlflow_connection: Connect) -> None:
    mlflow_connection(wire.url)
    wire.answers["/api/2.0/mlflow/registered-models/alias"] = (503, "busy")
    task = sensor(ModelAliasSensor, model="flight_delays")
    task.timeout = 30
    with pytest.raises(TransientError, match="HTTP 503"):
        run_task(task)
    assert len(wire.requests) > 3
    wire.answers["/api/2.0/mlflow/registered-models/alias"] = (401, "no")
    with pytest.raises(ConfigError):
        run_task(task)


def test_a_deferrable_sensor_looks_once_and_then_leaves_the_worker(deployment: Store) -> None:
    task = sensor(TablePartitionSensor, table="flights", partition="2013-06-01", deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        run_task(task)
    _, kwargs = deferred.value.trigger.serialize()
    assert kwargs == {
        "table": "flights", "partition": "2013-06-01", "newer_than": None, "poll_interval": 0.05,
        "once": True,
    }  # fmt: skip
    assert (deferred.value.method_name, deferred.value.timeout.total_seconds()) == ("execute_complete", 0.3)
    commit(deployment, 0)
    assert as_table(run_task(task)).version == 0


def test_a_deferred_sensor_ends_as_its_trigger_says() -> None:
    task = sensor(TablePartitionSensor, table="flights")
    context = context_of(task)
    found = {"table": "flights", "version": 3, "partition": None}
    assert as_table(task.execute_complete(context, {"status": "success", "found": found})).version == 3
    message = str(TransientError("the store is away", kept="all", todo="wait"))
    with pytest.raises(TransientError, match="the store is away") as caught:
        task.execute_complete(context, {"status": "error", "kind": "transient", "message": message})
    assert str(caught.value) == message
    with pytest.raises(InfrastructureError, match=r"an event that is not known: \{'status': 'paused'\}"):
        task.execute_complete(context, {"status": "paused"})
