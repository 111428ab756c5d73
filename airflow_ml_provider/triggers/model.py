"""An alias of a registered model, moved by a step or by somebody in the MLflow UI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.registry.ledger import Ledger
from airflow_ml_provider.registry.moves import settle
from airflow_ml_provider.triggers.polling import PollingTrigger

if TYPE_CHECKING:
    from airflow_ml_provider.hooks.mlflow import MlflowHook

# Train steps move it, once a training, and leave no word in the ledger.
_WITHOUT_LEDGER = "challenger"


class ModelAliasTrigger(PollingTrigger):
    """Tells when an alias names another model version.

    Payload: ``model``, ``alias``, ``version``, ``mlflow_run_id``; in a watcher also ``before``, and from the
    ledger ``ledger_entry`` and ``external``: whether somebody's hand moved it. An alias that is deleted is told
    when it is set again, to another version.

    A watcher records in the ledger what nobody else has: changes by somebody's hand, deletions among them. It
    does so at its first look after the change. When the ledger cannot be read or written the change is told
    all the same, without the two, and is recorded at a later look.

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
        # Kept, since it reads each of its documents once.
        self._ledger: Ledger | None = None

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
        known: dict[str, Any] = {}
        if not self.once and self.alias != _WITHOUT_LEDGER:
            known = await asyncio.to_thread(self._recorded, hook, found.version if found else None)
        if found is None:
            return None
        return {
            "model": found.name,
            "alias": self.alias,
            "version": found.version,
            "mlflow_run_id": found.run_id,
            **known,
        }

    def is_wanted(self, state: dict[str, Any]) -> bool:
        """Whether it is another one than asked for."""
        return bool(state["version"] != self.other_than)

    def _recorded(self, hook: MlflowHook, version: int | None) -> dict[str, Any]:
        """What the ledger says of a version that the alias names; recorded now, if it says nothing."""
        from airflow_ml_provider import config

        try:
            self._ledger = self._ledger or Ledger(config.store(), self.model)
            state = settle(self._ledger, _Aliases(hook, self.model), self.alias, noticed_by="the watcher")
        except MLError as error:
            self.log.error("could not look into the ledger, will look again: %s", error.what)
            return {}
        for entry in state.noticed:
            self.log.warning("entry %s of the ledger of %r: %s", entry.sequence, entry.model, entry.reason)
        told = [move.entry for move in state.moves if move.moved or move.entry == state.under_way]
        if not told or told[-1].version != version:
            return {}
        entry = told[-1]
        return {"external": entry.kind == "external", "ledger_entry": entry.sequence}


class _Aliases:
    """The aliases of a model through the hook, which only reads."""

    def __init__(self, hook: MlflowHook, model: str) -> None:
        self.hook, self.model = hook, model

    def named(self, alias: str) -> int | None:
        """The version that an alias names, None if it names none."""
        found = self.hook.find(Model(self.model, alias))
        return found.version if found else None

    def point(self, alias: str, version: int) -> None:
        """A watcher moves nothing."""
        raise NotImplementedError
