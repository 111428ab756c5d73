"""Moving an alias: serial, explained, and repaired by whoever comes next, wherever a step dies."""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from servers import s3_server

from airflow_ml_provider.contract.errors import DataError, MLError, TransientError
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.history import previous_version, written
from airflow_ml_provider.registry.ledger import Entry, Ledger
from airflow_ml_provider.registry.moves import GRACE, Mover, State, settle

LOG = logging.getLogger("test")


class Died(Exception):
    """What a killed process does not catch."""


class Deaths:
    """Counts what a step does to the world, and ends it before or after one of these."""

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        self.at, self.after, self.count = at, after, 0

    def around(self, act: Callable[[], Any]) -> Any:
        number, self.count = self.count, self.count + 1
        if number == self.at and not self.after:
            raise Died
        found = act()
        if number == self.at:
            raise Died
        return found


class Registry:
    """MLflow's aliases: a value that is simply overwritten."""

    def __init__(self, **named: int | None) -> None:
        self.values: dict[str, int | None] = named
        self.deaths = Deaths()
        self.on_point: Callable[[], object] | None = None

    def named(self, alias: str) -> int | None:
        return self.values.get(alias)

    def point(self, alias: str, version: int) -> None:
        def put() -> None:
            self.values[alias] = version

        hook, self.on_point = self.on_point, None
        if hook:
            hook()
        self.deaths.around(put)


class DyingStore(Store):
    deaths = Deaths()

    def create(self, path: str, content: bytes) -> bool:
        created: bool = self.deaths.around(lambda: super(DyingStore, self).create(path, content))
        return created


class Step(Mover):
    """A promotion of a version, or a rollback."""

    def __init__(
        self, store: Store, registry: Registry, version: int | None, key: str, patience: float = 20
    ) -> None:
        super().__init__(
            Ledger(store, "delays"), registry, "champion", step_key=key, log=LOG, patience=patience
        )
        self.version = version

    def is_mine(self, entry: Entry) -> bool:
        return entry.step_key == self.step_key and entry.verdict == "d"

    def done(self, state: State) -> Entry | None:
        return next((move.entry for move in state.moves if move.moved and self.is_mine(move.entry)), None)

    def wanted(self, state: State) -> Entry | None:
        version = self.version or previous_version(state.moves)
        if version is None or version == state.now:
            return None
        return Entry(
            state.last + 1, "delays", "champion", version, state.now, written(datetime.now(UTC)), "ada", "better",
            "d", "", self.step_key, kind="promotion" if self.version else "rollback",
        )  # fmt: skip


