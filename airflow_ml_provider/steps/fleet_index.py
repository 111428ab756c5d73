"""One index of a fleet: its items one after the other, each recorded as it ends.

The index's document is rewritten at most once a second, and at the end; so a process that dies takes the
results of its last second with it, and the next try does only what is missing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from airflow_ml_provider.contract.errors import ERRORS_BY_KIND, InfrastructureError, MLError
from airflow_ml_provider.contract.fleets import (
    IndexDocument,
    Item,
    ItemError,
    ItemRecord,
    item_digest,
    show,
)
from airflow_ml_provider.steps.context import log

if TYPE_CHECKING:
    from airflow_ml_provider.contract.fleet_ledger import Ledger
    from airflow_ml_provider.steps.fleet_work import Work

_REWRITE_EVERY = 1.0
_KEPT_LINES = 12
_MOST_MESSAGE = 2_000

Told = Callable[[int, ItemRecord], None]


def run_index(work: Work, position: int, index: str, items: Sequence[Item], tell: Told) -> IndexDocument:
    """Run what is missing of an index; gives its document as it stands in the ledger then.

    :param tell: called with an item's place in the index and its record, when it starts and when it ends.
    """
    found = work.ledger.at(position, index)
    if found is not None and found[1].state == "done":
        return found[1]
    earlier = found[1] if found else IndexDocument(index, position, "running")
    records = list(earlier.items) or [ItemRecord(item_digest(item)) for item in items]
    started = datetime.now(UTC).isoformat(timespec="seconds")
    document = msgspec.structs.replace(
        earlier, state="running", attempt=earlier.attempt + 1, started=started, items=tuple(records)
    )
    tries = work.arguments.tries
    wanted = [number for number, record in enumerate(records) if record.worth_a_try(tries)]
    # One that a process has died with may kill this one, too: the others first.
    wanted.sort(key=lambda number: records[number].state == "running")
    with _Keeper(work.ledger, document, found[0].path if found else "") as keeper:
        for number in wanted:
            begun = msgspec.structs.replace(
                records[number], state="running", tries=records[number].tries + 1, seconds=0.0, error=None
            )
            keeper.record(number, begun)
            tell(number, begun)
            ended = _run_item(work, items[number], begun)
            keeper.record(number, ended)
            tell(number, ended)
    return keeper.document


def error_of(document: IndexDocument) -> ItemError | None:
    """The failure that decides how an index ends: one that a retry can help, if there is one."""
    errors = [record.error for record in document.items if record.error is not None]
    helped = [error for error in errors if ERRORS_BY_KIND[error.kind].retryable]
    return next(iter(helped or errors), None)


def _run_item(work: Work, item: Item, record: ItemRecord) -> ItemRecord:
    began = time.monotonic()
    try:
        result = work.do(item)
    except MLError as error:
        failed = ItemError(
            error.kind, type(error).__name__, error.what[:_MOST_MESSAGE],
            _last_lines(getattr(error, "user_traceback", "")),
        )  # fmt: skip
    except MemoryError as error:
        failed = ItemError("infrastructure", "MemoryError", f"out of memory: {error}"[:_MOST_MESSAGE])
    except Exception as error:
        # Ours or a library's, such as a table that cannot be read: nothing that its author can do about.
        log.error("unexpected error with item %s", show(item), exc_info=True)
        failed = ItemError(
            InfrastructureError.kind, type(error).__name__, f"{type(error).__name__}: {error}"[:_MOST_MESSAGE]
        )
    else:
        return msgspec.structs.replace(record, state="done", seconds=_since(began), result=result)
    log.error("item %s failed: %s error: %s", show(item), failed.kind, failed.message.partition("\n")[0])
    return msgspec.structs.replace(record, state="failed", seconds=_since(began), error=failed)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 4)


def _last_lines(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-_KEPT_LINES:])


class _Keeper:
    """Keeps an index's document in the store as it grows, in a thread beside the work."""

    def __init__(self, ledger: Ledger, document: IndexDocument, path: str) -> None:
        self.document = document
        self._ledger = ledger
        self._path = ledger.write(document, instead_of=path)
        self._records = list(document.items)
        self._changed = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._rewrite, daemon=True, name="fleet-ledger")

    def record(self, number: int, record: ItemRecord) -> None:
        """Keep an item's record, a second from now at the latest."""
        with self._lock:
            self._records[number] = record
            self._changed = True

    def __enter__(self) -> _Keeper:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if kind is not None:
            return
        done = all(record.state == "done" for record in self._records)
        self.document = msgspec.structs.replace(
            self.document, state="done" if done else "failed", items=tuple(self._records)
        )
        self._ledger.write(self.document, instead_of=self._path)

    def _rewrite(self) -> None:
        while not self._ended.wait(_REWRITE_EVERY):
            with self._lock:
                if not self._changed:
                    continue
                self._changed = False
                document = msgspec.structs.replace(self.document, items=tuple(self._records))
            try:
                self._ledger.write(document)
            except MLError as error:
                log.warning("the ledger could not be brought up to date, and will be: %s", error.what)
                with self._lock:
                    self._changed = True
