"""The ledger of a model: every promotion, in order, never changed afterwards.

An entry is a document of its own, ``{store}/registry/{model}/ledger/00000001.json``, created only if there
is none of that number. So of two writers who saw the same last entry one comes first and the other is told,
on local disk as on object storage, and no entry is ever lost or overwritten.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

import msgspec

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.store import Store


class Entry(msgspec.Struct, frozen=True):
    """One promotion.

    It is written before the alias moves: the alias never moves without a line that says who and why. A step
    that dies in between completes the move when it is tried again.

    :param sequence: its number; the first entry of a model is 1.
    :param alias: the alias that moves.
    :param version: the model version that it moves to.
    :param previous: the version that it named before; None for the first champion.
    :param at: when, ISO 8601, UTC.
    :param by: the user or the kind of run that asked for it.
    :param reason: why, for people.
    :param verdict: digest of the verdict that allowed it; the document itself is at ``verdict_uri``.
    :param step_key: the step that wrote it; there is one entry for a step, however often it is tried.
    :param url: the step's page in Airflow, where known.
    """

    sequence: int
    model: str
    alias: str
    version: int
    previous: int | None
    at: str
    by: str
    reason: str
    verdict: str
    verdict_uri: str
    step_key: str
    url: str = ""
    kind: Literal["promotion"] = "promotion"


class Ledger:
    """The entries of one model.

    :param model: its name in the MLflow registry.
    """

    def __init__(self, store: Store, model: str) -> None:
        self.store = store
        self.model = model
        # A registered model may be named "..", "50 %" or "größe"; a path may not.
        name = quote(model, safe="")
        self.folder = f"registry/{name.replace('.', '%2E') if not name.strip('.') else name}/ledger"

    def entries(self) -> list[Entry]:
        """All entries, the oldest first.

        :raises DataError: an entry is not one; it is named and left alone.
        """
        return [self._read(path) for path in sorted(self.store.paths(self.folder))]

    def append(self, entry: Entry) -> bool:
        """Write an entry under its number; False when somebody else's has that number already."""
        content = msgspec.json.format(msgspec.json.encode(entry), indent=1)
        return self.store.create(f"{self.folder}/{entry.sequence:08d}.json", content)

    def _read(self, path: str) -> Entry:
        content = self.store.read(path)
        try:
            return msgspec.json.decode(content or b"", type=Entry)
        except msgspec.DecodeError as error:
            raise DataError(
                f"{path} in {self.store.uri} is not an entry of the ledger of {self.model!r}: {error}",
                kept="the alias and the rest of the ledger are as they were",
                todo="restore the document, or move it away if it does not belong there",
            ) from error
