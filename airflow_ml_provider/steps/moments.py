"""Moments in time as people give them to a step."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow_ml_provider.contract.errors import ConfigError


def moment(text: str, *, name: str) -> datetime | None:
    """A moment in UTC, as a time without a zone; None for an empty text.

    :param text: ISO 8601; a time without a zone is taken as UTC.
    :param name: the argument it was given as, for the message.
    """
    if not text.strip():
        return None
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigError(
            f"{name} is {text!r}, not a moment", todo='write it as "2013-06-08T08:00:00Z"'
        ) from None
    return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)
