"""What came of a fleet, in numbers, in words, and as an error when too many items failed."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_ml_provider.contract.errors import ERRORS_BY_KIND, InfrastructureError, MLError, UserCodeError
from airflow_ml_provider.contract.fleets import ItemError, allowed_failures, show

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.contract.fleets import Item, ItemRecord

_SLOWEST = 5
_SHOWN_FAILURES = 20
_SHOWN_MESSAGE = 300
_MOST_METRICS = 50
_LOST = ItemError(
    "infrastructure", "ProcessLost", "its process ended with it: killed, out of memory, or taken away"
)


@dataclass
class _Spread:
    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)


@dataclass
class Best:
    """The item with the best value of a metric; of equal ones the first.

    :param metric: its name, with a "-" before it if less is better.
    """

    metric: str
    item: Item = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    value: float | None = None

    @property
    def name(self) -> str:
        """The metric's name."""
        return self.metric.removeprefix("-")

    def consider(self, item: Item, result: dict[str, Any]) -> None:
        """Take an item if it is better."""
        value = result.get(self.name)
        if not isinstance(value, (int, float)):
            return
        sign = -1 if self.metric.startswith("-") else 1
        if self.value is None or sign * value > sign * self.value:
            self.item, self.result, self.value = item, result, value


class Summary:
    """Counts items and keeps what is to be shown of them: memory does not grow with their number."""

    def __init__(self, arguments: FleetArguments, items: int) -> None:
        self.items = items
        self.best = Best(arguments.best)
        self.done = self.failed = self.missing = 0
        self.seconds = 0.0
        self.metrics: dict[str, _Spread] = {}
        self.failures: list[tuple[Item, ItemRecord]] = []
        self._slowest: list[tuple[float, int, str]] = []
        self._arguments = arguments
        self._final: dict[str, int] = {}
        self._helped: dict[str, int] = {}
        self._again = 0

    def add(self, item: Item, record: ItemRecord) -> ItemRecord:
        """Count an item; gives its record as it is to be understood now that nothing runs any more."""
        if record.state == "running":
            record = msgspec.structs.replace(record, state="failed", error=_LOST)
        self.seconds += record.seconds
        if record.state == "missing":
            self.missing += 1
            return record
        heapq.heappush(self._slowest, (record.seconds, -self.done - self.failed, show(item)))
        if len(self._slowest) > _SLOWEST:
            heapq.heappop(self._slowest)
        if record.state == "done":
            self.done += 1
            self._measure(record.result)
            self.best.consider(item, record.result)
            return record
        self.failed += 1
        error = record.error or _LOST
        kinds = self._helped if ERRORS_BY_KIND[error.kind].retryable else self._final
        kinds[error.kind] = kinds.get(error.kind, 0) + 1
        self._again += record.worth_a_try(self._arguments.tries)
        if len(self.failures) < _SHOWN_FAILURES:
            self.failures.append((item, record))
        return record

    def numbers(self) -> dict[str, float]:
        """As metrics: counts, seconds, and mean, least and greatest of what the items measured."""
        found: dict[str, float] = {
            "items": self.items, "items_done": self.done, "items_failed": self.failed,
            "compute_seconds": round(self.seconds, 3),
        }  # fmt: skip
        for name, spread in sorted(self.metrics.items())[:_MOST_METRICS]:
            found |= {
                f"{name}_mean": spread.total / spread.count,
                f"{name}_min": spread.least,
                f"{name}_max": spread.most,
            }
        return found

    def facts(self) -> dict[str, Any]:
        """For people: counts, the slowest items and the failed ones."""
        found: dict[str, Any] = {
            "items": self.items,
            "done": self.done,
            "failed": self.failed,
            "compute seconds": round(self.seconds, 1),
            "slowest items": [f"{seconds:.1f} s: {item}" for seconds, _, item in sorted(self._slowest)[::-1]],
        }
        if self.failures:
            found["failed items"] = [_line(item, record) for item, record in self.failures]
        if self.best.value is not None:
            found["best item"] = f"{show(self.best.item)} with {self.best.name} {self.best.value:.6g}"
        return found

    def error(self, ledger: str) -> MLError | None:
        """Why the fleet failed; None if no more items failed than may, and none is missing.

        :param ledger: where the results are.
        """
        allowed = allowed_failures(self._arguments.max_failed, self.items)
        if self.failed <= allowed and not self.missing:
            return None
        final = sum(self._final.values())
        # What a retry can help decides, unless without it there are too many failures all the same.
        kinds = self._final if final > allowed else self._helped
        kind = ERRORS_BY_KIND[max(kinds, key=kinds.__getitem__)] if kinds else InfrastructureError
        lines = [self._counts(allowed), *(f"  {_line(item, record)}" for item, record in self.failures)]
        if self.failed > len(self.failures):
            lines.append(f"  and {self.failed - len(self.failures):,} more")
        error = kind(
            "\n".join(lines),
            kept=f"the results of the {self.done:,} finished items, in {ledger}",
            retry=self._retry(kind),
            todo="correct the code or the items; changed code runs all items again, changed items only these"
            if kind is UserCodeError or self.failed - self._again
            else "",
        )
        traces = [record.error.traceback for _, record in self.failures if record.error]
        error.user_traceback = next((trace for trace in traces if trace), "")  # type: ignore[attr-defined]
        return error

    def _counts(self, allowed: int) -> str:
        said = f"{self.failed:,} of {self.items:,} items failed"
        said += f" ({allowed:,} may)" if self.failed > allowed else ""
        return said + (f", and {self.missing:,} did not run" if self.missing else "")

    def _retry(self, kind: type[MLError]) -> str:
        parts = [f"{self._again:,} failed"] if self._again else []
        parts += [f"{self.missing:,} missing"] if self.missing else []
        what = f"runs only the {' and '.join(parts)} items" if parts else "runs no item again"
        who = "a retry" if kind.retryable else "the task is not retried by itself; clearing it"
        final = self.failed - self._again
        tries = self._arguments.tries
        said = (
            f"; {final:,} failed {tries} times and wait for other code, or for more tries=" if final else ""
        )
        return f"{who} {what}{said}"

    def _measure(self, result: Mapping[str, Any]) -> None:
        for name, value in result.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self.metrics.setdefault(name, _Spread()).add(value)


def _line(item: Item, record: ItemRecord) -> str:
    error = record.error or _LOST
    message = error.message.partition("\n")[0]
    if len(message) > _SHOWN_MESSAGE:
        message = message[: _SHOWN_MESSAGE - 3] + "..."
    tries = f" (tried {record.tries} times)" if record.tries > 1 else ""
    return f"{show(item)}: {error.kind} error: {message}{tries}"
