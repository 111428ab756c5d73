"""Which version was champion when: against replaying the ledger by hand, and the version to go back to."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.history import (
    as_of,
    entry_at,
    given_moment,
    history,
    previous_version,
    standing,
    written,
)
from airflow_ml_provider.registry.ledger import Entry, Ledger, Move, Outcome

START = datetime(2013, 1, 1, tzinfo=UTC)


def day(number: int) -> str:
    return written(START + timedelta(days=number))


def move(
    sequence: int, version: int | None, *, on: int = 0, effective: int | None = None, moved: bool | None = True,
    kind: str = "promotion", alias: str = "champion", known: int | None = None,
) -> Move:  # fmt: skip
    entry = Entry(
        sequence, "delays", alias, version, None, day(on), "ada", "better", "d", "", f"step-{sequence}",
        kind=kind, effective="" if effective is None else day(effective),  # type: ignore[arg-type]
    )  # fmt: skip
    if moved is None:
        return Move(entry, None)
    return Move(
        entry, Outcome(sequence, moved, day(on if known is None else known), "s", day(on) if moved else "")
    )


def version_on(moves: list[Move], number: int, known: int | None = None) -> int | None:
    at = START + timedelta(days=number)
    found = entry_at(moves, at, None if known is None else START + timedelta(days=known))
    return found.version if found else None


DAYS = st.integers(0, 12)
MOVES = st.lists(
    st.tuples(
        st.integers(1, 4) | st.none(), DAYS, st.none() | DAYS, st.sampled_from([True, True, False, None])
    ),
    max_size=8,
).map(
    lambda drawn: [
        move(number + 1, version, on=on, effective=effective, moved=moved)
        for number, (version, on, effective, moved) in enumerate(drawn)
    ]
)


@given(MOVES, st.integers(-1, 13), st.none() | st.integers(-1, 13), st.randoms())
def test_as_of_is_what_replaying_the_ledger_day_by_day_gives(
    moves: list[Move], on: int, known: int | None, random: object
) -> None:
    """The replay writes each move over all days from the one it counts from."""
    champions: dict[int, int | None] = {}
    for one in moves:
        if one.outcome is None or not one.outcome.moved:
            continue
        if known is not None and datetime.fromisoformat(one.outcome.at) > START + timedelta(days=known):
            continue
        first = (datetime.fromisoformat(one.effective) - START).days
        champions.update(dict.fromkeys(range(first, 14), one.entry.version))
    shuffled = list(moves)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert version_on(shuffled, on, known) == champions.get(on)


@given(MOVES, DAYS, DAYS)
def test_what_was_known_then_does_not_change_by_what_is_written_later(
    moves: list[Move], on: int, known: int
) -> None:
    later = move(len(moves) + 1, 9, on=known + 1, effective=0)
    assert version_on([*moves, later], on, known) == version_on(moves, on, known)


def test_a_promotion_counts_from_when_it_moved_the_alias_unless_it_says_otherwise() -> None:
    moves = [move(1, 1, on=2), move(2, 2, on=5), move(3, 3, on=8, effective=4)]
    assert [version_on(moves, number) for number in (1, 2, 3, 4, 6, 9)] == [None, 1, 1, 3, 3, 3]
    assert [version_on(moves, number, known=6) for number in (3, 4, 6)] == [1, 1, 2]
    found = entry_at(moves, START + timedelta(days=3))
    assert found is not None
    assert found.effective == day(2)


def test_a_moment_counts_from_its_very_instant_in_any_zone() -> None:
    moves = [move(1, 1, on=2)]
    exactly = START + timedelta(days=2)
    assert entry_at(moves, exactly - timedelta(milliseconds=1)) is None
    assert entry_at(moves, exactly.astimezone(timezone(timedelta(hours=-5)))) is not None
    assert entry_at(moves, exactly.replace(tzinfo=None)) is not None, "without a zone it is UTC"


def test_an_alias_that_was_deleted_named_nothing() -> None:
    moves = [move(1, 1, on=1), move(2, None, on=3, kind="external")]
    found = entry_at(moves, START + timedelta(days=4))
    assert found is not None
    assert (found.sequence, found.version) == (2, None)


def test_one_alias_does_not_see_another(store: str) -> None:
    place = Store(store)
    ledger = Ledger(place, "delays")
    for one in (move(1, 1, on=1), move(2, 2, on=2, alias="canary"), move(3, 3, on=3, moved=False)):
        ledger.append(one.entry)
        assert one.outcome is not None
        ledger.conclude(one.outcome)
    assert [one.entry.sequence for one in history(place, "delays")] == [1, 3]
    now = START + timedelta(days=9)
    assert [
        getattr(as_of(place, "delays", now, alias), "version", None) for alias in ("champion", "canary")
    ] == [1, 2]
    assert as_of(place, "another", now) is None


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([], []),
        ([("promotion", 1)], []),
        ([("promotion", 1), ("promotion", 2), ("promotion", 3)], [2, 1]),
        ([("promotion", 1), ("external", 2), ("promotion", 3)], [2, 1]),
        # Back to 1 by a promotion: 2 was champion before it.
        ([("promotion", 1), ("promotion", 2), ("promotion", 1)], [2]),
        # A version that was rolled back is not gone back to, wherever it stands.
        ([("promotion", 3), ("promotion", 1), ("promotion", 3)], [1]),
        ([("promotion", 1), ("promotion", 2), ("rollback", 1), ("promotion", 3)], [1]),
        # Promoted again, it counts again.
        ([("promotion", 1), ("promotion", 2), ("rollback", 1), ("promotion", 2), ("promotion", 3)], [2, 1]),
        # To a version that was named: what lay between is left, too.
        ([("promotion", 1), ("promotion", 2), ("promotion", 3), ("rollback", 1)], []),
        ([("promotion", 1), ("promotion", 2), ("rollback", 7)], [1]),
        # Deleted: the last that there was.
        ([("promotion", 1), ("promotion", 2), ("external", None)], [2, 1]),
    ],
)  # fmt: skip
def test_rolling_back_again_goes_further_back_and_never_to_what_was_left(
    moves: list[tuple[str, int | None]], expected: list[int]
) -> None:
    told = [move(number + 1, version, kind=kind) for number, (kind, version) in enumerate(moves)]
    went = []
    while (target := previous_version(told)) is not None:
        went.append(target)
        told.append(move(len(told) + 1, target, kind="rollback"))
    assert went == expected


@given(MOVES)
def test_rollbacks_come_to_an_end_and_never_stay(moves: list[Move]) -> None:
    for _ in range(len(moves) + 1):
        target = previous_version(moves)
        if target is None:
            return
        assert target != standing(moves)[0]
        moves = [*moves, move(len(moves) + 1, target, kind="rollback")]
    pytest.fail("rolled back more often than it was promoted")


def test_a_moment_is_taken_as_a_date_or_a_time() -> None:
    assert given_moment("2013-06-01", name="x") == datetime(2013, 6, 1, tzinfo=UTC)
    assert given_moment(date(2013, 6, 1).isoformat() + "T02:00:00+02:00", name="x") == datetime(
        2013, 6, 1, tzinfo=UTC
    )
    with pytest.raises(ConfigError, match="effective= is 'June', which is not a moment"):
        given_moment("June", name="effective=")
