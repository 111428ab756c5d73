"""Runs when the champion moves, whoever moved it."""

from __future__ import annotations

from airflow.sdk import DAG, Asset, AssetWatcher

from airflow_ml_provider import Table
from airflow_ml_provider.sensors import TablePartitionSensor
from airflow_ml_provider.triggers import ModelAliasTrigger

moved = AssetWatcher(
    name="champion moved", trigger=ModelAliasTrigger(model="flight_delays", alias="champion")
)

with DAG("on_new_champion", schedule=[Asset("flight_delays champion", watchers=[moved])]):
    TablePartitionSensor(
        task_id="today_is_there", table=Table("flights"), partition="2013-06-01", deferrable=True
    )