@pytest.fixture
def place(store: str) -> Store:
    return Store(store)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store on an S3 server of its own."""
    with s3_server(tmp_path / "s3.log") as address:
        for name, value in {
            "AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something", "AWS_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        urllib.request.urlopen(urllib.request.Request(f"{address}/ledgers", method="PUT")).close()
        yield "s3://ledgers/ml"


def explained(place: Store, registry: Registry) -> list[Entry]:
    """The entries that moved, when they explain where the alias is; fails when they do not."""
    moves = Ledger(place, "delays").moves()
    assert [move.entry.sequence for move in moves] == list(range(1, len(moves) + 1))
    assert all(move.outcome is not None for move in moves)
    moved = [move.entry for move in moves if move.moved]
    assert [entry.previous for entry in moved] == [None, *(entry.version for entry in moved)][: len(moved)]
    assert (moved[-1].version if moved else None) == registry.values.get("champion")
    return moved


def later(place: Store, by: timedelta = 2 * GRACE) -> None:
    """Let time pass: what is written is so much older."""
    for path in list(place.paths("registry")):
        document = place.read_json(path)
        document["at"] = written(datetime.fromisoformat(document["at"]) - by)
        place.write_json(path, document)


# Killed

DEATHS = [(number, after) for number in range(5) for after in (False, True)]


def dies(place: Store, registry: Registry, step: Callable[[Store], Step], at: int, *, after: bool) -> None:
    """Run a step that dies at its n-th change of the world: the first two record what was found."""
    dying = DyingStore(place.uri)
    dying.deaths = registry.deaths = Deaths(at, after=after)
    with pytest.raises(Died):
        step(dying).move()
    registry.deaths = Deaths()


@pytest.mark.parametrize(("at", "after"), DEATHS)
def test_a_step_killed_anywhere_is_completed_by_its_next_try(place: Store, at: int, after: bool) -> None:
    registry = Registry(champion=1)
    dies(place, registry, lambda store: Step(store, registry, 2, "a"), at, after=after)
    entry = Step(place, registry, 2, "a").move()
    assert entry is not None
    assert [(one.kind, one.version) for one in explained(place, registry)] == [
        ("external", 1),
        ("promotion", 2),
    ]
    assert Step(place, registry, 2, "a").move() == entry, "and trying again changes nothing"
    assert len(explained(place, registry)) == 2


@pytest.mark.parametrize(("at", "after"), DEATHS)
def test_what_a_killed_step_has_left_is_settled_by_whoever_comes_next(
    place: Store, at: int, after: bool
) -> None:
    registry = Registry(champion=1)
    dies(place, registry, lambda store: Step(store, registry, 2, "a"), at, after=after)
    moved = registry.values["champion"] == 2
    later(place)
    assert Step(place, registry, 3, "b").move() is not None
    assert [one.version for one in explained(place, registry)] == ([1, 2, 3] if moved else [1, 3])


@pytest.mark.parametrize(("at", "after"), DEATHS[:6])
def test_a_rollback_killed_anywhere_goes_back_once(place: Store, at: int, after: bool) -> None:
    registry = Registry()
    for version in (1, 2, 3):
        Step(place, registry, version, f"p{version}").move()
    dies(place, registry, lambda store: Step(store, registry, None, "r"), at % 3, after=after)
    entry = Step(place, registry, None, "r").move()
    assert entry is not None
    assert (entry.kind, registry.values["champion"]) == ("rollback", 2)
    assert [one.version for one in explained(place, registry)] == [1, 2, 3, 2]


def test_one_that_is_tried_again_after_long_begins_anew_if_it_had_not_moved(place: Store) -> None:
    registry = Registry(champion=1)
    dies(place, registry, lambda store: Step(store, registry, 2, "a"), 3, after=False)
    later(place, GRACE * 0.7)
    entry = Step(place, registry, 2, "a").move()
    assert entry is not None
    assert entry.sequence == 3, "entry 2 is too old for a move that nobody may take for dead"
    assert [one.sequence for one in explained(place, registry)] == [1, 3]


# At once


@pytest.mark.parametrize("where", ["store", "bucket"])
def test_eight_movers_at_once_come_one_after_another_and_none_is_lost(
    request: pytest.FixtureRequest, where: str
) -> None:
    place = Store(request.getfixturevalue(where))
    registry = Registry(champion=1)

    def move(number: int) -> int | None:
        version = None if number % 4 == 3 else 10 + number
        entry = Step(place, registry, version, f"step-{number}").move()
        return entry.sequence if entry else None

    with ThreadPoolExecutor(8) as movers:
        moved = list(movers.map(move, range(24)))
    entries = explained(place, registry)
    assert sorted(one for one in moved if one) == [entry.sequence for entry in entries[1:]]
    assert all(before.at <= after.at for before, after in pairwise(entries))


def test_a_move_that_does_not_end_is_named_and_nothing_is_done(place: Store) -> None:
    registry = Registry(champion=1)
    dies(place, registry, lambda store: Step(store, registry, 2, "a"), 3, after=False)
    with pytest.raises(TransientError) as failure:
        Step(place, registry, 3, "b", patience=0.3).move()
    said = str(failure.value)
    assert "entry 2 of the ledger of 'delays' is under way: step a moves 'champion' to version 2" in said
    assert "run it again; from " in said
    assert registry.values["champion"] == 1
    assert len(Ledger(place, "delays").entries()) == 2


def test_a_move_of_another_that_ends_in_time_is_waited_for(place: Store) -> None:
    registry = Registry(champion=1)
    dies(place, registry, lambda store: Step(store, registry, 2, "a"), 3, after=False)
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(Step(place, registry, 3, "b").move)
        time.sleep(0.3)
        assert not waiting.done()
        Step(place, registry, 2, "a").move()
        assert waiting.result(30) is not None
    assert [one.version for one in explained(place, registry)] == [1, 2, 3]


def test_a_move_that_comes_after_it_was_given_up_is_taken_back_and_begun_anew(place: Store) -> None:
    registry = Registry(champion=1)
    late = Step(place, registry, 2, "late")

    def meanwhile() -> None:
        """The step hangs in its request, for so long that it is taken for dead, and another moves on."""
        later(place)
        assert Step(place, registry, 3, "b").move() is not None

    registry.on_point = meanwhile
    entry = late.move()
    assert [one.sequence for one in late.late] == [2]
    assert entry is not None
    moves = Ledger(place, "delays").moves()
    assert [(move.entry.version, move.entry.previous, move.moved) for move in moves] == [
        (1, None, True),
        (2, 1, False),
        (3, 1, True),
        (3, 2, True),
        (2, 3, True),
    ]
    assert moves[3].entry.reason == "takes back the late move of entry 2, which had been given up"
    assert registry.values["champion"] == 2


# Somebody's hand


def test_what_somebody_did_by_hand_is_recorded_and_gone_on_from(place: Store) -> None:
    registry = Registry(champion=1)
    Step(place, registry, 2, "a").move()
    registry.values["champion"] = 7
    step = Step(place, registry, 3, "b")
    step.move()
    assert [(one.version, one.previous, one.by) for one in step.noticed] == [(7, 2, "external")]
    assert step.noticed[0].reason == "noticed by step b: the ledger says version 2"
    registry.values["champion"] = None
    state = settle(Ledger(place, "delays"), registry, "champion", noticed_by="the watcher")
    assert [(one.version, one.previous) for one in state.noticed] == [(None, 3)]
    assert [one.version for one in explained(place, registry)] == [1, 2, 7, 3, None]
    assert settle(Ledger(place, "delays"), registry, "champion", noticed_by="the watcher").noticed == []


def test_a_model_without_the_alias_begins_with_an_empty_ledger(place: Store) -> None:
    state = settle(Ledger(place, "delays"), Registry(), "champion", noticed_by="the watcher")
    assert (state.moves, state.now, state.last, state.noticed) == ([], None, 0, [])


def test_a_hand_between_the_entry_and_the_move_ends_the_move(place: Store) -> None:
    registry = Registry(champion=1)
    dies(place, registry, lambda store: Step(store, registry, 2, "a"), 3, after=False)
    registry.values["champion"] = 7
    Step(place, registry, 2, "a").move()
    assert [(one.version, one.kind) for one in explained(place, registry)] == [
        (1, "external"), (7, "external"), (2, "promotion"),
    ]  # fmt: skip


def test_two_who_notice_the_same_record_it_once(place: Store) -> None:
    registry = Registry(champion=1)

    def look(number: int) -> int:
        return len(settle(Ledger(place, "delays"), registry, "champion", noticed_by=f"{number}").noticed)

    with ThreadPoolExecutor(8) as watchers:
        assert sum(watchers.map(look, range(16))) == 1
    assert len(explained(place, registry)) == 1


# MLflow


@pytest.mark.parametrize("done", [False, True])
def test_an_answer_that_was_lost_is_looked_up(place: Store, done: bool) -> None:
    registry = Registry(champion=1)

    def fail() -> None:
        if done:
            registry.values["champion"] = 2
        raise TransientError("MLflow answered HTTP 500")

    registry.on_point = fail
    if done:
        assert Step(place, registry, 2, "a").move() is not None
    else:
        with pytest.raises(TransientError) as failure:
            Step(place, registry, 2, "a").move()
        assert failure.value.retry == "completes entry 2"
        assert "Entry 2 of the ledger of 'delays' is under way" in failure.value.what
        assert Step(place, registry, 2, "a").move() is not None
    assert [one.version for one in explained(place, registry)] == [1, 2]


def test_a_move_that_mlflow_refuses_is_given_up_at_once(place: Store) -> None:
    registry = Registry(champion=1)

    def refuse() -> None:
        raise DataError("no such version")

    registry.on_point = refuse
    with pytest.raises(MLError, match="no such version"):
        Step(place, registry, 2, "a").move()
    assert Step(place, registry, 3, "b", patience=0).move() is not None, "nobody waits for it"
    assert [one.version for one in explained(place, registry)] == [1, 3]


# Ledgers from before there were outcomes


@pytest.mark.parametrize(("now", "expected"), [(3, [1, 2, 3]), (2, [1, 2]), (9, [1, 2, 9])])
def test_a_ledger_without_outcomes_is_concluded_by_where_its_alias_went(
    place: Store, now: int, expected: list[int]
) -> None:
    """Entry 3 never moved the alias; 4 is as written, moved or not as the alias tells."""
    for sequence, (version, previous) in enumerate([(1, None), (2, 1), (8, 2), (3, 2)], start=1):
        at = "2013-05-01T06:00:00+00:00"
        old = {"sequence": sequence, "model": "delays", "alias": "champion", "version": version,
               "previous": previous, "at": at, "by": "ada", "reason": "better", "verdict": "d",
               "verdict_uri": "", "step_key": f"s{sequence}", "kind": "promotion"}  # fmt: skip
        assert Ledger(place, "delays").append(msgspec.convert(old, Entry))
    registry = Registry(champion=now)
    settle(Ledger(place, "delays"), registry, "champion", noticed_by="the watcher")
    assert [one.version for one in explained(place, registry)] == expected
    third = Ledger(place, "delays").outcome(3)
    assert third is not None
    assert not third.moved
