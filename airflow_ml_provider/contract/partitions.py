"""The partitions a step works on, in the one notation used everywhere.

``"2013-06-01"`` is one partition, ``"2013-01-01..2013-04-30"`` every day of a range, both ends included,
``"EWR,JFK"`` a list. A value is the text stored in the partition column.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from airflow_ml_provider.contract.errors import ConfigError

# Partition values go into Delta predicates and paths; these characters are harmless in both.
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.:+-]{0,199}")
_RANGE = ".."
_MOST_DAYS = 36_600
_YEAR, _MONTH = re.compile(r"\d{4}"), re.compile(r"\d{4}-\d\d")


class Partitions(NamedTuple):
    """Which partitions, as their values in order, and the notation they were given in."""

    label: str
    values: tuple[str, ...]

    @property
    def is_range(self) -> bool:
        """Whether the values are consecutive days, so that two comparisons select them all."""
        return _RANGE in self.label

    def predicate(self, column: str) -> str:
        """SQL that is true for exactly these partitions; values are checked when parsed."""
        if self.is_range:
            return f"{column} >= '{self.values[0]}' AND {column} <= '{self.values[-1]}'"
        quoted = ", ".join(f"'{value}'" for value in self.values)
        return f"{column} IN ({quoted})"

    def filters(self, column: str) -> list[tuple[str, str, str | list[str]]]:
        """The same as :meth:`predicate`, as filters that delta-rs and PyArrow take."""
        if self.is_range:
            return [(column, ">=", self.values[0]), (column, "<=", self.values[-1])]
        return [(column, "in", list(self.values))]


def parse_partitions(text: str | Sequence[str]) -> Partitions:
    """Read the notation.

    :raises ConfigError: the text is empty, a range is not of ISO dates in order, or a value has a
        character that has no place in a partition.
    """
    if not isinstance(text, str):
        text = ",".join(text)
    label = text.strip()
    if _RANGE in label:
        first, _, last = (part.strip() for part in label.partition(_RANGE))
        return Partitions(f"{first}..{last}", tuple(_days(first, last, label)))
    values = tuple(dict.fromkeys(part.strip() for part in label.split(",") if part.strip()))
    if not values:
        raise ConfigError(
            "no partition was named: got an empty text",
            todo='give one ("2013-06-01"), a range ("2013-06-01..2013-06-30") or a list ("EWR,JFK"); '
            "in a scheduled DAG that is usually {{ dag_run.partition_key }}",
        )
    for value in values:
        if not _VALUE.fullmatch(value):
            raise ConfigError(
                f"{value!r} cannot be a partition value",
                todo="use letters, digits, space and _ . : + - only, at most 200 of them",
            )
    return Partitions(",".join(values), values)


def label_of(values: Sequence[str]) -> str:
    """The shortest notation of partitions: a range where they are consecutive days, a list otherwise."""
    try:
        days = [date.fromisoformat(value) for value in values]
    except ValueError:
        return ",".join(values)
    ordered = all(later - earlier == timedelta(days=1) for earlier, later in pairwise(days))
    same = [day.isoformat() for day in days] == list(values)
    return f"{values[0]}{_RANGE}{values[-1]}" if len(days) > 2 and ordered and same else ",".join(values)


def start_of(value: str) -> datetime:
    """The moment, UTC, at which a partition begins: 00:00 of a day, of the first day of a month or a year.

    An hour (``"2013-06-05T06"``) or any other ISO 8601 time begins when it says; without a zone it is UTC.

    :raises ConfigError: the value is no time.
    """
    text = value.strip()
    if _YEAR.fullmatch(text):
        text += "-01"
    if _MONTH.fullmatch(text):
        text += "-01"
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{value!r} is no time, so it has no start",
            todo='write a day as "2013-06-05", a month as "2013-06", an hour as "2013-06-05T06", '
            'a moment as "2013-06-05T06:00:00Z"',
        ) from None


def moment_text(moment: datetime) -> str:
    """A moment as documents and rows have it: ``2013-06-05T00:00:00Z``."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _days(first: str, last: str, label: str) -> list[str]:
    try:
        start, end = date.fromisoformat(first), date.fromisoformat(last)
    except ValueError:
        raise ConfigError(
            f"{label!r} is not a range of days", todo='write it as "2013-06-01..2013-06-30"'
        ) from None
    count = (end - start).days + 1
    if count < 1 or count > _MOST_DAYS:
        raise ConfigError(
            f"the range {label!r} has {count} days",
            todo="the first day comes first, and 100 years are enough",
        )
    return [(start + timedelta(days=n)).isoformat() for n in range(count)]
