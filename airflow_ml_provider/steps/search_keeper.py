"""Brings what came of trials to the ledger, several at a time, a moment after they ended."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.contract.search_ledger import SearchLedger, TrialRecord
from airflow_ml_provider.steps.context import log

# A process that is killed takes the results of so many seconds with it; these trials are run again.
_EVERY = 0.2


class Keeper:
    """Writes records in a thread of its own, while the next trials run.

    :param of: the number of the round.
    """

    def __init__(self, ledger: SearchLedger, of: int) -> None:
        self._ledger, self._of = ledger, of
        self._lock = threading.Lock()
        self._waiting: list[TrialRecord] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_on, daemon=True, name="search-ledger")

    def keep(self, record: TrialRecord) -> None:
        """Have it written soon."""
        with self._lock:
            self._waiting.append(record)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._write()
        except MLError as failure:
            if kind is None:
                raise
            log.error("what came of the last trials could not be kept: %s", failure.what)

    def _write_on(self) -> None:
        while not self._ended.wait(_EVERY):
            try:
                self._write()
            except MLError as error:
                log.warning("the ledger could not be brought up to date, and will be: %s", error.what)

    def _write(self) -> None:
        with self._lock:
            records, self._waiting = self._waiting, []
        if not records:
            return
        try:
            self._ledger.keep(self._of, records)
        except BaseException:
            with self._lock:
                self._waiting = [*records, *self._waiting]
            raise
