"""The partitions of a range of time: hours, days or months, each with its key and the time it spans."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from airflow_ml_provider.contract.errors import ConfigError

Step = Literal["hour", "day", "month"]
FORMATS: dict[Step, str] = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}
_ORDER: tuple[Step, ...] = ("hour", "day", "month")
_MOST = 20_000


class Slot(msgspec.Struct, frozen=True):
    """A partition: its key, and the time from ``start`` up to, not including, ``end``."""

    key: str
    start: datetime
    end: datetime

    def holds(self, moment: datetime) -> bool:
        """Whether a moment lies in it."""
        return self.start <= moment < self.end


def slots(first: str, last: str, step: Step = "day", key_format: str = "", zone: str = "UTC") -> list[Slot]:
    """The partitions from the one that ``first`` lies in to the one that ``last`` lies in, in order.

    :param first: ISO 8601: ``2013-06``, ``2013-06-01`` or ``2013-06-01T05``.
    :param key_format: how the keys are written (strftime); as the step's ISO notation when left out.
    :param zone: the time zone of the DAG's schedule.
    :raises ConfigError: no date, the wrong order, too many, or a format that gives two partitions one key.
    """
    where = _zone(zone)
    begin, end = _floor(_moment(first, where), step), _moment(last, where)
    given: Step = "month" if len(last) == 7 else "day" if len(last) == 10 else "hour"
    # The whole of what was named is meant: "2013-06" as the last one is all of June.
    span = max(given, step, key=_ORDER.index)
    stop = _next(_floor(end, span), span)
    if stop <= begin:
        raise ConfigError(f"the range {first} to {last} is empty", todo="the earlier date comes first")
    found = list(_slots(begin, stop, step, key_format or FORMATS[step]))
    if len({slot.key for slot in found}) != len(found):
        raise ConfigError(
            f"the key format {key_format!r} gives several {step}s the same key",
            todo=f"use one that tells them apart, such as {FORMATS[step]!r}",
        )
    return found


def _slots(begin: datetime, stop: datetime, step: Step, key_format: str) -> Iterator[Slot]:
    count, start = 0, begin
    while start < stop:
        end = _next(start, step)
        yield Slot(start.strftime(key_format), start, end)
        start, count = end, count + 1
        if count > _MOST:
            raise ConfigError(f"the range has more than {_MOST} partitions", todo="backfill it in parts")


def _moment(text: str, where: tzinfo) -> datetime:
    try:
        found = datetime.fromisoformat(f"{text}-01" if len(text) == 7 else text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is not a date", todo="write it as 2013-06-01, 2013-06 or 2013-06-01T05"
        ) from None
    return found.astimezone(where) if found.tzinfo else found.replace(tzinfo=where)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ConfigError(f"this machine does not know the time zone {name!r} of the DAG") from None


def _floor(moment: datetime, step: Step) -> datetime:
    hour = moment.replace(minute=0, second=0, microsecond=0)
    if step == "hour":
        return hour
    day = hour.replace(hour=0)
    return day if step == "day" else day.replace(day=1)


def _next(start: datetime, step: Step) -> datetime:
    if step == "month":
        return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    if step == "day":
        return start + timedelta(days=1)
    # An hour is an hour also where clocks are put forward or back.
    return (start.astimezone(UTC) + timedelta(hours=1)).astimezone(start.tzinfo)
