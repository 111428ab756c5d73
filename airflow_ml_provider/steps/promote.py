"""Promote: the alias moves to the evaluated version, if the verdict allows it and nobody rejects it.

How the alias moves so that the ledger explains it, whoever moves at once and wherever a step is killed, is in
:mod:`airflow_ml_provider.registry.moves`. The version is tagged for people at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from airflow_ml_provider.contract.arguments import PromoteArguments
from airflow_ml_provider.contract.brief import shortened
from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.registry.history import written
from airflow_ml_provider.registry.ledger import Entry, Ledger
from airflow_ml_provider.registry.moves import Mover, State, named_version
from airflow_ml_provider.steps import moving, versions
from airflow_ml_provider.steps.context import Outcome, StepContext

if TYPE_CHECKING:
    from airflow_ml_provider.steps.versions import Registered

# The alias that an evaluation compares with, whichever is promoted to.
CHAMPION = "champion"
_LONGEST_REASON = 1_500


class _Version(msgspec.Struct, frozen=True):
    name: str
    version: int
    run_id: str = ""


class _Gate(msgspec.Struct, frozen=True):
    gate: str
    passed: bool
    reason: str = ""


class _Line(msgspec.Struct, frozen=True):
    text: str
    passed: bool
    message: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What of an evaluate step's verdict decides a promotion."""

    decision: Literal["promote", "reject"]
    model: _Version
    champion: _Version | None
    gates: tuple[_Gate, ...] = ()
    behaviour: tuple[_Line, ...] = ()

    def failures(self) -> str:
        """Why the candidate was rejected."""
        failed = [f"{gate.gate} ({gate.reason})" for gate in self.gates if not gate.passed]
        failed += [f"{line.text} ({line.message})" for line in self.behaviour if not line.passed]
        return shortened("; ".join(failed), _LONGEST_REASON)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Verdict:
        """A verdict from its document.

        :raises ConfigError: it is not one.
        """
        try:
            return msgspec.convert(document, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"the promote step was not given the verdict of an evaluate step: {error}",
                todo="pass verdict=<evaluate step>.output",
            ) from error


def run(step: StepContext, arguments: PromoteArguments) -> Outcome:
    """Move the alias, or say why not."""
    given = arguments.verdict.get("verdict") if "verb" in arguments.verdict else arguments.verdict
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"the output of a {arguments.verdict.get('verb')} step was given to promote; it has no verdict",
            todo="pass verdict=<evaluate step>.output",
        )
    verdict = Verdict.read(given)
    if verdict.decision == "reject":
        return _not_promoted(step, arguments, verdict, verdict.failures())
    if arguments.approval and not arguments.approval.get("approved"):
        said = str(arguments.approval.get("said") or "it was not approved")
        if rejected := versions.find(step, Model(verdict.model.name, version=verdict.model.version)):
            versions.tag(step, rejected, {"approval": f"{said}, for {arguments.alias}"})
        return _not_promoted(step, arguments, verdict, said)
    promotion = _Promotion(step, arguments, verdict, dict(given))
    entry = promotion.move()
    moving.tell(step, promotion)
    if entry is not None:
        promotion.tag(entry)
    return promotion.outcome(entry)


def _not_promoted(step: StepContext, arguments: PromoteArguments, verdict: Verdict, why: str) -> Outcome:
    current = versions.find(step, Model(verdict.model.name, arguments.alias))
    return Outcome(
        model=current.reference(arguments.alias) if current else None,
        verdict={"promoted": False, "alias": arguments.alias, "reason": why},
        summary={
            "promoted": False,
            "why": f"not promoted: {why}",
            arguments.alias: str(current) if current else "none yet",
        },
    )


