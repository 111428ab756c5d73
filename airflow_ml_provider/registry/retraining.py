"""The retrainings that were asked for, of one model: append-only, and never two for one cause.

A request is a document of its own, ``{store}/registry/{model}/retraining/00000001.json``, created only if
there is none of that number. Of monitors that ask at once one writes it; the others read again, find it, and
are held back by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.partitions import moment_text, start_of
from airflow_ml_provider.contract.retraining import Request, Retrain
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.ledger import Ledger


class HeldBack(NamedTuple):
    """Why a retraining is not asked for now.

    :param by: the number of the request that holds it back.
    :param until: from when on it would not (ISO 8601, UTC).
    :param clock: whose time that is: "now", or "partition" for the partitions that a finding is about.
    """

    by: int
    until: str
    clock: str

    def sentence(self) -> str:
        """For people."""
        if self.clock == "now":
            return f"held back until {self.until} by request {self.by}"
        return f"held back by request {self.by}, which covers partitions before {self.until}"


class Asked(NamedTuple):
    """What came of asking: a request, this one's or that of an earlier try, or why there is none."""

    request: Request | None
    held_back: HeldBack | None


def held_back(requests: Sequence[Request], rules: Retrain, now: datetime, newest: str) -> HeldBack | None:
    """Whether earlier requests hold back another one.

    Two clocks: a request holds back for ``at_most_every`` after it was made, and, whenever they are made,
    findings about partitions up to ``at_most_every`` after the one that it is about. So a backfill of thirty
    old days asks at most once, and a rerun of a day that a retraining has answered does not ask again.

    :param now: when it would be asked for (UTC).
    :param newest: the newest partition of the finding; empty when partitions are not times.
    """
    apart = timedelta(seconds=rules.apart_seconds)
    last = max(requests, key=lambda request: request.at, default=None)
    if last is not None and now < (free := datetime.fromisoformat(last.at) + apart):
        return HeldBack(last.sequence, moment_text(free), "now")
    dated = [(start_of(request.newest), request.sequence) for request in requests if request.newest]
    if newest and dated:
        about, by = max(dated)
        if start_of(newest) < about + apart:
            return HeldBack(by, moment_text(about + apart), "partition")
    return None


class Requests:
    """The requests of one model.

    :param model: its name in the MLflow registry.
    """

    def __init__(self, store: Store, model: str) -> None:
        self.store = store
        self.model = model
        self.folder = f"{Ledger(store, model).folder.removesuffix('/ledger')}/retraining"

    def all(self) -> list[Request]:
        """All requests, the oldest first.

        :raises DataError: a document is not one; it is named and left alone.
        """
        return [self._read(path) for path in sorted(self.store.paths(self.folder))]

    def ask(self, rules: Retrain, wanted: Request, now: datetime) -> Asked:
        """Write a request, unless an earlier one holds it back; asking again gives the same request.

        :param wanted: the request; its number and time are filled in here.
        :param now: the moment (UTC).
        """
        while True:
            requests = self.all()
            for request in requests:
                if (request.step_key, request.fingerprint) == (wanted.step_key, wanted.fingerprint):
                    return Asked(request, None)
            if (held := held_back(requests, rules, now, wanted.newest)) is not None:
                return Asked(None, held)
            number = max((request.sequence for request in requests), default=0) + 1
            mine = msgspec.structs.replace(wanted, sequence=number, at=moment_text(now))
            if self.store.create(self.path(number), msgspec.json.format(msgspec.json.encode(mine), indent=1)):
                return Asked(mine, None)

    def path(self, number: int) -> str:
        """Where the request of this number is in the store."""
        return f"{self.folder}/{number:08d}.json"

    def _read(self, path: str) -> Request:
        try:
            return msgspec.json.decode(self.store.read(path) or b"", type=Request)
        except msgspec.DecodeError as error:
            raise DataError(
                f"{path} in {self.store.uri} is not a request for a retraining of {self.model!r}: {error}",
                kept="the other requests are as they were, and no retraining was asked for",
                todo="restore the document, or move it away if it does not belong there",
            ) from error
