"""What has been computed before, by whom, and who is computing it now: documents under a fingerprint.

::

    {store}/memo/steps/{fingerprint}/claim-00000001.json     who computes it, written before it begins
    {store}/memo/steps/{fingerprint}/result-00000001.json    what came of that claim
    {store}/memo/steps/{fingerprint}/released-00000001.json  nothing came of it; why
    {store}/memo/tasks/{dag}/{task}/{partitions}.json        what a task was made of the last time

A claim is created only if there is none of its number, so of two that want the same work at once one gets it.
Numbers only grow; nothing is ever overwritten in a fingerprint's folder. Whoever comes later believes the newest
result that still stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from airflow_ml_provider.contract.documents import RunOf, StepResult, read_result
from airflow_ml_provider.contract.errors import TransientError
from airflow_ml_provider.contract.identity import digest, fingerprint
from airflow_ml_provider.contract.store import Store

STEPS, TASKS = "memo/steps", "memo/tasks"
# The part that has the digests of what is read of tables and sources; it stands in for their versions.
CONTENTS = "contents"
# In it, beside the names of tables: the files that an ingestion reads.
SOURCE = "source files"
_LONGEST_NAME = 100


class Claim(msgspec.Struct, frozen=True):
    """Who computes a fingerprint.

    :param clearing: which time its task was cleared; a task that is cleared since is asked for anew.
    :param at: when it was written, ISO 8601, UTC.
    """

    step_key: str
    run: RunOf
    at: str
    clearing: int = 0


class Attempt(NamedTuple):
    """One claim and what came of it so far.

    :param result: None while it is under way, and when nothing came of it.
    :param released: why nothing came of it; empty while it is under way, and when it ended well.
    """

    number: int
    claim: Claim
    result: StepResult | None
    released: str

    @property
    def is_open(self) -> bool:
        """Whether nothing is known of its end."""
        return self.result is None and not self.released


class Made(msgspec.Struct, frozen=True):
    """What a task's step was made of: to tell later what has changed since.

    :param parts: as in its spec.
    :param files: the user's modules, with the beginning of each one's digest.
    """

    fingerprint: str
    parts: dict[str, Any]
    files: dict[str, str]
    run: RunOf


class Memo:
    """What the store knows of one fingerprint."""

    def __init__(self, store: Store, mark: str) -> None:
        self.store = store
        self.fingerprint = mark
        self.folder = f"{STEPS}/{mark}"

    def attempts(self) -> list[Attempt]:
        """All claims, the newest first.

        A claim whose result was not kept is looked up where its step left one.

        :raises TransientError: a document cannot be read; unknown is not absent.
        """
        names = {path.rsplit("/", 1)[-1] for path in self.store.paths(self.folder)}
        numbers = sorted((int(name[6:14]) for name in names if name.startswith("claim-")), reverse=True)
        return [found for number in numbers if (found := self._attempt(number, names)) is not None]

    def claim(self, number: int, claim: Claim) -> bool:
        """Take the turn of this number; False when somebody else has it."""
        return self.store.create(self._path("claim", number), msgspec.json.encode(claim))

    def keep(self, number: int, result: StepResult) -> None:
        """Keep what came of a claim; the first that is kept stays."""
        self.store.create(self._path("result", number), result.encode())

    def release(self, number: int, why: str) -> None:
        """Say that nothing came of a claim, so that whoever waits for it goes on at once."""
        self.store.create(self._path("released", number), msgspec.json.encode({"why": why}))

    def _attempt(self, number: int, names: set[str]) -> Attempt | None:
        content = self.store.read(self._path("claim", number))
        if content is None:
            # Collected between the listing and now.
            return None
        try:
            claim = msgspec.json.decode(content, type=Claim)
        except msgspec.DecodeError as error:
            uri = f"{self.store.uri}/{self._path('claim', number)}"
            raise TransientError(
                f"it is unknown who computes this step: {uri} is not a claim: {error}",
                todo=f"delete {uri} to have it computed again",
            ) from error
        released = ""
        if f"released-{number:08d}.json" in names:
            released = str(
                (self.store.read_json(self._path("released", number)) or {}).get("why", "released")
            )
        return Attempt(number, claim, None if released else self._result(number, names, claim), released)

    def _result(self, number: int, names: set[str], claim: Claim) -> StepResult | None:
        kept = f"result-{number:08d}.json" in names
        path = self._path("result", number) if kept else f"runs/{claim.step_key}/result.json"
        content = self.store.read(path)
        if content is None:
            return None
        result = read_result(content, source=f"{self.store.uri}/{path}")
        # Its task may have computed something else since; and one that failed may be from before the claim.
        usable = result.fingerprint == self.fingerprint and result.status == "success" and not result.timely
        return result if usable else None

    def _path(self, kind: str, number: int) -> str:
        return f"{self.folder}/{kind}-{number:08d}.json"


def content_fingerprint(parts: Mapping[str, Any]) -> str:
    """The fingerprint of parts: tables whose content is known count by it, and not by their version."""
    known = parts.get(CONTENTS) or {}
    return fingerprint({name: _without_versions(value, known) for name, value in parts.items()})


def last_made(store: Store, run: RunOf, partitions: str) -> Made | None:
    """What the task was made of the last time: for these partitions if it was made for them, else at all."""
    for name in (partitions, ""):
        content = store.read(_task_path(run, name))
        if content is not None:
            try:
                return msgspec.json.decode(content, type=Made)
            except msgspec.DecodeError:
                # It only explains; what it cannot explain is computed all the same.
                continue
    return None


def note_made(store: Store, made: Made, partitions: str) -> None:
    """Keep what a task was made of, for the explanation of the next one."""
    for name in dict.fromkeys((partitions, "")):
        store.write(_task_path(made.run, name), msgspec.json.encode(made, order="deterministic"))


def _task_path(run: RunOf, partitions: str) -> str:
    named = "/".join(_safe(part) for part in (run.dag_id, run.task_id))
    return f"{TASKS}/{named}/{digest(partitions)[:16] if partitions else 'last'}.json"


def _safe(name: str) -> str:
    quoted = quote(name, safe="").replace(".", "%2E")
    return quoted if len(quoted) <= _LONGEST_NAME else f"{quoted[:_LONGEST_NAME]}-{digest(name)[:16]}"


def _without_versions(value: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        is_table = "partition_by" in value and "version" in value
        if is_table and value.get("name") in known:
            return {name: inner for name, inner in value.items() if name != "version"}
        return {name: _without_versions(inner, known) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_versions(one, known) for one in value]
    return value
