"""Moving an alias so that the ledger explains it, whoever moves at once and wherever one of them dies.

The entry comes first, then the alias moves, then the entry's outcome is written. An entry is written only when
every one before it has an outcome, and creating it is atomic, so movers come one after another: MLflow has no
compare-and-set for aliases, and this is one.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from airflow_ml_provider.contract.errors import MLError, TransientError
from airflow_ml_provider.registry.history import instant, standing, written
from airflow_ml_provider.registry.ledger import Entry, Ledger, Move, Outcome

# An entry without an outcome is under way so long; then its step is taken for dead.
GRACE = timedelta(minutes=15)
# A step moves the alias only so soon after its entry that nobody takes it for dead meanwhile, however slow
# MLflow answers.
_MOVES_WITHIN = GRACE / 2
_PATIENCE = 60.0
_PAUSE = 0.2


class Aliases(Protocol):
    """The aliases of one registered model, in MLflow."""

    def named(self, alias: str) -> int | None:
        """The version that an alias names, None if it names none."""

    def point(self, alias: str, version: int) -> None:
        """Let an alias name a version; doing it again changes nothing."""


class State(NamedTuple):
    """Where an alias stands.

    :param moves: its moves, oldest first.
    :param now: the version that it names; the ledger says the same unless a move is under way.
    :param last: the number of the ledger's last entry.
    :param under_way: an entry of the model whose outcome is open.
    :param noticed: entries that this look has added for changes by somebody's hand.
    """

    moves: list[Move]
    now: int | None
    last: int
    under_way: Entry | None
    noticed: list[Entry]


def settle(ledger: Ledger, aliases: Aliases, alias: str, *, noticed_by: str) -> State:
    """Conclude what dead steps have left, record what somebody's hand has done, and say where an alias stands.

    :param noticed_by: who looks, for the reason of what is recorded.
    """
    noticed: list[Entry] = []
    while True:
        moves = ledger.moves()
        mine = [move for move in moves if move.entry.alias == alias]
        last = moves[-1].entry.sequence if moves else 0
        if still_open := [move.entry for move in moves if move.outcome is None]:
            if _is_under_way(still_open[0], last):
                return State(mine, aliases.named(alias), last, still_open[0], noticed)
            _conclude_dead(ledger, aliases, moves, still_open[0], noticed_by)
            continue
        # After the ledger: if a step moved the alias in between, its entry is in the way of ours.
        now = aliases.named(alias)
        said, _ = standing(mine)
        if now == said:
            return State(mine, now, last, None, noticed)
        entry = _external(ledger.model, alias, now, said, last + 1, noticed_by, found=not mine)
        if ledger.append(entry):
            ledger.conclude(_outcome(entry, moved=True, by=noticed_by, moved_at=entry.at))
            noticed.append(entry)


class Mover(ABC):
    """One step that moves an alias, from the ledger's entry to its outcome.

    :param step_key: the step; the same over its tries.
    :param patience: seconds to wait for somebody else's move.
    """

    def __init__(
        self, ledger: Ledger, aliases: Aliases, alias: str, *, step_key: str, log: logging.Logger,
        patience: float = _PATIENCE,
    ) -> None:  # fmt: skip
        self.ledger, self.aliases, self.alias = ledger, aliases, alias
        self.step_key = step_key
        self.log = log
        self.patience = patience
        self.noticed: list[Entry] = []
        self.late: list[Entry] = []

    @abstractmethod
    def is_mine(self, entry: Entry) -> bool:
        """Whether an earlier try of this step wrote the entry."""

    @abstractmethod
    def done(self, state: State) -> Entry | None:
        """The entry by which an earlier try moved the alias, if there is nothing left to move."""

    @abstractmethod
    def wanted(self, state: State) -> Entry | None:
        """The entry to write, numbered ``state.last + 1``; None if the alias is as wanted.

        :raises DataError: the alias must not move.
        """

    def move(self) -> Entry | None:
        """Move the alias; gives the entry by which it moved, None if there was nothing to do.

        :raises TransientError: somebody else's move does not end, or MLflow does not answer.
        """
        end = time.monotonic() + self.patience
        while True:
            state = settle(self.ledger, self.aliases, self.alias, noticed_by=f"step {self.step_key}")
            self.noticed += state.noticed
            entry = state.under_way
            if entry is None:
                if done := self.done(state):
                    return done
                entry = self.wanted(state)
                if entry is None:
                    return None
                if not self.ledger.append(entry):
                    self.log.info("somebody else wrote entry %s of the ledger; looking again", entry.sequence)
                    continue
            elif not self.is_mine(entry):
                if time.monotonic() > end:
                    raise _does_not_end(entry, self.ledger.model)
                time.sleep(_PAUSE)
                continue
            if self._complete(entry):
                return entry

    def _complete(self, entry: Entry) -> bool:
        """Move the alias and write the outcome; False if the entry came to nothing, to start over."""
        moved_at, version = entry.at, entry.version
        now = self.aliases.named(self.alias)
        if now != version:
            known = self.ledger.outcome(entry.sequence)
            if known is not None or version is None:
                return False
            if now != entry.previous or _age(entry) > _MOVES_WITHIN:
                self.log.info("entry %s is given up: the alias or the time has moved on", entry.sequence)
                self.ledger.conclude(_outcome(entry, moved=False, by=self.step_key))
                return False
            self._point(entry, version)
            moved_at = written(datetime.now(UTC))
        if self.ledger.conclude(_outcome(entry, moved=True, by=self.step_key, moved_at=moved_at)):
            return True
        known = self.ledger.outcome(entry.sequence)
        if known is not None and known.moved:
            return True
        self._take_back(entry)
        return False

    def _point(self, entry: Entry, version: int) -> None:
        try:
            self.aliases.point(self.alias, version)
        except MLError as error:
            if not error.retryable:
                # MLflow has answered that it will not: this entry comes to nothing.
                self.ledger.conclude(_outcome(entry, moved=False, by=self.step_key))
                raise
            if self.aliases.named(self.alias) != version:
                raise type(error)(
                    f"{error.what}. Entry {entry.sequence} of the ledger of {entry.model!r} is under way",
                    kept=f"the alias {self.alias!r} was at {named_version(entry.previous)} after that",
                    retry=f"completes entry {entry.sequence}",
                    todo=error.todo,
                ) from error

    def _take_back(self, late: Entry) -> None:
        """Undo a move that came so late that the entry had been given up, as a move of its own."""
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            moves = self.ledger.moves()
            if any(move.outcome is None for move in moves):
                time.sleep(_PAUSE)
                continue
            now = self.aliases.named(self.alias)
            said, _ = standing(move for move in moves if move.entry.alias == self.alias)
            if now in (said, None) or now != late.version or said is None:
                return
            entry = Entry(
                sequence=moves[-1].entry.sequence + 1, model=late.model, alias=self.alias, version=said,
                previous=now, at=written(datetime.now(UTC)), by=late.by,
                reason=f"takes back the late move of entry {late.sequence}, which had been given up",
                verdict="", verdict_uri="", step_key=self.step_key,
            )  # fmt: skip
            if self.ledger.append(entry) and self._complete(entry):
                self.late.append(late)


def named_version(version: int | None) -> str:
    """A version for people."""
    return "no version" if version is None else f"version {version}"


def _external(
    model: str, alias: str, now: int | None, said: int | None, sequence: int, noticed_by: str, *, found: bool
) -> Entry:
    why = "found when the ledger began" if found else f"the ledger says {named_version(said)}"
    return Entry(
        sequence=sequence, model=model, alias=alias, version=now, previous=said,
        at=written(datetime.now(UTC)), by="external", reason=f"noticed by {noticed_by}: {why}",
        verdict="", verdict_uri="", step_key="", kind="external",
    )  # fmt: skip


def _is_under_way(entry: Entry, last: int) -> bool:
    # One that is not the last is from before there were outcomes: nobody is at it.
    return entry.kind != "external" and entry.sequence == last and _age(entry) <= GRACE


def _conclude_dead(ledger: Ledger, aliases: Aliases, moves: list[Move], entry: Entry, by: str) -> None:
    """Write the outcome of an entry on behalf of its step, by where the alias went from there."""
    same = (move.entry for move in moves if move.entry.alias == entry.alias)
    following = next((later for later in same if later.sequence > entry.sequence), None)
    afterwards = following.previous if following else aliases.named(entry.alias)
    moved = entry.kind == "external" or afterwards == entry.version
    ledger.conclude(_outcome(entry, moved=moved, by=by, moved_at=entry.at if moved else ""))


def _outcome(entry: Entry, *, moved: bool, by: str, moved_at: str = "") -> Outcome:
    return Outcome(entry.sequence, moved, written(datetime.now(UTC)), by, moved_at)


def _age(entry: Entry) -> timedelta:
    return datetime.now(UTC) - instant(entry.at)


def _does_not_end(entry: Entry, model: str) -> TransientError:
    until = (instant(entry.at) + GRACE).strftime("%H:%M UTC")
    return TransientError(
        f"entry {entry.sequence} of the ledger of {model!r} is under way: step {entry.step_key} moves "
        f"{entry.alias!r} to {named_version(entry.version)}, and has not ended",
        kept="the alias and the ledger are as they were",
        retry="looks again",
        todo=f"if that step is not running, run it again; from {until} on its entry is settled by whoever comes next",
    )
