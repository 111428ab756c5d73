"""What promote and rollback have in common: from when a version counts, and what is said of a move."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.registry.history import given_moment, instant, written
from airflow_ml_provider.registry.moves import Mover, named_version

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.versions import Registered

KNOWN_UNTIL = "known_until"
# A moment may be made on a machine whose clock is a little ahead of ours.
_CLOCKS_DIFFER = 60


def effective_moment(given: str, registered: Registered) -> str:
    """From when a version is to count, checked; empty for an empty text.

    :param given: a date or a time.
    :raises ConfigError: it is not a moment, or lies in the future.
    :raises DataError: the version knows of something later, so that it would put knowledge of the future
        into the past.
    """
    if not given.strip():
        return ""
    moment = given_moment(given, name="effective=")
    if (moment - datetime.now(UTC)).total_seconds() > _CLOCKS_DIFFER:
        raise ConfigError(
            f"effective={given!r} lies in the future",
            kept="the alias and the ledger are as they were",
            todo="leave it out, and the version counts from when the alias moves",
        )
    known_until = registered.tags.get(KNOWN_UNTIL)
    if known_until is None:
        raise DataError(
            f"model {registered} does not say until when what it was trained on was known, so it cannot count "
            f"from {written(moment)} on",
            kept="the alias and the ledger are as they were",
            todo="leave effective= out, or train the version again: train steps write it down now",
        )
    if moment < instant(known_until):
        raise DataError(
            f"model {registered} was trained on what became known until {known_until}; counting it from "
            f"{written(moment)} on would put knowledge of the future into the past",
            kept="the alias and the ledger are as they were",
            todo=f"give {known_until} or later, or train a version on what was known by {written(moment)}",
        )
    return written(moment)


def tell(step: StepContext, mover: Mover) -> None:
    """Warn of what was found besides: changes by somebody's hand, and a move of our own that came too late."""
    for entry in mover.noticed:
        if entry.previous is None and entry.version is not None:
            step.log.info("entry %s records the %s that was found: version %s",
                          entry.sequence, entry.alias, entry.version)  # fmt: skip
            continue
        step.warn(
            f"the alias {entry.alias!r} of {entry.model!r} named {named_version(entry.version)}, and the ledger "
            f"said {named_version(entry.previous)}: it was changed by somebody's hand. Entry {entry.sequence} "
            "records that, and from there it goes on"
        )
    for entry in mover.late:
        step.warn(
            f"entry {entry.sequence} of the ledger had been given up when its alias moved at last; that was "
            "taken back, and the step began anew"
        )
