"""The ledger of a fleet: what came of each index, in the store, and from it what is still to be run.

::

    {store}/runs/{step key}/fleet/
      items/{items digest}.jsonl                              the items, written once
      {base}/plan.json, plan-{name}.json                      what is pending
      {base}/index/{position:06d}-{index id}.{state}.json     one document an index; its name has the state
      {base}/models/{item digest}/                            what a training left

A listing is all it takes to know what is done. ``base`` stands for code, data and settings: when these
change, the fleet begins anew beside what there is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple

import msgspec

from airflow_ml_provider.contract.arguments import FleetArguments
from airflow_ml_provider.contract.documents import StepSpec
from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.fleets import (
    FleetPlan,
    IndexDocument,
    Item,
    ItemRecord,
    PlanDocument,
    base_fingerprint,
    failures_before_stopping,
    indexes_of,
    item_digest,
    read_items,
    write_items,
)
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.store import Store

State = Literal["running", "failed", "done"]
# Where several documents have one index, that of the greatest state is the newest: see `Ledger.replace`.
_RANK: dict[str, int] = {"running": 0, "failed": 1, "done": 2}
# A store answers in some ten milliseconds, whatever is asked of it meanwhile.
_AT_ONCE = 16


class Entry(NamedTuple):
    """An index's document, as its name tells."""

    path: str
    position: int
    of: str
    state: State


class Ledger:
    """The ledger of one fleet.

    :param base: what results depend on but for the items, see :func:`.fleets.base_fingerprint`.
    """

    def __init__(self, store: Store, step_key: str, base: str) -> None:
        self.store = store
        self.above = f"runs/{step_key}/fleet"
        self.folder = f"{self.above}/{base[:16]}"

    @classmethod
    def of(cls, store: Store, spec: StepSpec) -> Ledger:
        """The ledger that a step keeps."""
        return cls(store, spec.step_key, base_fingerprint(spec))

    def plan(self, name: str = "") -> PlanDocument | None:
        """A plan by its name, or the newest; None if there is none."""
        content = self.store.read(f"{self.folder}/plan{'-' + name if name else ''}.json")
        return None if content is None else msgspec.json.decode(content, type=PlanDocument)

    def items(self, items_digest: str) -> list[Item]:
        """The items that were kept under their digest."""
        return kept_items(self.store, self.above, items_digest)

    def entries(self) -> dict[str, Entry]:
        """Index id to its document, by a listing alone."""
        found: dict[str, Entry] = {}
        for path in self.store.paths(f"{self.folder}/index"):
            entry = _entry(path)
            if entry is None:
                continue
            other = found.get(entry.of)
            if other is None or _RANK[entry.state] > _RANK[other.state]:
                found[entry.of] = entry
        return found

    def at(self, position: int, index: str) -> tuple[Entry, IndexDocument] | None:
        """The document of an index whose position is known, without a listing; the newest of them."""
        states: tuple[State, ...] = ("done", "failed", "running")
        for state in states:
            path = self.path_of(position, index, state)
            content = self.store.read(path)
            if content is not None:
                return Entry(path, position, index, state), decode(content)
        return None

    def read_all(self, paths: Iterable[str]) -> Iterator[IndexDocument | None]:
        """Documents in the order of their paths, a few in memory at a time; None for an empty path."""
        waiting: deque[Future[bytes | None]] = deque()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                for path in paths:
                    waiting.append(pool.submit(self.store.read, path) if path else pool.submit(_nothing))
                    if len(waiting) > 4 * _AT_ONCE:
                        yield _decoded(waiting.popleft().result())
                while waiting:
                    yield _decoded(waiting.popleft().result())
            finally:
                pool.shutdown(cancel_futures=True)

    def write(self, document: IndexDocument, *, instead_of: str = "") -> str:
        """Write an index's document, and then remove the one that it replaces; gives its path.

        Killed in between, both are there: the older one says nothing that the newer does not, or is of a
        lesser state.
        """
        path = self.path_of(document.position, document.index, document.state)
        self.store.write(path, document.encode())
        if instead_of and instead_of != path:
            self.store.delete(instead_of)
        return path

    def path_of(self, position: int, index: str, state: str) -> str:
        """Where an index's document of a state is."""
        return f"{self.folder}/index/{position:06d}-{index}.{state}.json"

    def make_plan(self, items: Sequence[Item], arguments: FleetArguments, fingerprint: str) -> PlanDocument:
        """Plan what is missing, and keep the plan.

        Finished items are taken over from indexes of an earlier plan that were cut otherwise.
        """
        digests = [item_digest(item) for item in items]
        size = arguments.items_per_index
        indexes = indexes_of(digests, size)
        entries = self.entries()
        self._take_over(digests, size, indexes, entries)
        pending = self._pending(indexes, entries, arguments.tries)
        items_digest = digest(*digests)
        keep_items(self.store, self.above, items, items_digest)
        plan = PlanDocument(fingerprint, len(items), items_digest, size, tuple(indexes), tuple(pending))
        content = msgspec.json.encode(plan)
        self.store.create(f"{self.folder}/plan-{plan.name}.json", content)
        self.store.write(f"{self.folder}/plan.json", content)
        return plan

    def _pending(self, indexes: Sequence[str], entries: dict[str, Entry], tries: int) -> list[int]:
        """Positions that are not done, but for those whose items have all failed for good."""
        failed = [
            (position, entries[index])
            for position, index in enumerate(indexes)
            if index in entries and entries[index].state == "failed"
        ]
        read = self.read_all(entry.path for _, entry in failed)
        final = {
            position
            for (position, _), document in zip(failed, read, strict=True)
            if document is not None and not any(item.worth_a_try(tries) for item in document.items)
        }
        return [
            position
            for position, index in enumerate(indexes)
            if position not in final and not (index in entries and entries[index].state == "done")
        ]

    def _take_over(
        self, digests: Sequence[str], size: int, indexes: Sequence[str], entries: dict[str, Entry]
    ) -> None:
        """Write documents for new and moved indexes from those that have their items."""
        current = {index: position for position, index in enumerate(indexes)}
        moved = {
            index
            for index, entry in entries.items()
            if index in current and entry.state != "done" and entry.position != current[index]
        }
        new = {position for index, position in current.items() if index not in entries or index in moved}
        stale = [entry for entry in entries.values() if entry.of not in current or entry.of in moved]
        if not new or not stale:
            return
        wanted = {item for at in new for item in digests[at * size : (at + 1) * size]}
        found: dict[str, ItemRecord] = {}
        for document in self.read_all(entry.path for entry in stale):
            for record in document.items if document else ():
                better = record.digest not in found or record.state == "done"
                if record.digest in wanted and record.state != "missing" and better:
                    found[record.digest] = record
        for at in sorted(new):
            records = tuple(
                found.get(item, ItemRecord(item)) for item in digests[at * size : (at + 1) * size]
            )
            if all(record.state == "missing" for record in records):
                continue
            states = {record.state for record in records}
            state: State = "running" if states & {"missing", "running"} else "failed"
            if states == {"done"}:
                state = "done"
            index = indexes[at]
            old = entries[index].path if index in moved else ""
            path = self.write(IndexDocument(index, at, state, items=records), instead_of=old)
            entries[index] = Entry(path, at, index, state)


