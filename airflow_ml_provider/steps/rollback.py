"""Rollback: the alias goes back to an earlier version, and what the version that it leaves has predicted is listed.

It moves as a promotion does (:mod:`airflow_ml_provider.registry.moves`). A step rolls back once: tried again
or cleared it finds its entry, also when the alias has moved on since.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.arguments import RollbackArguments
from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.registry.history import previous_version, standing, written
from airflow_ml_provider.registry.ledger import Entry, Ledger
from airflow_ml_provider.registry.moves import Mover, State, named_version
from airflow_ml_provider.steps import moving, versions
from airflow_ml_provider.steps.affected import affected_partitions, check_predictions
from airflow_ml_provider.steps.context import Outcome, StepContext

if TYPE_CHECKING:
    from airflow_ml_provider.steps.versions import Registered


def run(step: StepContext, arguments: RollbackArguments) -> Outcome:
    """Move the alias back."""
    if not arguments.reason.strip():
        raise ConfigError(
            f"nobody said why {arguments.model.name!r} is rolled back",
            kept="the alias and the ledger are as they were",
            todo="give reason=: it is kept in the ledger",
        )
    # Before anything moves: a wrong table would fail the step after it has rolled back.
    tables = check_predictions(step, arguments.predictions)
    rollback = _Rollback(step, arguments)
    entry = rollback.move()
    moving.tell(step, rollback)
    if entry is None or entry.version is None:
        raise AssertionError("a rollback has an entry, and an entry of its own names a version")
    registered = rollback.version(entry.version)
    now = rollback.aliases.named(rollback.alias)
    if now == entry.version:
        rollback.tag(entry, registered)
    else:
        step.warn(
            f"the alias {rollback.alias!r} has moved on since this rollback (entry {entry.sequence}), and stays "
            "where it is; to roll back again, start a new run"
        )
    # The newest predictions: some may have been made between the start of this step and the move.
    affected = affected_partitions(step, tables, registered.name, entry.previous)
    return _outcome(step, entry, registered, *affected, moved=now == entry.version)


def _outcome(
    step: StepContext, entry: Entry, registered: Registered, affected: list[dict[str, Any]], together: str,
    *, moved: bool,
) -> Outcome:  # fmt: skip
    name, alias = registered.name, entry.alias
    replaced = "none" if entry.previous is None else f"{name}/{entry.previous}"
    summary: dict[str, Any] = {
        alias: str(registered),
        "left": replaced,
        "why": f"{entry.reason}, by {entry.by}",
    }
    for one in affected:
        summary[f"predicted by {replaced} in {one['table']}"] = (
            f"{one['rows']:,} rows, partitions {one['partitions'] or 'none'}" if one["rows"] else "nothing"
        )
    return Outcome(
        model=registered.reference(alias),
        verdict={
            "rolled_back": True,
            "moved": moved,
            "alias": alias,
            "version": registered.version,
            "replaced": entry.previous,
            "reason": entry.reason,
            "by": entry.by,
            "ledger_entry": entry.sequence,
            "affected": affected,
            "affected_partitions": together,
        },
        summary={**summary, "ledger entry": entry.sequence},
        links={"Model": step.tracker.model_url(registered.reference())},
    )


class _Rollback(Mover):
    """One rollback, from the ledger's entry to the version's tags."""

    def __init__(self, step: StepContext, arguments: RollbackArguments) -> None:
        self.model = arguments.model.name
        super().__init__(
            Ledger(step.store, self.model), versions.Aliases(step, self.model), arguments.model.alias,
            step_key=step.key, log=step.log,
        )  # fmt: skip
        self.step = step
        self.to = arguments.to
        self.leaves = arguments.leaves or self.aliases.named(self.alias)
        self.effective = arguments.effective
        self.by = arguments.rolled_back_by or step.spec.run.triggered_by or "unknown"
        self.reason = arguments.reason.strip()
        self.asked = {
            "model": self.model,
            "alias": self.alias,
            "to": self.to,
            "reason": self.reason,
            "effective": self.effective,
        }
        self.digest = document_digest(self.asked)

    def is_mine(self, entry: Entry) -> bool:
        """Whether an earlier try wrote it, asked for the same."""
        return (entry.step_key, entry.verdict, entry.alias) == (self.step_key, self.digest, self.alias)

    def done(self, state: State) -> Entry | None:
        """The entry of an earlier try, wherever the alias is now."""
        return next((move.entry for move in state.moves if move.moved and self.is_mine(move.entry)), None)

    def wanted(self, state: State) -> Entry | None:
        """A new entry, if there is a version to go back to."""
        self._check_fresh(state)
        registered = self.version(self._target(state))
        return Entry(
            sequence=state.last + 1,
            model=self.model,
            alias=self.alias,
            version=registered.version,
            previous=state.now,
            at=written(datetime.now(UTC)),
            by=self.by,
            reason=self.reason,
            verdict=self.digest,
            verdict_uri=self.step.keep_document("rollback.json", json.dumps(self.asked, indent=1).encode()),
            step_key=self.step_key,
            url=self.step.spec.run.url or "",
            kind="rollback",
            effective=moving.effective_moment(self.effective, registered),
        )

    def version(self, number: int) -> Registered:
        """A version to go back to.

        :raises DataError: MLflow does not have it, or it was not registered by a train step.
        """
        found = versions.find(self.step, Model(self.model, version=number))
        if found is None:
            raise DataError(
                f"version {number} of {self.model!r} is not in MLflow at {self.step.tracker.uri}, so there is no "
                "going back to it",
                kept=f"the alias {self.alias!r} stays where it is",
                todo=self._others(number),
            )
        # Raises where there is none: such a version could not be loaded after the rollback.
        _ = found.digest
        return found

    def tag(self, entry: Entry, registered: Registered) -> None:
        """Tag the versions for people; the ledger does not need it."""
        said = {"rollback_reason": entry.reason, "ledger_entry": str(entry.sequence)}
        versions.tag(self.step, registered, {"rolled_back_to_at": entry.at, **said})
        left = entry.previous and versions.find(self.step, Model(self.model, version=entry.previous))
        if left:
            versions.tag(self.step, left, {"rolled_back_at": entry.at, "rolled_back_by": entry.by, **said})

    def _check_fresh(self, state: State) -> None:
        # Two people may press the button at once, and mean the same: one step back, not two.
        if self.to is not None or self.leaves in (None, state.now):
            return
        last = next((move.entry for move in reversed(state.moves) if move.moved), None)
        by = f" (entry {last.sequence} of the ledger, by {last.by}: {last.reason})" if last else ""
        raise DataError(
            f"when this rollback of {self.model!r} was asked for, {self.alias} was version {self.leaves}; it is "
            f"{named_version(state.now)} now{by}",
            kept=f"the alias {self.alias!r} stays where it is",
            todo="if that is not what you want, roll back again: from there, or to a version that you name",
        )

    def _target(self, state: State) -> int:
        target = self.to if self.to is not None else previous_version(state.moves)
        if target is None:
            raise DataError(
                f"by its ledger, {self.model!r} had no {self.alias} before "
                f"{f'version {state.now}' if state.now is not None else 'now'}, so there is none to go back to",
                kept=f"the alias {self.alias!r} stays where it is",
                todo="name a version: to=...",
            )
        if target == state.now:
            raise DataError(
                f"version {target} of {self.model!r} is {self.alias} already",
                kept=f"the alias {self.alias!r} stays where it is",
                todo="leave to= out to go back to the one before it",
            )
        return target

    def _others(self, gone: int) -> str:
        moves = [move for move in self.ledger.moves() if move.entry.alias == self.alias]
        present, kept = standing(moves)
        others = [str(number) for number in dict.fromkeys(reversed(kept)) if number not in (present, gone)]
        before = f"; champions before it were {', '.join(others)}" if others else ""
        return f"name a version that is there: to=...{before}"
