"""A candidate becomes champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.assets import model_asset
from airflow_ml_provider.contract.arguments import PromoteArguments
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.models import Model, as_model
from airflow_ml_provider.operators import runs
from airflow_ml_provider.operators.base import StepOperator
from airflow_ml_provider.operators.events import announce_model
from airflow_ml_provider.operators.references import known_model

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.documents import StepResult
    from airflow_ml_provider.operators.pins import Pins


class PromoteOperator(StepOperator):
    """Moves an alias, ``champion``, to the evaluated version, if the verdict allows it.

    Writes who promoted it, when, why, and what it replaced. Promoting the champion again changes nothing,
    so a retry and a clear are harmless.

    :param verdict: an evaluate step's ``.output``. (templated)
    :param alias: the alias that moves. (templated)
    :param reason: why, for the ledger. (templated)
    :param model: the registered model, to have its asset where ``verdict`` does not come from an evaluate
        step of the same DAG.
    """

    verb = "promote"
    template_fields: Sequence[str] = ("verdict", "alias", "reason")
    ui_color = "#fff3e0"

    def __init__(
        self,
        *,
        verdict: Mapping[str, Any] | Any,
        alias: str = "champion",
        reason: str = "",
        model: Model | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.verdict = verdict
        self.alias = alias
        self.reason = reason
        self.model = model
        known = as_model(model) if model is not None else known_model(verdict)
        if known is not None:
            self.add_outlet(model_asset(Model(known.name, alias)))

    def arguments(self, pins: Pins, context: Context) -> PromoteArguments:
        """The step's arguments."""
        given = self.verdict
        found = given.get("verdict") if isinstance(given, Mapping) and "verb" in given else given
        if not isinstance(found, Mapping):
            raise ConfigError(
                f"{pins.wanted_by} was given no verdict: {given!r}",
                todo="pass verdict=<evaluate step>.output",
            )
        return PromoteArguments(
            verdict=dict(found), alias=self.alias, reason=self.reason, promoted_by=runs.triggered_by(context)
        )

    def further_parts(self, pins: Pins, arguments: PromoteArguments) -> Mapping[str, Any]:
        """The version that the alias names now: after a rollback by hand, promoting is work again."""
        found = as_model(self.verdict, wanted_by=pins.wanted_by)
        now = pins.existing_model(Model(found.name, arguments.alias))
        return {"replaces": now.version if now else None}

    def announce(self, result: StepResult, context: Context) -> None:
        """An event, if the alias moved."""
        promoted = bool((result.verdict or {}).get("promoted"))
        announce_model(self, result, context, moved=promoted, alias=self.alias)
