"""An earlier version becomes champion again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from airflow_ml_provider.assets import model_asset
from airflow_ml_provider.contract.arguments import RollbackArguments
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.models import Model, as_model
from airflow_ml_provider.contract.tables import Table, as_table
from airflow_ml_provider.operators import runs
from airflow_ml_provider.operators.base import StepOperator
from airflow_ml_provider.operators.events import announce_model
from airflow_ml_provider.operators.references import known_model

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.documents import StepResult
    from airflow_ml_provider.operators.pins import Pins


class RollbackOperator(StepOperator):
    """Moves an alias, ``champion``, back to the version that it named before, and lists what is affected.

    Its ``.output`` is the model at that version; in its verdict, ``affected`` names for each of ``predictions``
    the partitions with rows that the version left behind had predicted, ``affected_partitions`` all of them.
    A task rolls back once in a run: a retry and a clear find its entry in the ledger. Of two that are started
    at once, one rolls back and the other says so. Killed half-way, the move is completed by the next try.

    :param model: the registered model, with the alias that moves. (templated)
    :param reason: why, for the ledger. (templated)
    :param to: the version to go back to; by default the champion before the present one, by the ledger:
        rolling back again goes further back. (templated)
    :param effective: from which moment on that version counts as champion, as a date or a time in UTC; from
        when the alias moves, when empty. (templated)
    :param predictions: tables of predictions in which to look for what the version left behind has predicted.
        (templated)
    """

    verb = "rollback"
    # Moving an alias is an act, not a result.
    shared = False
    template_fields: Sequence[str] = ("model", "reason", "to", "effective", "predictions")
    ui_color = "#fde7e7"

    def __init__(
        self,
        *,
        model: Model | str,
        reason: str,
        to: int | str | None = None,
        effective: str = "",
        predictions: Sequence[Table | str] | Table | str = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.reason = reason
        self.to = to
        self.effective = effective
        self.predictions = predictions
        known = known_model(model)
        if known is not None:
            self.add_outlet(model_asset(Model(known.name, known.alias)))

    def arguments(self, pins: Pins, context: Context) -> RollbackArguments:
        """The step's arguments.

        :raises ConfigError: there is no reason, or ``to`` is no version.
        """
        model = as_model(self.model, wanted_by=pins.wanted_by)
        if not str(self.reason).strip():
            raise ConfigError(
                f"{pins.wanted_by} was not told why {model.name!r} is rolled back",
                kept="the alias and the ledger are as they were",
                todo="give reason=: it is kept in the ledger",
            )
        given = self.predictions
        tables = [given] if isinstance(given, (str, Table, Mapping)) else given
        return RollbackArguments(
            model=Model(model.name, model.alias),
            reason=str(self.reason),
            to=_version(self.to, pins.wanted_by),
            leaves=self._leaves(pins, Model(model.name, model.alias), context),
            effective=str(self.effective),
            predictions=tuple(as_table(table, wanted_by=pins.wanted_by) for table in tables),
            rolled_back_by=runs.triggered_by(context),
        )

    def announce(self, result: StepResult, context: Context) -> None:
        """An event, if the alias moved."""
        verdict = result.verdict or {}
        announce_model(
            self, result, context, moved=bool(verdict.get("moved")), alias=str(verdict.get("alias"))
        )

    def _leaves(self, pins: Pins, model: Model, context: Context) -> int | None:
        """The version that was champion at the first try.

        A retry that looked anew would take one more step back where somebody else has rolled back meanwhile.
        """
        path = f"runs/{runs.step_key_of(context)}/leaves.json"
        asked = {"alias": str(model), "clearing": runs.clearing_of(context)}
        kept = pins.store.read_json(path)
        if kept and {name: kept.get(name) for name in asked} == asked:
            return cast("int | None", kept["version"])
        now = pins.existing_model(model)
        pins.store.write_json(path, {**asked, "version": now.version if now else None})
        return now.version if now else None


def _version(given: Any, wanted_by: str) -> int | None:
    """A version from what is passed; a template that came out empty is none."""
    text = str(given).strip()
    if text in ("", "None"):
        return None
    # "3" or "flight_delays/3".
    number = text.rpartition("/")[2]
    if not number.isdigit() or int(number) < 1:
        raise ConfigError(
            f"{wanted_by} was told to roll back to {given!r}, which is not a version", todo="write it as to=3"
        )
    return int(number)
