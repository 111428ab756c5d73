"""Promote: the alias moves to the evaluated version, if the verdict allows it.

The ledger is written first, then the alias moves, then the version is tagged with its entry. So the alias
never moves without a line that says who and why, and a step killed in between finds its own line on the next
try and completes what is missing: one move, one line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from airflow_ml_provider.contract.arguments import PromoteArguments
from airflow_ml_provider.contract.errors import ConfigError, DataError, TransientError
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.registry.ledger import Entry, Ledger
from airflow_ml_provider.steps import versions
from airflow_ml_provider.steps.context import Outcome, StepContext

if TYPE_CHECKING:
    from airflow_ml_provider.steps.versions import Registered

# The alias that an evaluation compares with, whichever is promoted to.
CHAMPION = "champion"
# The tag that says that an entry's move is complete.
_DONE = "ledger_entry"
# A step that has not moved the alias so long after its entry was killed. Should it be tried again later, it
# finds that the alias has moved meanwhile.
_UNDER_WAY = timedelta(minutes=15)


class _Version(msgspec.Struct, frozen=True):
    name: str
    version: int
    run_id: str = ""


class _Gate(msgspec.Struct, frozen=True):
    gate: str
    passed: bool
    reason: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What of an evaluate step's verdict decides a promotion."""

    decision: Literal["promote", "reject"]
    model: _Version
    champion: _Version | None
    gates: tuple[_Gate, ...] = ()

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
        return _not_promoted(step, arguments, verdict)
    promotion = _Promotion(step, arguments, verdict, dict(given))
    entry = promotion.entry()
    if entry is None:
        return promotion.nothing_to_do()
    return promotion.complete(entry)


def _not_promoted(step: StepContext, arguments: PromoteArguments, verdict: Verdict) -> Outcome:
    failed = "; ".join(f"{gate.gate} ({gate.reason})" for gate in verdict.gates if not gate.passed)
    current = versions.find(step, Model(verdict.model.name, arguments.alias))
    return Outcome(
        model=current.reference(arguments.alias) if current else None,
        verdict={"promoted": False, "alias": arguments.alias, "reason": failed},
        summary={
            "promoted": False,
            "why": f"not promoted: {failed}",
            arguments.alias: str(current) if current else "none yet",
        },
    )


def _is_recent(entry: Entry) -> bool:
    return datetime.now(UTC) - datetime.fromisoformat(entry.at) < _UNDER_WAY


def _named_version(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"


class _Promotion:
    """One promotion, from the ledger's entry to the version's tags."""

    def __init__(
        self, step: StepContext, arguments: PromoteArguments, verdict: Verdict, document: dict[str, Any]
    ) -> None:
        self.step = step
        self.alias = arguments.alias
        self.verdict = verdict
        self.document = document
        self.digest = document_digest(document)
        self.by = arguments.promoted_by or step.spec.run.triggered_by or "unknown"
        against = f"against version {verdict.champion.version}" if verdict.champion else "as the first"
        self.reason = arguments.reason or f"passed {len(verdict.gates)} gates {against}"
        self.ledger = Ledger(step.store, verdict.model.name)
        self._model = f"{verdict.model.name}/{verdict.model.version}"
        self.candidate = self._candidate()

    def entry(self) -> Entry | None:
        """The ledger's entry of this promotion: that of an earlier try, or a new one; None if not needed.

        :raises DataError: the verdict compared with a champion that is no longer the champion.
        :raises TransientError: another promotion has been written and its alias has not moved yet.
        """
        while True:
            entries = self.ledger.entries()
            now = self._named(self.alias)
            mine = next((entry for entry in reversed(entries) if self._is_mine(entry)), None)
            if mine and (now == mine.version or (now == mine.previous and not self._is_done(mine))):
                return mine
            if now == self.verdict.model.version:
                return None
            self._check_fresh(now, entries)
            uri = self.step.keep_document("verdict.json", json.dumps(self.document, indent=1).encode())
            entry = Entry(
                sequence=entries[-1].sequence + 1 if entries else 1,
                model=self.verdict.model.name,
                alias=self.alias,
                version=self.verdict.model.version,
                previous=now,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                by=self.by,
                reason=self.reason,
                verdict=self.digest,
                verdict_uri=uri,
                step_key=self.step.key,
                url=self.step.spec.run.url or "",
            )
            if self.ledger.append(entry):
                return entry
            self.step.log.info("somebody else wrote entry %s of the ledger; looking again", entry.sequence)

    def complete(self, entry: Entry) -> Outcome:
        """Move the alias and tag the version; what is done already stays done."""
        versions.point_alias(self.step, self.candidate, self.alias)
        tags = {
            "promoted_at": entry.at,
            "promoted_by": entry.by,
            "promotion_reason": entry.reason,
            "replaced_version": "" if entry.previous is None else str(entry.previous),
            "verdict_digest": entry.verdict,
            _DONE: str(entry.sequence),
        }
        versions.tag(self.step, self.candidate, tags)
        return self._outcome(entry)

    def nothing_to_do(self) -> Outcome:
        """The version has the alias already, and not from an earlier try of this step."""
        return self._outcome(None)

    def _outcome(self, entry: Entry | None) -> Outcome:
        replaced = entry.previous if entry else None
        why = f"{entry.reason}, by {entry.by}" if entry else f"it is {self.alias} already"
        said = {"ledger entry": entry.sequence} if entry else {}
        return Outcome(
            model=self.candidate.reference(self.alias),
            verdict={
                "promoted": entry is not None,
                "alias": self.alias,
                "version": self.candidate.version,
                "replaced": replaced,
                "reason": why,
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

    def _check_fresh(self, now: int | None, entries: list[Entry]) -> None:
        then = self.verdict.champion.version if self.verdict.champion else None
        champion = now if self.alias == CHAMPION else self._named(CHAMPION)
        if champion != then:
            raise DataError(
                f"the verdict on {self._model} is out of date: when it was made, {CHAMPION} was "
                f"{_named_version(then)}, and it is {_named_version(champion)} now",
                kept=f"the alias {self.alias!r} stays where it is",
                todo="evaluate again: clear the evaluate task and what follows it",
            )
        last = next((entry for entry in reversed(entries) if entry.alias == self.alias), None)
        if last and last.previous == now and _is_recent(last) and not self._is_done(last):
            raise TransientError(
                f"entry {last.sequence} of the ledger promotes version {last.version}, and its step "
                f"{last.step_key} has not moved the alias yet",
                kept=f"the alias {self.alias!r} stays where it is",
                todo=f"if that step is not running, run it again, or set the alias to {last.version}",
            )

    def _is_mine(self, entry: Entry) -> bool:
        return (entry.step_key, entry.verdict, entry.alias) == (self.step.key, self.digest, self.alias)

    def _is_done(self, entry: Entry) -> bool:
        promoted = self._version(entry.version)
        return promoted is not None and promoted.tags.get(_DONE) == str(entry.sequence)

    def _named(self, alias: str) -> int | None:
        found = versions.find(self.step, Model(self.verdict.model.name, alias))
        return found.version if found else None

    def _version(self, number: int) -> Registered | None:
        return versions.find(self.step, Model(self.verdict.model.name, version=number))

    def _candidate(self) -> Registered:
        found = self._version(self.verdict.model.version)
        if found is None:
            raise DataError(
                f"the evaluated version {self._model} is gone from MLflow",
                kept=f"the alias {self.alias!r} stays where it is",
                todo="train and evaluate again",
            )
        return found
