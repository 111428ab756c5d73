"""Whether a partition is still what it would be if it were made now: fine, stale and why, or missing.

Pure: what it was made from and what there is now come in as values, a judgement goes out. The rules:

* a table read by partition: a later change of the same partition makes it stale;
* a table read whole, or without partitions: any later change does;
* a feature build looks back from its partition (windows, joins by time): a later change of an *earlier* partition of
  its tables may matter, one of a later partition cannot. Labels come late: there it is the other way round. Such a
  difference is told, and makes the partition stale only when asked for (``strict``);
* a model that something names (an alias now, the ledger as of a moment): another version than the one used makes it
  stale; a model that was fixed does not;
* code, package and settings: another value than now makes it stale;
* a partition that somebody else published since is stale.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal

import msgspec

from airflow_ml_provider.contract.identity import explain_difference

State = Literal["missing", "stale", "fine"]
STATES: tuple[State, ...] = ("missing", "stale", "fine")
# Which other partitions of a table may matter for one: none, those before it, those after it.
Clock = Literal["same", "until", "from"]
UNPARTITIONED = ""
DATA, MODEL, PUBLICATION = "data", "model", "publication"


class Read(msgspec.Struct, frozen=True):
    """A table that a step read.

    :param partition: the partition it read for the one in question; empty when it read the whole table.
    """

    table: str
    version: int
    partition: str = ""
    clock: Clock = "same"


class Followed(msgspec.Struct, frozen=True):
    """A model version that a step used because something named it: an alias now, or "champion as of ..."."""

    name: str
    alias: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}"


class Published(msgspec.Struct, frozen=True):
    """A partition that a step published."""

    table: str
    version: int
    partition: str


class Made(msgspec.Struct, frozen=True):
    """What a task made a partition from: its step's parts, sorted by how they are compared.

    :param settings: code digest, package, seed and all arguments that are neither a pinned table nor model.
    """

    settings: dict[str, Any]
    reads: tuple[Read, ...] = ()
    models: tuple[Followed, ...] = ()
    published: Published | None = None


class TableNow(msgspec.Struct, frozen=True):
    """A table's log in short.

    :param version: the newest.
    :param changes: partition to the last version that changed its rows; ``""`` for a table without partitions.
    :param writers: partition to the key of the step that did; empty for a writer that is no step.
    :param known_since: the oldest version whose commit is still there; what came before is only known to be older.
    """

    version: int
    changes: dict[str, int] = {}
    writers: dict[str, str] = {}
    known_since: int = 0

    def changed(self, partition: str) -> int | None:
        """The last version that changed a partition; None if none has."""
        found = self.changes.get(partition, self.changes.get(UNPARTITIONED))
        return found if found is not None or not self.known_since else self.known_since - 1


class Present(msgspec.Struct, frozen=True):
    """What there is now.

    :param settings: as in :class:`Made`, as a run now would have them.
    :param models: ``name@alias`` to the version it names; None for an alias that names none.
    """

    settings: dict[str, Any]
    tables: dict[str, TableNow] = {}
    models: dict[str, int | None] = {}


class Difference(msgspec.Struct, frozen=True):
    """One part in which a partition differs from now, in words.

    :param certain: False where the change may matter for the partition, and may not.
    """

    part: str
    why: str
    certain: bool = True


class Judgement(msgspec.Struct, frozen=True):
    """What a partition is, and why; of one that is fine, the differences are those that are not certain."""

    state: State
    differences: tuple[Difference, ...] = ()

    @property
    def why(self) -> str:
        """The reasons in one line; empty if there is nothing to say."""
        return "; ".join(each.why for each in self.differences)


def judge(
    made: Made | None, present: Present, *, strict: bool = False, ignore: Collection[str] = ()
) -> Judgement:
    """Compare what a partition was made from with what there is now.

    :param made: None when nothing shows that it was ever made.
    :param strict: what may matter counts as if it did.
    :param ignore: parts that do not count: "data", "model", "publication", or the name of a setting.
    """
    if made is None:
        return Judgement("missing")
    found = [each for each in _differences(made, present) if not _ignored(each.part, ignore)]
    stale = any(each.certain or strict for each in found)
    return Judgement("stale" if stale else "fine", tuple(found))


def worst(judgements: Collection[Judgement]) -> Judgement:
    """A partition that several tasks work on: missing if it is so for any of them, else stale, else fine."""
    state: State = min((each.state for each in judgements), key=STATES.index, default="missing")
    told = dict.fromkeys(each for judgement in judgements for each in judgement.differences)
    return Judgement(state, tuple(told))


def _ignored(part: str, ignore: Collection[str]) -> bool:
    return part in ignore or part.partition(" ")[0] in ignore


def _differences(made: Made, present: Present) -> Iterator[Difference]:
    for name in sorted({*made.settings, *present.settings}):
        before, now = ({name: one.settings.get(name)} for one in (made, present))
        if told := explain_difference(before, now):
            yield Difference(name, told)
    for read in made.reads:
        yield from _of_table(read, present.tables.get(read.table))
    for model in made.models:
        version = present.models.get(str(model))
        if version != model.version:
            now_named = "none" if version is None else f"version {version}"
            yield Difference(f"{MODEL} {model}", f"model {model}: version {model.version} -> {now_named}")
    if made.published is not None:
        yield from _of_publication(made.published, present.tables.get(made.published.table))


def _of_table(read: Read, now: TableNow | None) -> Iterator[Difference]:
    part = f"{DATA} {read.table}"
    if now is None:
        yield Difference(part, f"table {read.table}: version {read.version} -> the table is gone")
        return
    if now.version < read.version:
        yield Difference(part, f"table {read.table}: version {read.version} -> made anew, now {now.version}")
        return
    if not read.partition or UNPARTITIONED in now.changes:
        last = max(now.changes.values(), default=now.known_since - 1)
        if last > read.version:
            yield Difference(part, f"table {read.table}: version {read.version} -> {last}")
        return
    last_of_it = now.changed(read.partition)
    if last_of_it is not None and last_of_it > read.version:
        unsure = " (or before: older commits are gone)" if read.partition not in now.changes else ""
        told = (
            f"table {read.table}, partition {read.partition}: version {read.version} -> {last_of_it}{unsure}"
        )
        yield Difference(part, told)
        return
    around = {
        name: version
        for name, version in now.changes.items()
        if version > read.version
        and (
            (read.clock == "until" and name < read.partition)
            or (read.clock == "from" and name > read.partition)
        )
    }
    if around:
        newest = max(around, key=lambda name: (around[name], name))
        others = f" and {len(around) - 1} more" if len(around) > 1 else ""
        told = (
            f"table {read.table}, partition {newest}{others}: changed since version {read.version} "
            f"(now {around[newest]}), which may matter"
        )
        yield Difference(part, told, certain=False)


def _of_publication(published: Published, now: TableNow | None) -> Iterator[Difference]:
    part = f"{PUBLICATION} {published.table}"
    if now is None or now.version < published.version:
        yield Difference(part, f"table {published.table}: version {published.version} is gone")
        return
    last = now.changed(published.partition)
    if last is not None and last > published.version:
        step = now.writers.get(published.partition) or now.writers.get(UNPARTITIONED)
        writer = f"the step {step}" if step else "another writer"
        told = (
            f"table {published.table}, partition {published.partition}: published as version "
            f"{published.version}, replaced since as version {last} by {writer}"
        )
        yield Difference(part, told)
