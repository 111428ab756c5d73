"""Which fact each row uses: the point-in-time rule on two clocks, over facts that fit in memory.

A row with prediction time ``t`` uses, of the facts about its entity with event time <= t and knowledge
time <= t, the one with the newest event time; among those, the one that became known last.

How one search does that: a fact can be used from ``effective = max(event, knowledge)`` on. In effective
order, a fact that is older than one before it (by event time) can never be chosen again, so it is dropped:
what remains has event times that rise with ``effective``, and the last one at or before ``t`` is the newest.

Entity and effective time are one whole number, the entity in the upper bits: facts are sorted by it once,
and a row's fact is found by bisection. Where both do not fit into 63 bits, times are replaced by their ranks.
Facts are cut by ranges of their entities, so that each processor sorts some of them, and the number of a fact
fits beside its key: sorting plain numbers is several times as fast as finding the order of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.steps.threads import in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

NONE = -1
_BITS = 63
_MICROSECONDS = 1_000_000
# Facts of about so many at least are cut, into so many parts at most.
_PART_ROWS = 200_000
_PARTS = 64
_SIGNPOST_EVERY = 32


@dataclass(frozen=True)
class NewestFacts:
    """Facts in the order of their use, to look rows' facts up in.

    :param keys: entity and effective time of each fact that can be used, as one number, rising.
    :param signposts: some of the keys, from the first on at the same distance.
    :param facts: the number of that fact.
    :param events: event time of every fact by its number, in microseconds.
    """

    entities: _Entities
    times: _Times
    keys: Integers
    signposts: Integers
    facts: Integers
    events: Integers
    max_age_seconds: int | None

    def of(self, rows: Sequence[pl.Series], predicted: pl.Series) -> Integers:
        """The number of the fact that each row uses; -1 for none. May be called from several threads.

        :param rows: the entity columns of the rows.
        :param predicted: prediction times (timestamps, microseconds).
        """
        at = _microseconds(predicted)
        bits = self.times.bits
        wanted = (self.entities.codes(rows) << bits) + self.times.last_at(at)
        # In their own order the rows walk through the facts once, instead of jumping through all memory.
        wanted, order = _sorted(wanted)
        found = np.full(len(at), NONE, np.int64)
        if len(self.keys):
            place = self._last_at(wanted)
            key = self.keys[place]
            mine = (key <= wanted) & (key >> bits == wanted >> bits)
            found[order] = np.where(mine, self.facts[place], NONE)
        if self.max_age_seconds is not None and len(self.events):
            young = self.events[found] >= at - self.max_age_seconds * _MICROSECONDS
            found[~young] = NONE
        return found

    def _last_at(self, wanted: Integers) -> Integers:
        """The place of the last key at or before each of some numbers; 0 where none is."""
        # Bisecting all keys misses the processor's cache at nearly each step; every 32nd key stays in it.
        place = np.searchsorted(self.signposts, wanted, side="right") - 1
        np.maximum(place, 0, out=place)
        place *= _SIGNPOST_EVERY
        step, last = _SIGNPOST_EVERY // 2, len(self.keys) - 1
        while step:
            further = np.minimum(place + step, last)
            np.copyto(place, further, where=self.keys[further] <= wanted)
            step //= 2
        return place


def newest_facts(
    entity: Sequence[pl.Series],
    event: pl.Series,
    known: pl.Series,
    *,
    max_age_seconds: int | None,
    tie: Callable[[Integers], NDArray[np.uint64]],
) -> NewestFacts:
    """Put facts in the order of their use. Facts with a null in the entity or a time are never used.

    :param entity: the entity columns.
    :param tie: an order, by their content, of facts (given by number) that agree in entity and both times:
        they contradict each other, and the last is used, whatever the order of the file. It is called from
        several threads.
    """
    entities = _Entities.of(entity)
    code = entities.codes(entity)
    usable = code != entities.unknown
    if event.null_count() or known.null_count():
        usable &= ~(event.is_null() | known.is_null()).to_numpy()
    events, knowns = _microseconds(event), _microseconds(known)
    bits = _BITS - entities.bits
    # One scale serves both: an effective time is an event's or a knowledge time.
    times = _Times.of(events, knowns, usable, bits)
    ordering = _Ordering(entities, times, code, events, knowns, tie)
    found = list(in_order(partial(ordering.of, those) for those in _cut(code, usable, entities.bits)))
    keys, facts = (np.concatenate([part[side] for part in found]) for side in (0, 1))
    signposts = keys[::_SIGNPOST_EVERY].copy()
    return NewestFacts(entities, times, keys, signposts, facts, events, max_age_seconds)


def _cut(code: Integers, usable: NDArray[np.bool_], bits: int) -> list[Integers]:
    """The numbers of usable facts, cut by ranges of their entities, the ranges in order."""
    wanted = min(_PARTS, len(code) // _PART_ROWS)
    if wanted < 2:
        return [np.flatnonzero(usable)]
    # Ranges of codes differ in their upper bits.
    upper = (wanted - 1).bit_length()
    part = (code >> max(bits - upper, 0)).astype(np.uint8)
    part[~usable] = 255
    return [np.flatnonzero(part == number) for number in range(1 << min(upper, bits))]


@dataclass(frozen=True)
class _Ordering:
    """Puts the facts of some entities in the order of their use."""

    entities: _Entities
    times: _Times
    code: Integers
    events: Integers
    knowns: Integers
    tie: Callable[[Integers], NDArray[np.uint64]]

    def of(self, those: Integers) -> tuple[Integers, Integers]:
        """Keys, rising, and numbers of those facts that can be used at all."""
        bits = self.times.bits
        event, known = self.events[those], self.knowns[those]
        upper = self.code[those] << bits
        event_number = upper + self.times.last_at(event)
        key, order = _sorted(np.maximum(event_number, upper + self.times.last_at(known)))
        follows = np.empty(len(key), np.bool_)  # is the next one of the same entity and effective time?
        follows[-1:] = False
        np.equal(key[1:], key[:-1], out=follows[:-1])
        if follows.any():
            order = _settled(order, key, follows, event, known, lambda tied: self.tie(those[tied]))
        # Entities rise with the order, so that one running maximum serves them all.
        own = event_number[order]
        used = (own == np.maximum.accumulate(own)) & ~follows
        return key[used], those[order[used]]


def _sorted(numbers: Integers) -> tuple[Integers, Integers]:
    """Whole numbers from 0 in order, and the order."""
    if not len(numbers):
        return numbers, np.arange(0)
    least = int(numbers.min())
    needed = (int(numbers.max()) - least).bit_length()
    beside = len(numbers).bit_length()
    if needed + beside > _BITS:
        order = pl.Series(numbers).arg_sort().to_numpy().astype(np.int64)
        return numbers[order], order
    packed = numbers - least
    packed <<= beside
    packed |= np.arange(len(numbers))
    packed.sort()
    order = packed & ((1 << beside) - 1)
    packed >>= beside
    packed += least
    return packed, order


def _settled(
    order: Integers,
    key: Integers,
    follows: NDArray[np.bool_],
    event: Integers,
    known: Integers,
    tie: Callable[[Integers], NDArray[np.uint64]],
) -> Integers:
    """The order with facts of the same entity and effective time by event, knowledge and content."""
    tied = np.flatnonzero(follows | np.concatenate(([False], follows[:-1])))
    facts = order[tied]
    frame = pl.DataFrame({"key": key[tied], "event": event[facts], "known": known[facts], "fact": facts})
    by = ["key", "event", "known"]
    contradict = frame.select(pl.struct(by).is_duplicated()).to_series()
    content = np.zeros(len(facts), np.uint64)
    if contradict.any():
        content[contradict.to_numpy()] = tie(facts[contradict.to_numpy()])
    settled = frame.with_columns(content=content).sort([*by, "content"], maintain_order=True)
    order = order.copy()
    order[tied] = settled["fact"].to_numpy()
    return order


@dataclass(frozen=True)
class _Entities:
    """Entities as whole numbers from 0.

    :param unknown: the number of a null and of an entity that no fact has; larger than all others.
    :param least: one column of whole numbers is its own code, counted from this one.
    :param known: other entities with their codes.
    """

    unknown: int
    least: int = 0
    known: pl.DataFrame | None = None

    @property
    def bits(self) -> int:
        """How many a number has at most."""
        return self.unknown.bit_length()

    @classmethod
    def of(cls, columns: Sequence[pl.Series]) -> _Entities:
        """Codes for the entities of facts."""
        first = columns[0]
        if len(columns) == 1 and first.dtype.is_integer() and first.null_count() < len(first):
            least, most = _int(first.min()), _int(first.max())
            # Where times take too many bits beside it, their ranks do not: there are two a fact.
            if (most - least + 1).bit_length() + (2 * len(first)).bit_length() <= _BITS:
                return cls(most - least + 1, least)
        known = comparable(columns).drop_nulls().unique()
        return cls(known.height, known=known.with_row_index("code"))

    def codes(self, columns: Sequence[pl.Series]) -> Integers:
        """The codes of entities."""
        if self.known is None:
            values = columns[0].cast(pl.Int64)
            code = values.fill_null(self.least).to_numpy() - self.least
            # As a number without a sign, what is below the least is beyond all.
            code[code.view(np.uint64) >= self.unknown] = self.unknown
            if values.null_count():
                code[values.is_null().to_numpy()] = self.unknown
            return code
        frame = comparable(columns)
        by = [name for name in self.known.columns if name != "code"]
        found = frame.join(self.known, on=by, how="left", maintain_order="left")["code"]
        return found.cast(pl.Int64).fill_null(self.unknown).to_numpy()


@dataclass(frozen=True)
class _Times:
    """Times as whole numbers from 1, in few bits; 0 is before all of them.

    :param most: the number of the last one.
    :param unit: microseconds from one number to the next.
    :param ranks: the different times, in order, where counting from the first takes too many bits.
    """

    most: int
    first: int = 0
    unit: int = 1
    ranks: Integers | None = None

    @property
    def bits(self) -> int:
        """How many a number has at most."""
        return self.most.bit_length()

    @classmethod
    def of(cls, event: Integers, known: Integers, usable: NDArray[np.bool_], bits: int) -> _Times:
        """Numbers for the times of usable facts, in so many bits at most."""
        if not usable.all():
            event, known = event[usable], known[usable]
        if not len(event):
            return cls(1)
        first = int(min(event.min(), known.min()))
        last = int(max(event.max(), known.max()))
        unit = _MICROSECONDS if all(_in_seconds(times, first) for times in (event, known)) else 1
        if ((last - first) // unit + 1).bit_length() <= bits:
            return cls((last - first) // unit + 1, first, unit)
        ranks = np.unique(np.concatenate([event, known]))
        return cls(len(ranks), ranks=ranks)

    def last_at(self, times: Integers) -> Integers:
        """The number of the last moment of these times that is at or before another; 0 if there is none."""
        if self.ranks is not None:
            return np.searchsorted(self.ranks, times, side="right")
        number = times - self.first
        if self.unit > 1:
            number //= self.unit
        number += 1
        return np.clip(number, 0, self.most, out=number)


def _in_seconds(times: Integers, first: int) -> bool:
    """Whether times are whole seconds apart from the first."""
    since = times - first
    return bool((since // _MICROSECONDS * _MICROSECONDS == since).all())


def comparable(columns: Sequence[pl.Series]) -> pl.DataFrame:
    """The columns of an entity such that equal ones have equal hashes: whatever the width of a number."""

    def wide(column: pl.Series) -> pl.Series:
        if column.dtype.is_integer():
            return column.cast(pl.Int64)
        # Zero has two signs.
        return column.cast(pl.Float64) + 0.0 if column.dtype.is_float() else column

    return pl.DataFrame([wide(column).alias(f"b{number}") for number, column in enumerate(columns)])


def _microseconds(times: pl.Series) -> Integers:
    physical = times.cast(pl.Datetime("us")).to_physical()
    return (physical.fill_null(0) if physical.null_count() else physical).to_numpy()


def _int(value: Any) -> int:
    return int(value)
