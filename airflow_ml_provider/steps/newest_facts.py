"""Which fact each row uses: the point-in-time rule on two clocks, over facts that fit in memory.

A row with prediction time ``t`` uses, of the facts about its entity with event time <= t and knowledge
time <= t, the one with the newest event time; among those, the one that became known last.

How one search does that: a fact can be used from ``effective = max(event, knowledge)`` on. In effective
order, a fact that is older than one before it (by event time) can never be chosen again, so it is dropped:
what remains has event times that rise with ``effective``, and the last one at or before ``t`` is the newest.

Entity and effective time are one whole number, the entity in the upper bits: facts are sorted by it once,
and a row's fact is found by bisection. Where both do not fit into 63 bits, times are replaced by their ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

NONE = -1
_BITS = 63
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class NewestFacts:
    """Facts in the order of their use, to look rows' facts up in.

    :param keys: entity and effective time of each fact that can be used, as one number, rising.
    :param facts: the number of that fact.
    :param events: event time of every fact by its number, in microseconds.
    """

    entities: _Entities
    times: _Times
    keys: Integers
    facts: Integers
    events: Integers
    max_age_seconds: int | None

    def of(self, rows: Sequence[pl.Series], predicted: pl.Series) -> Integers:
        """The number of the fact that each row uses; -1 for none. May be called from several threads.

        :param rows: the entity columns of the rows.
        :param predicted: prediction times (timestamps, microseconds).
        """
        at = _microseconds(predicted)
        code = self.entities.codes(rows)
        # A time before all facts ends in the part of the entity before this one, which is not looked at.
        wanted = (code << self.times.bits) + self.times.last_at(at)
        # In their own order the rows walk through the facts once, instead of jumping through all memory.
        order = pl.Series(wanted).arg_sort().to_numpy()
        wanted = wanted[order]
        place = np.searchsorted(self.keys, wanted, side="right") - 1
        found = np.full(len(at), NONE, np.int64)
        if len(self.keys):
            mine = (place >= 0) & (self.keys[place] >> self.times.bits == code[order])
            found[order] = np.where(mine, self.facts[place], NONE)
        if self.max_age_seconds is not None and len(self.events):
            young = self.events[found] >= at - self.max_age_seconds * _MICROSECONDS
            found[~young] = NONE
        return found


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
        they contradict each other, and the last is used, whatever the order of the file.
    """
    entities = _Entities.of(entity)
    numbers = np.arange(len(event))
    code = entities.codes(entity)
    usable = (code != NONE) & ~(event.is_null() | known.is_null()).to_numpy()
    events, knowns = _microseconds(event), _microseconds(known)
    if not usable.all():
        numbers, code = numbers[usable], code[usable]
    every = slice(None) if len(numbers) == len(events) else usable
    event_of, known_of = events[every], knowns[every]
    effective = np.maximum(event_of, known_of)
    times = _Times.of(effective, _BITS - entities.bits)
    key = (code << times.bits) + times.last_at(effective)
    order = pl.Series(key).arg_sort().to_numpy()
    key = key[order]
    follows = np.empty(len(key), np.bool_)  # is the next one of the same entity and effective time?
    follows[-1:] = False
    np.equal(key[1:], key[:-1], out=follows[:-1])
    if follows.any():
        order = _settled(order, key, follows, event_of, known_of, lambda those: tie(numbers[those]))
    # Entities rise with the order, so that one running maximum serves them all.
    by_event = _Times.of(event_of, _BITS - entities.bits)
    own = (key >> times.bits << by_event.bits) + by_event.last_at(event_of[order])
    used = (own == np.maximum.accumulate(own)) & ~follows
    return NewestFacts(entities, times, key[used], numbers[order[used]], events, max_age_seconds)


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

    :param least: one column of whole numbers is its own code, counted from this one.
    :param known: other entities with their codes.
    """

    bits: int
    least: int = 0
    most: int = NONE
    known: pl.DataFrame | None = None

    @classmethod
    def of(cls, columns: Sequence[pl.Series]) -> _Entities:
        """Codes for the entities of facts."""
        first = columns[0]
        if len(columns) == 1 and first.dtype.is_integer() and first.null_count() < len(first):
            least, most = _int(first.min()), _int(first.max())
            # A year in microseconds has 45 bits.
            if (bits := (most - least).bit_length()) <= _BITS - 46:
                return cls(bits, least, most)
        known = _frame(columns).drop_nulls().unique()
        return cls(known.height.bit_length(), known=known.with_row_index("code"))

    def codes(self, columns: Sequence[pl.Series]) -> Integers:
        """The codes of entities; -1 for a null and for one that is not known."""
        if self.known is None:
            values = columns[0].cast(pl.Int64)
            within = values.is_between(self.least, self.most).fill_null(False)
            return np.where(within.to_numpy(), values.fill_null(NONE).to_numpy() - self.least, NONE)
        frame = _frame(columns)
        by = [name for name in self.known.columns if name != "code"]
        found = frame.join(self.known, on=by, how="left", maintain_order="left")["code"]
        return found.cast(pl.Int64).fill_null(NONE).to_numpy()


@dataclass(frozen=True)
class _Times:
    """Times as whole numbers from 0, in few bits.

    :param ranks: the different times, in order, where counting from the first takes too many bits.
    """

    bits: int
    first: int = 0
    ranks: Integers | None = None

    @classmethod
    def of(cls, times: Integers, bits: int) -> _Times:
        """Numbers for times of facts, in so many bits at most."""
        if not len(times):
            return cls(1)
        first, last = int(times.min()), int(times.max())
        if (needed := (last - first).bit_length()) <= bits:
            return cls(needed, first)
        ranks = np.unique(times)
        return cls(len(ranks).bit_length(), ranks=ranks)

    def last_at(self, times: Integers) -> Integers:
        """The number of the last moment of these times that is at or before another; -1 if there is none."""
        if self.ranks is not None:
            return np.searchsorted(self.ranks, times, side="right") - 1
        return np.clip(times - self.first, -1, (1 << self.bits) - 1)


def _frame(columns: Sequence[pl.Series]) -> pl.DataFrame:
    """Columns that equal each other where DuckDB and people say so: whatever the width of a number."""

    def wide(column: pl.Series) -> pl.Series:
        if column.dtype.is_integer():
            return column.cast(pl.Int64)
        return column.cast(pl.Float64) if column.dtype.is_float() else column

    return pl.DataFrame([wide(column).alias(f"b{number}") for number, column in enumerate(columns)])


def _microseconds(times: pl.Series) -> Integers:
    return times.cast(pl.Datetime("us")).to_physical().fill_null(0).to_numpy()


def _int(value: Any) -> int:
    return int(value)