class _Promotion(Mover):
    """One promotion, from the ledger's entry to the version's tags."""

    def __init__(
        self, step: StepContext, arguments: PromoteArguments, verdict: Verdict, document: dict[str, Any]
    ) -> None:
        model = verdict.model.name
        super().__init__(
            Ledger(step.store, model), versions.Aliases(step, model), arguments.alias,
            step_key=step.key, log=step.log,
        )  # fmt: skip
        self.step = step
        self.verdict = verdict
        self.document = document
        self.digest = document_digest(document)
        self.by = arguments.promoted_by or step.spec.run.triggered_by or "unknown"
        self.approval = arguments.approval
        against = f"against version {verdict.champion.version}" if verdict.champion else "as the first"
        self.reason = arguments.reason or f"passed {len(verdict.gates)} gates {against}"
        self.candidate = self._candidate()
        self.effective = moving.effective_moment(arguments.effective, self.candidate)

    def is_mine(self, entry: Entry) -> bool:
        """Whether an earlier try wrote it, on the same verdict."""
        return (entry.step_key, entry.verdict, entry.alias) == (self.step_key, self.digest, self.alias)

    def done(self, state: State) -> Entry | None:
        """The entry of an earlier try that moved the alias, if it is still there."""
        mine = next((move for move in reversed(state.moves) if self.is_mine(move.entry)), None)
        return mine.entry if mine and mine.moved and state.now == mine.entry.version else None

    def wanted(self, state: State) -> Entry | None:
        """A new entry, if the verdict still holds."""
        if state.now == self.candidate.version:
            return None
        self._check_fresh(state)
        return Entry(
            sequence=state.last + 1,
            model=self.candidate.name,
            alias=self.alias,
            version=self.candidate.version,
            previous=state.now,
            at=written(datetime.now(UTC)),
            by=self.by,
            reason=self.reason,
            verdict=self.digest,
            verdict_uri=self.step.keep_document("verdict.json", json.dumps(self.document, indent=1).encode()),
            step_key=self.step_key,
            url=self.step.spec.run.url or "",
            effective=self.effective,
            approval=self.approval,
        )

    def tag(self, entry: Entry) -> None:
        """Tag the version for people; the ledger does not need it."""
        tags = {
            "promoted_at": entry.at,
            "promoted_by": entry.by,
            "promotion_reason": entry.reason,
            "replaced_version": "" if entry.previous is None else str(entry.previous),
            "verdict_digest": entry.verdict,
            "ledger_entry": str(entry.sequence),
        }
        if said := entry.approval.get("said"):
            tags["approval"] = str(said)
        versions.tag(self.step, self.candidate, tags)

    def outcome(self, entry: Entry | None) -> Outcome:
        """What is told of it; without an entry the version has the alias already, and not by this step."""
        replaced = entry.previous if entry else None
        why = f"{entry.reason}, by {entry.by}" if entry else f"it is {self.alias} already"
        said: dict[str, Any] = {"ledger entry": entry.sequence} if entry else {}
        if entry and entry.effective:
            said["counts from"] = entry.effective
        if entry and self.approval:
            said["approval"] = self.approval.get("said", "approved")
        return Outcome(
            model=self.candidate.reference(self.alias),
            verdict={
                "promoted": entry is not None,
                "alias": self.alias,
                "version": self.candidate.version,
                "replaced": replaced,
                "reason": why,
                "ledger_entry": entry.sequence if entry else None,
            },
            summary={
                "promoted": entry is not None,
                self.alias: str(self.candidate),
                "replaced": "none" if replaced is None else f"{self.candidate.name}/{replaced}",
                "why": why,
                **said,
            },
            links={"Model": self.step.tracker.model_url(self.candidate.reference())},
        )

    def _check_fresh(self, state: State) -> None:
        then = self.verdict.champion.version if self.verdict.champion else None
        champion = state.now if self.alias == CHAMPION else self.aliases.named(CHAMPION)
        if champion != then:
            raise DataError(
                f"the verdict on {self.candidate} is out of date: when it was made, {CHAMPION} was "
                f"{named_version(then)}, and it is {named_version(champion)} now",
                kept=f"the alias {self.alias!r} stays where it is",
                todo="evaluate again: clear the evaluate task and what follows it",
            )
        last = next((move for move in reversed(state.moves) if move.moved), None)
        used = [move for move in state.moves if move.moved and move.entry.verdict == self.digest]
        if used and last and last.entry.kind == "rollback" and last.entry.previous == self.candidate.version:
            raise DataError(
                f"this verdict promoted {self.candidate} before, and {last.entry.by} rolled it back since "
                f"(entry {last.entry.sequence} of the ledger: {last.entry.reason})",
                kept=f"the alias {self.alias!r} stays where it is",
                todo="evaluate again on other rows, or move it by RollbackOperator(to="
                f"{self.candidate.version}) or `airflow-ml rollback --to {self.candidate.version}`",
            )

    def _candidate(self) -> Registered:
        number = self.verdict.model.version
        found = versions.find(self.step, Model(self.verdict.model.name, version=number))
        if found is None:
            raise DataError(
                f"the evaluated version {self.verdict.model.name}/{number} is gone from MLflow",
                kept=f"the alias {self.alias!r} stays where it is",
                todo="train and evaluate again",
            )
        return found
