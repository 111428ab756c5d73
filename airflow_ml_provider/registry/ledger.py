"""The ledger of a model: every change of its aliases, in order, never changed afterwards.

A change is two documents. Its entry, ``{store}/registry/{model}/ledger/00000001.json``, says before the alias
moves who wants it moved and why; its outcome, ``.../outcomes/00000001.json``, says afterwards whether it did.
Each is created only if there is none of that number. So of two writers who saw the same last entry one comes
first and the other is told, on local disk as on object storage, and nothing is ever lost or overwritten.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.store import Store

_Document = TypeVar("_Document", "Entry", "Outcome")
_AT_ONCE = 16


class Entry(msgspec.Struct, frozen=True):
    """One change of an alias, as it was wanted.

    :param sequence: its number; the first entry of a model is 1.
    :param alias: the alias that moves.
    :param version: the model version that it moves to; None when somebody deleted the alias.
    :param previous: the version that it named before; None for the first champion.
    :param at: when it was written, ISO 8601, UTC.
    :param by: the user or the kind of run that asked for it.
    :param reason: why, for people.
    :param verdict: digest of the verdict that allowed it, or of what a rollback was asked for.
    :param verdict_uri: where that document is.
    :param step_key: the step that wrote it; a step that is tried again finds its own entry by it.
    :param url: the step's page in Airflow, where known.
    :param kind: a promotion, a rollback, or a change by somebody's hand that was noticed.
    :param effective: from which moment on the version counts as the alias's, ISO 8601, UTC; empty means from
        when the alias moved.
    :param approval: who approved it and how it was asked for, where it was.
    """

    sequence: int
    model: str
    alias: str
    version: int | None
    previous: int | None
    at: str
    by: str
    reason: str
    verdict: str
    verdict_uri: str
    step_key: str
    url: str = ""
    kind: Literal["promotion", "rollback", "external"] = "promotion"
    effective: str = ""
    approval: dict[str, Any] = {}


class Outcome(msgspec.Struct, frozen=True):
    """What came of an entry.

    :param moved: whether the alias moved; an entry whose alias did not is abandoned.
    :param at: when this was written: from then on it is known. ISO 8601, UTC.
    :param by: the step that wrote it, not always the entry's own.
    :param moved_at: when the alias moved, as well as it is known. ISO 8601, UTC.
    """

    sequence: int
    moved: bool
    at: str
    by: str
    moved_at: str = ""


class Move(NamedTuple):
    """An entry with its outcome; None while it is under way."""

    entry: Entry
    outcome: Outcome | None

    @property
    def moved(self) -> bool:
        """Whether the alias is known to have moved."""
        return self.outcome is not None and self.outcome.moved

    @property
    def effective(self) -> str:
        """From which moment on its version counts; empty while that is not known."""
        return self.entry.effective or (self.outcome.moved_at if self.outcome else "")


class Ledger:
    """The moves of one model. What was read once is not read again: it cannot change.

    :param model: its name in the MLflow registry.
    """

    def __init__(self, store: Store, model: str) -> None:
        self.store = store
        self.model = model
        # A registered model may be named "..", "50 %" or "größe"; a path may not.
        name = quote(model, safe="")
        home = f"registry/{name.replace('.', '%2E') if not name.strip('.') else name}"
        self.folder, self.outcomes = f"{home}/ledger", f"{home}/outcomes"
        self._known: dict[str, Any] = {}

    def entries(self) -> list[Entry]:
        """All entries, the oldest first.

        :raises DataError: an entry is not one; it is named and left alone.
        """
        return self._read_all(self.folder, Entry)

    def moves(self) -> list[Move]:
        """All entries with their outcomes, the oldest first.

        :raises DataError: a document is not what it should be; it is named and left alone.
        """
        # Entries first: all that were there before the last of them had their outcomes then.
        entries = self.entries()
        outcomes = {found.sequence: found for found in self._read_all(self.outcomes, Outcome)}
        return [Move(entry, outcomes.get(entry.sequence)) for entry in entries]

    def outcome(self, sequence: int) -> Outcome | None:
        """The outcome of an entry, None if it has none yet."""
        path = f"{self.outcomes}/{sequence:08d}.json"
        return self._read(path, Outcome) if path in self._known or self.store.exists(path) else None

    def append(self, entry: Entry) -> bool:
        """Write an entry under its number; False when somebody else's has that number already."""
        return self._create(self.folder, entry)

    def conclude(self, outcome: Outcome) -> bool:
        """Write an entry's outcome; False when it has one already."""
        return self._create(self.outcomes, outcome)

    def _create(self, folder: str, document: Entry | Outcome) -> bool:
        content = msgspec.json.format(msgspec.json.encode(document), indent=1)
        return self.store.create(f"{folder}/{document.sequence:08d}.json", content)

    def _read_all(self, folder: str, kind: type[_Document]) -> list[_Document]:
        paths = sorted(self.store.paths(folder))
        # A document is a request, and a year has some hundreds of them.
        with ThreadPoolExecutor(_AT_ONCE) as readers:
            return list(readers.map(lambda path: self._read(path, kind), paths))

    def _read(self, path: str, kind: type[_Document]) -> _Document:
        if path not in self._known:
            try:
                self._known[path] = msgspec.json.decode(self.store.read(path) or b"", type=kind)
            except msgspec.DecodeError as error:
                raise DataError(
                    f"{path} in {self.store.uri} is not an {kind.__name__.lower()} of the ledger of "
                    f"{self.model!r}: {error}",
                    kept="the alias and the rest of the ledger are as they were",
                    todo="restore the document, or move it away if it does not belong there",
                ) from error
        found: _Document = self._known[path]
        return found
