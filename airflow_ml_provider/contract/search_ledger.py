"""The ledger of a search, in the store: what was asked for, round by round, and what came of each trial.

::

    {store}/runs/{step key}/search/
      study.json                            what the newest study depends on, part by part
      {study}/rounds/{round:05d}.json       the trials of a round, written once, before any of them runs
      {study}/trials/{round:05d}-{any}.json what came of some of them; added to, never changed
      {study}/trials/{round:05d}.json       what came of all of them, once the round is over
      {study}/plans/{name}.json             the trials of a round that a Job runs, index by index

A round follows from the rounds before it, so the ledger is all there is to a study: whoever reads it, on any
machine, goes on as if nothing had happened.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import msgspec

from airflow_ml_provider.contract.documents import StepSpec
from airflow_ml_provider.contract.errors import ERRORS_BY_KIND
from airflow_ml_provider.contract.fleets import ItemError
from airflow_ml_provider.contract.identity import document_digest, fingerprint
from airflow_ml_provider.contract.store import Store

# What neither a trial's result nor the order of trials depends on.
_NOT_THE_STUDY = frozenset(
    {"trials", "parallelism", "tries", "max_failed", "seconds", "model", "trusted_types", "known_values"}
)
_RANK = {"running": 0, "failed": 1, "stopped": 2, "done": 2}
_AT_ONCE = 16

_Document = TypeVar("_Document", bound=msgspec.Struct)


class Bars(msgspec.Struct, frozen=True):
    """What a trial's reports are held against, as losses (less is better), by step.

    :param best_so_far: whether it is the best report so far that counts, or the newest.
    :param at_least: the first step that decides.
    """

    losses: dict[int, float]
    best_so_far: bool
    at_least: int = 0


class TrialRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of one trial.

    :param state: "stopped" if it was given up; "running" if it was begun in a place that may be gone.
    :param reports: step and value, as they came; null for a value that is no number.
    :param seconds: of its last try.
    :param ended: in milliseconds since 1970.
    """

    number: int
    state: Literal["running", "done", "stopped", "failed"]
    metrics: dict[str, float] = {}
    reports: tuple[tuple[int, float | None], ...] = ()
    tries: int = 1
    seconds: float = 0.0
    ended: int = 0
    error: ItemError | None = None

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state != "running"

    def worth_a_try(self, tries: int) -> bool:
        """Whether it is run (again): if its place was lost, or failed it, and it was not tried so often yet."""
        if not self.final:
            return True
        if self.state != "failed" or self.error is None:
            return False
        return ERRORS_BY_KIND[self.error.kind].retryable and self.tries < tries


class Round(msgspec.Struct, frozen=True, omit_defaults=True):
    """Trials that were asked for together.

    :param first: the number of its first trial.
    :param trials: the parameters that were found for each.
    """

    number: int
    first: int
    trials: tuple[dict[str, Any], ...]
    bars: Bars | None = None

    @property
    def end(self) -> int:
        """The number of the first trial after it."""
        return self.first + len(self.trials)


class SearchPlan(msgspec.Struct, frozen=True):
    """Which trials of a round a Job runs; ``indexes`` has the trial numbers of each of its indexes.

    :param fingerprint: of the step that it was made for.
    """

    fingerprint: str
    round: int
    indexes: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """The same for the same plan."""
        return document_digest(msgspec.to_builtins(self))[:16]


