"""Waiting for a registered model's alias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.models import as_model
from airflow_ml_provider.sensors.base import StateSensor

if TYPE_CHECKING:
    from airflow_ml_provider.contract.models import Model
    from airflow_ml_provider.triggers.model import ModelAliasTrigger


class ModelAliasSensor(StateSensor):
    """Waits until an alias of a registered model exists, or names another version than one given.

    Its output stands for the version found, and can be passed to a step. A retry and a clear look again.

    :param model: a Model or ``"name@alias"``; the alias is ``champion`` when left out. (templated)
    :param other_than: wait for a version other than this; any will do when left out. (templated)
    :param mlflow_conn_id: the connection; the deployment's by default.
    """

    template_fields: Sequence[str] = ("model", "other_than")
    ui_color = "#eceff1"

    def __init__(
        self,
        *,
        model: Model | str,
        other_than: int | str | None = None,
        mlflow_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.other_than = other_than
        self.mlflow_conn_id = mlflow_conn_id

    def trigger(self) -> ModelAliasTrigger:
        """The trigger that looks."""
        from airflow_ml_provider.triggers.model import ModelAliasTrigger

        model = as_model(self.model, wanted_by=f"task {self.task_id!r}")
        return ModelAliasTrigger(
            model.name,
            model.alias,
            other_than=int(self.other_than) if self.other_than not in (None, "") else None,
            mlflow_conn_id=self.mlflow_conn_id,
            poll_interval=self.poke_interval,
            once=True,
        )

    def output_of(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The version found."""
        return {
            "model": {
                "name": found["model"],
                "version": found["version"],
                "alias": found["alias"],
                "run_id": found["mlflow_run_id"],
            }
        }
