"""Which version an alias named at a moment, by the ledger.

There are two times, as with features. An entry *counts from* its effective moment on, and *is known from* the
moment its outcome was written. Later entries are decisions made with the earlier ones in view, so of all that
count at a moment the last written one holds: a promotion with an effective moment in the past replaces
whatever was champion from then on.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.ledger import Entry, Ledger, Move


def as_of(
    store: Store, model: str, moment: datetime, alias: str = "champion", known_at: datetime | None = None
) -> Entry | None:
    """The entry by which an alias named what it named at a moment; None before the first one.

    Its ``effective`` is filled in. Its ``version`` is None when the alias named nothing then: somebody had
    deleted it.

    :param moment: a time without a zone is taken as UTC.
    :param known_at: only what was known then is believed; without it, all that is known now.
    :raises DataError: the ledger has a document that is not one of its own.
    """
    moves = [move for move in Ledger(store, model).moves() if move.entry.alias == alias]
    return entry_at(moves, moment, known_at)


def entry_at(moves: Iterable[Move], moment: datetime, known_at: datetime | None = None) -> Entry | None:
    """:func:`as_of` for the moves of one alias, in any order."""
    moment = in_utc(moment)
    known = in_utc(known_at) if known_at is not None else None
    found: Move | None = None
    for move in moves:
        if move.outcome is None or not move.outcome.moved:
            continue
        if known is not None and instant(move.outcome.at) > known:
            continue
        if instant(move.effective) > moment:
            continue
        if found is None or move.entry.sequence > found.entry.sequence:
            found = move
    return msgspec.structs.replace(found.entry, effective=found.effective) if found else None


def history(store: Store, model: str, alias: str = "champion") -> list[Move]:
    """All moves of an alias, the oldest first: those under way and the abandoned ones, too."""
    return [move for move in Ledger(store, model).moves() if move.entry.alias == alias]


def previous_version(moves: Iterable[Move]) -> int | None:
    """The version to go back to: the one that was champion before the present one, by the moves of one alias.

    A rollback discards the version that it leaves, and those between it and the one that it goes back to: so
    rolling back again goes further back, never to what was left. A discarded version that is promoted again
    counts again. When the alias was deleted, it is the version that it named last. None if there is no earlier
    one.
    """
    present, kept = standing(moves)
    return next((version for version in reversed(kept) if version != present), None)


def standing(moves: Iterable[Move]) -> tuple[int | None, list[int]]:
    """The version that an alias names by its moves, and those that it named and did not discard, oldest first."""
    present: int | None = None
    kept: list[int] = []
    for move in sorted((move for move in moves if move.moved), key=lambda move: move.entry.sequence):
        entry = move.entry
        if entry.kind == "rollback" and entry.version is not None:
            kept = [version for version in kept if version != present]
            if entry.version in kept:
                del kept[len(kept) - kept[::-1].index(entry.version) :]
        present = entry.version
        if present is not None and (not kept or kept[-1] != present):
            kept.append(present)
    return present, kept


def instant(text: str) -> datetime:
    """A moment as a ledger has it."""
    return in_utc(datetime.fromisoformat(text))


def given_moment(text: str, *, name: str) -> datetime:
    """A moment as a person writes it: a date (its start) or a time, without a zone in UTC.

    :param name: the argument it was given as, for the message.
    :raises ConfigError: it is neither.
    """
    try:
        return instant(text.strip())
    except ValueError:
        raise ConfigError(
            f"{name} is {text!r}, which is not a moment",
            todo='write a date, "2013-06-01", or a time, "2013-06-01T08:00:00Z"',
        ) from None


def in_utc(moment: datetime) -> datetime:
    """The moment in UTC; without a zone it is taken to be there already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def written(moment: datetime) -> str:
    """A moment as the ledger writes it: ISO 8601, UTC, milliseconds."""
    return in_utc(moment).isoformat(timespec="milliseconds")