class SearchLedger:
    """The ledger of one study.

    :param study: the fingerprint of what it depends on, see :func:`study_parts`.
    """

    def __init__(self, store: Store, step_key: str, study: str) -> None:
        self.store = store
        self.above = f"runs/{step_key}/search"
        self.folder = f"{self.above}/{study[:16]}"

    @classmethod
    def of(cls, store: Store, spec: StepSpec) -> SearchLedger:
        """The ledger that a step keeps."""
        return cls(store, spec.step_key, fingerprint(study_parts(spec)))

    def begin(self, parts: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Note what the study depends on; gives that of the newest one, None if there was none."""
        before = self.store.read_json(f"{self.above}/study.json")
        if before != parts:
            self.store.write_json(f"{self.above}/study.json", dict(parts))
        return before if before is None else dict(before)

    def rounds(self) -> list[Round]:
        """All rounds, in order."""
        paths = sorted(self.store.paths(f"{self.folder}/rounds"))
        return list(self._read_all(paths, Round))

    def round(self, number: int) -> Round | None:
        """One round."""
        content = self.store.read(self._path("rounds", number))
        return None if content is None else msgspec.json.decode(content, type=Round)

    def create_round(self, asked: Round) -> Round:
        """Keep a round before it runs; gives the one that stands, if somebody else was first."""
        if self.store.create(self._path("rounds", asked.number), msgspec.json.encode(asked)):
            return asked
        found = self.round(asked.number)
        assert found is not None
        return found

    def records(self, of: int | None = None) -> dict[int, TrialRecord]:
        """Trial number to what came of it; of one round, or of all."""
        begins = f"{self.folder}/trials/" + ("" if of is None else f"{of:05d}")
        found: dict[int, TrialRecord] = {}
        paths = (path for path in self.store.paths(f"{self.folder}/trials") if path.startswith(begins))
        for document in self._read_all(sorted(paths), _Records):
            merge(found, document.trials)
        return found

    def keep(self, of: int, records: Sequence[TrialRecord]) -> None:
        """Add what came of some trials of a round."""
        path = f"{self.folder}/trials/{of:05d}-{uuid.uuid4().hex}.json"
        self.store.write(path, msgspec.json.encode(_Records(tuple(records))))

    def close_round(self, of: int, records: Iterable[TrialRecord]) -> None:
        """Put what came of a round into one document. Killed in between, both say the same."""
        whole = self._path("trials", of)
        parts = [
            path for path in self.store.paths(f"{self.folder}/trials") if path.startswith(whole[:-5] + "-")
        ]
        if not parts:
            return
        self.store.write(whole, msgspec.json.encode(_Records(tuple(records))))
        for path in parts:
            self.store.delete(path)

    def keep_plan(self, plan: SearchPlan) -> None:
        """Keep a plan under its name."""
        self.store.create(f"{self.folder}/plans/{plan.name}.json", msgspec.json.encode(plan))

    def plan(self, name: str) -> SearchPlan | None:
        """A plan by its name."""
        content = self.store.read(f"{self.folder}/plans/{name}.json")
        return None if content is None else msgspec.json.decode(content, type=SearchPlan)

    def _path(self, folder: str, number: int) -> str:
        return f"{self.folder}/{folder}/{number:05d}.json"

    def _read_all(self, paths: Sequence[str], kind: type[_Document]) -> Iterator[_Document]:
        # A store answers in some ten milliseconds, whatever is asked of it meanwhile.
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for content in pool.map(self.store.read, paths):
                # It may have been put into another one since it was listed, and that was listed, too, or is
                # read next time.
                if content is not None:
                    yield msgspec.json.decode(content, type=kind)


class _Records(msgspec.Struct, frozen=True):
    trials: tuple[TrialRecord, ...]


def merge(into: dict[int, TrialRecord], records: Iterable[TrialRecord]) -> None:
    """Take records of trials over those known, where they say more; in whatever order they come."""
    for record in records:
        known = into.get(record.number)
        if known is None or (_RANK[record.state], record.tries) > (_RANK[known.state], known.tries):
            into[record.number] = record


def study_parts(spec: StepSpec) -> dict[str, Any]:
    """All that the trials of a study and their order depend on, part by part."""
    parts = spec.parts or {
        "verb": spec.verb,
        "seed": spec.seed,
        "code": spec.code.digest,
        **spec.arguments,
    }
    return {name: value for name, value in parts.items() if name not in _NOT_THE_STUDY}
