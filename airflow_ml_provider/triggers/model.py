"""An alias of a registered model, moved by a step or by somebody in the MLflow UI."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.triggers.polling import PollingTrigger


class ModelAliasTrigger(PollingTrigger):
    """Tells when an alias names another model version.

    Payload: ``model``, ``alias``, ``version``, ``mlflow_run_id``; in a watcher also ``before``. An alias that
    is deleted is told when it is set again, to another version.

    :param model: the registered model's name.
    :param alias: which alias.
    :param other_than: for a sensor: a version other than this is waited for.
    :param mlflow_conn_id: the connection; the deployment's by default.
    """

    def __init__(
        self,
        model: str,
        alias: str = "champion",
        other_than: int | None = None,
        mlflow_conn_id: str | None = None,
        poll_interval: float = 30.0,
        once: bool = False,
    ) -> None:
        super().__init__(poll_interval=poll_interval, once=once)
        self.model = model
        self.alias = alias
        self.other_than = other_than
        self.mlflow_conn_id = mlflow_conn_id

    def kwargs(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "model": self.model,
            "alias": self.alias,
            "other_than": self.other_than,
            "mlflow_conn_id": self.mlflow_conn_id,
        }

    async def look(self) -> dict[str, Any] | None:
        """The version that the alias names."""
        from airflow_ml_provider.hooks.mlflow import MlflowHook

        # Fetched anew at each look: its credentials may have been replaced.
        hook = await MlflowHook.connected(self.mlflow_conn_id)
        found = await asyncio.to_thread(hook.find, Model(self.model, self.alias))
        if found is None:
            return None
        return {
            "model": found.name,
            "alias": self.alias,
            "version": found.version,
            "mlflow_run_id": found.run_id,
        }

    def is_wanted(self, state: dict[str, Any]) -> bool:
        """Whether it is another one than asked for."""
        return bool(state["version"] != self.other_than)
