"""A candidate becomes champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_ml_provider import config
from airflow_ml_provider.assets import model_asset
from airflow_ml_provider.contract.arguments import PromoteArguments
from airflow_ml_provider.contract.documents import ModelVersion, StepResult
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.models import Model, as_model
from airflow_ml_provider.operators import approval as approvals
from airflow_ml_provider.operators import runs
from airflow_ml_provider.operators.approval import Answer, Approval, Question
from airflow_ml_provider.operators.base import StepOperator
from airflow_ml_provider.operators.events import announce_model
from airflow_ml_provider.operators.evidence import evidence
from airflow_ml_provider.operators.references import known_model
from airflow_ml_provider.registry.history import standing
from airflow_ml_provider.registry.ledger import Ledger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.documents import StepSpec
    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.operators.pins import Pins


class PromoteOperator(StepOperator):
    """Moves an alias, ``champion``, to the evaluated version, if the verdict allows it.

    The model's ledger keeps who promoted it, when, why, by which verdict, and what it replaced. Promoting the
    champion again changes nothing, so a retry and a clear are harmless. A verdict against a champion that was
    replaced since, or whose promotion was rolled back, is refused.

    :param verdict: an evaluate step's ``.output``. (templated)
    :param alias: the alias that moves. (templated)
    :param reason: why, for the ledger. (templated)
    :param effective: from which moment on the version counts as champion (``Champion(as_of=...)``), as a date
        or a time in UTC: not in the future, and not before what it was trained on was known. From when the
        alias moves, when empty. (templated)
    :param approval: an Approval: asks people first, showing them the verdict; the task waits without holding a
        slot. An approval stands over retries and clears while the verdict is the same; a rejection is no
        failure, and is asked about again when the task is cleared.
    :param model: the registered model, to have its asset where ``verdict`` does not come from an evaluate
        step of the same DAG.
    """

    verb = "promote"
    # Moving an alias is an act, not a result.
    shared = False
    template_fields: Sequence[str] = ("verdict", "alias", "reason", "effective")
    ui_color = "#fff3e0"

    def __init__(
        self,
        *,
        verdict: Mapping[str, Any] | Any,
        alias: str = "champion",
        reason: str = "",
        effective: str = "",
        approval: Approval | None = None,
        model: Model | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.verdict = verdict
        self.alias = alias
        self.reason = reason
        self.effective = effective
        self.approval = approval
        self.answer: Answer | None = None
        self.model = model
        known = as_model(model) if model is not None else known_model(verdict)
        if known is not None:
            self.add_outlet(model_asset(Model(known.name, alias)))

    def arguments(self, pins: Pins, context: Context) -> PromoteArguments:
        """The step's arguments."""
        return PromoteArguments(
            verdict=self._document(),
            alias=self.alias,
            reason=str(self.reason),
            promoted_by=runs.triggered_by(context),
            approval=self.answer.document() if self.answer else {},
            effective=str(self.effective),
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask, if people are to be asked; then run the step, or reuse its result."""
        if self.approval is not None and self._document().get("decision") == "promote":
            self.answer = approvals.standing(config.store(), self._question(context))
            if self.answer is None:
                self._ask(self.approval, context)
            self.log.info("%s at %s already", self.answer, self.answer.at)
        return self.run_step(context)

    def answered(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Carry on after people have answered, or after the deadline."""
        self.answer = approvals.keep(config.store(), self._question(context), event)
        self.log.info("%s", self.answer)
        return self.run_step(context)

    def further_parts(self, pins: Pins, arguments: PromoteArguments) -> Mapping[str, Any]:
        """The version that the alias names now: after a rollback by hand, promoting is work again."""
        found = as_model(self.verdict, wanted_by=pins.wanted_by)
        now = pins.existing_model(Model(found.name, arguments.alias))
        return {"replaces": now.version if now else None}

    def without_running(self, store: Store, spec: StepSpec) -> StepResult | None:
        """Of a version that has the alias already, by the ledger too, there is nothing to move."""
        verdict, alias = self._document(), str(self.alias)
        model = verdict.get("model")
        if verdict.get("decision") != "promote" or not isinstance(model, Mapping):
            return None
        name, version = str(model["name"]), model["version"]
        moves = [move for move in Ledger(store, name).moves() if move.entry.alias == alias]
        mine = any(move.entry.step_key == spec.step_key for move in moves)
        settled = all(move.outcome for move in moves) and standing(moves)[0] == version
        if (
            spec.parts.get("replaces") != version
            or mine
            or not settled
            or (self.answer and not self.answer.approved)
        ):
            return None
        why = f"it is {alias} already"
        said = {"promoted": False, alias: f"{name}/{version}", "replaced": "none", "why": why}
        told = {"promoted": False, "alias": alias, "version": version, "replaced": None, "reason": why,
                "ledger_entry": None}  # fmt: skip
        reference = ModelVersion(name, version, str(model.get("run_id", "")), alias)
        return StepResult(
            self.verb, spec.step_key, spec.fingerprint, "success", model=reference, verdict=told, summary=said,
            parts=spec.parts,
        )  # fmt: skip

    def _document(self) -> dict[str, Any]:
        given = self.verdict
        found = given.get("verdict") if isinstance(given, Mapping) and "verb" in given else given
        if not isinstance(found, Mapping):
            raise ConfigError(
                f"task {self.task_id!r} was given no verdict: {given!r}",
                todo="pass verdict=<evaluate step>.output",
            )
        return dict(found)

    def _question(self, context: Context) -> Question:
        further = {"effective": str(self.effective)} if self.effective else {}
        asked = document_digest({"verdict": self._document(), "alias": self.alias, **further})
        return Question(runs.step_key_of(context), asked, runs.clearing_of(context))

    def _ask(self, approval: Approval, context: Context) -> NoReturn:
        verdict, given = self._document(), self.verdict
        links = given.get("links", {}) if isinstance(given, Mapping) and "verb" in given else {}
        model = verdict.get("model")
        if not isinstance(model, Mapping) or not {"name", "version"} <= model.keys():
            raise ConfigError(
                f"task {self.task_id!r} was given a verdict that names no model version: {sorted(verdict)}",
                kept="nobody was asked, and the alias stays where it is",
                todo="pass verdict=<evaluate step>.output",
            )
        subject = f"Let {model['name']} version {model['version']} become {self.alias}?"
        self.log.info("waiting for an approval; it is asked for on the tab Required Actions")
        shown = evidence(verdict, links, self.alias, str(self.effective))
        approval.ask(subject, shown, context, asked=self._question(context).asked, then="answered")

    def announce(self, result: StepResult, context: Context) -> None:
        """An event, if the alias moved."""
        promoted = bool((result.verdict or {}).get("promoted"))
        announce_model(self, result, context, moved=promoted, alias=self.alias)