def for_compute(plan: PlanDocument, arguments: FleetArguments) -> FleetPlan:
    """A plan as a compute gets it."""
    pending = len(plan.pending)
    return FleetPlan(
        indexes=pending,
        parallelism=min(arguments.parallelism, max(pending, 1)),
        tries=arguments.tries,
        max_failed_indexes=min(failures_before_stopping(arguments.max_failed, plan.items), pending),
        name=plan.name,
    )


def keep_items(store: Store, above: str, items: Sequence[Item], items_digest: str) -> None:
    """Keep items under their digest; those that are there already are left."""
    store.create(f"{above}/items/{items_digest}.jsonl", write_items(items))


def kept_items(store: Store, above: str, items_digest: str) -> list[Item]:
    """Items by their digest.

    :raises InfrastructureError: they are gone.
    """
    path = f"{above}/items/{items_digest}.jsonl"
    content = store.read(path)
    if content is None:
        raise InfrastructureError(f"the items of the fleet are gone: there is no {path} in {store.uri}")
    return read_items(content)


def decode(content: bytes) -> IndexDocument:
    """An index's document."""
    return msgspec.json.decode(content, type=IndexDocument)


def _decoded(content: bytes | None) -> IndexDocument | None:
    return None if content is None else decode(content)


def _nothing() -> None:
    return None


def _entry(path: str) -> Entry | None:
    name = path.rsplit("/", 1)[-1]
    stem, _, ending = name.partition(".")
    position, _, index = stem.partition("-")
    state = ending.removesuffix(".json")
    if not position.isdigit() or state not in _RANK or not index:
        return None
    return Entry(path, int(position), index, state)  # type: ignore[arg-type]
