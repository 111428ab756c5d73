"""The ledger: append-only, in order, whoever writes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.store import Store, local_path
from airflow_ml_provider.registry.ledger import Entry, Ledger


def entry(sequence: int, *, version: int = 1, step_key: str = "a") -> Entry:
    return Entry(
        sequence=sequence,
        model="delays",
        alias="champion",
        version=version,
        previous=None,
        at="2013-05-01T06:00:00+00:00",
        by="ada",
        reason="better",
        verdict="d1",
        verdict_uri="file:///verdict.json",
        step_key=step_key,
    )


def test_entries_come_back_in_order_and_are_never_overwritten(store: str) -> None:
    ledger = Ledger(Store(store), "delays")
    assert ledger.entries() == []
    assert all(ledger.append(entry(number)) for number in (2, 10, 1))
    assert not ledger.append(entry(2, version=9))
    assert ledger.entries() == [entry(1), entry(2), entry(10)]


def test_of_many_writers_of_one_number_exactly_one_is_first(store: str) -> None:
    def write(writer: int) -> bool:
        return Ledger(Store(store), "delays").append(entry(1, step_key=f"step-{writer}"))

    with ThreadPoolExecutor(8) as writers:
        won = list(writers.map(write, range(24)))
    assert won.count(True) == 1
    (kept,) = Ledger(Store(store), "delays").entries()
    assert kept.step_key == f"step-{won.index(True)}"


@pytest.mark.parametrize("name", ["delays", "Größe 50 %", "..", "a.b", "it's"])
def test_every_model_has_its_own_folder_whatever_its_name(store: str, name: str) -> None:
    place = Store(store)
    assert Ledger(place, name).append(entry(1))
    assert Ledger(place, name).entries() == [entry(1)]
    assert Ledger(place, f"{name}x").entries() == []
    (written,) = local_path(store).rglob("*.json")
    assert written.relative_to(local_path(store)).parts[0] == "registry"
    assert written.parent.parent.parent == Path(local_path(store), "registry")


def test_a_document_that_is_no_entry_is_named_and_left_alone(store: str) -> None:
    place = Store(store)
    place.write("registry/delays/ledger/00000001.json", b'{"sequence": 1}')
    with pytest.raises(DataError, match=r"registry/delays/ledger/00000001.json in .* is not an entry"):
        Ledger(place, "delays").entries()
    assert place.read("registry/delays/ledger/00000001.json") == b'{"sequence": 1}'
