"""How far a long loop is: a line in the log every few seconds, and the same as a record of the step's run."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.steps.context import log

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext

EVERY = 5.0
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Standing:
    """How far a loop is.

    :param what: what is counted, in the plural: "rows".
    :param done: how many of them.
    :param total: how many there are; None when nobody knows before the end.
    :param seconds: how long it has taken.
    :param before: how many of ``done`` an earlier try did, in none of the seconds.
    """

    what: str
    done: int
    total: int | None
    seconds: float
    before: int = 0

    @property
    def rate(self) -> float:
        """How many a second, since the beginning; 0 when no time has passed."""
        return (self.done - self.before) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None when that is not known."""
        if self.total is None or not self.rate:
            return None
        return max(0, self.total - self.done) / self.rate

    def __str__(self) -> str:
        text = f"{self.done:,}"
        if self.total is not None:
            text += f" of {self.total:,}"
        text += f" {self.what}"
        if self.total:
            text += f" ({min(100, 100 * self.done // self.total)} %)"
        if self.rate:
            text += f", {_short(self.rate)} {self.what}/s"
        if self.total is not None and self.done >= self.total:
            return f"{text}, in {_duration(self.seconds)}"
        left = self.seconds_left
        return text if left is None else f"{text}, {_duration(left)} left"

    def document(self) -> dict[str, Any]:
        """The record: counts, rate (a second), seconds, and when it was written (UTC)."""
        left = self.seconds_left
        return {
            "what": self.what,
            "done": self.done,
            "total": self.total,
            "rate": round(self.rate, 3),
            "seconds": round(self.seconds, 1),
            "seconds_left": None if left is None else round(left, 1),
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }


class Progress:
    """Counts what a loop has done, from any thread, and says so at most every few seconds.

    A loop that is over sooner says nothing. Counting costs next to nothing; call :meth:`advance` a batch.

    :param what: what is counted, in the plural.
    :param total: how many there are, where that is known.
    :param keep: writes the record.
    :param clock: seconds, from any beginning.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        keep: Callable[[dict[str, Any]], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._keep, self._clock = what, total, keep, clock
        self._lock = threading.Lock()
        self._done = 0
        self._started = clock()
        self._next = self._started + EVERY
        self._told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # How far it came belongs to the end of a long loop, also of one that failed.
        if self._told:
            self._tell(self.standing)

    @property
    def standing(self) -> Standing:
        """How far it is now."""
        return Standing(self._what, self._done, self._total, self._clock() - self._started)

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        with self._lock:
            self._done += count
            if self._clock() < self._next:
                return
            self._next = self._clock() + EVERY
            self._told = True
            standing = self.standing
        self._tell(standing)

    def _tell(self, standing: Standing) -> None:
        log.info("%s", standing)
        if self._keep is not None:
            self._keep(standing.document())


def record(step: StepContext, document: Mapping[str, Any]) -> None:
    """Write how far a step is to its run's folder; that this fails does not fail the step."""
    try:
        step.store.write_json(f"runs/{step.key}/progress.json", document)
    except MLError as error:
        log.warning("how far the step is could not be recorded: %s", error)


def _short(number: float) -> str:
    for size, letter in _UNITS:
        if number >= size:
            return f"{number / size:.1f} {letter}"
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
