"""Small documents in the store."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from airflow_ml_provider.contract.errors import ConfigError, MLError
from airflow_ml_provider.contract.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "with space" / "store"))


def test_a_document_comes_back_and_a_missing_one_is_none(store: Store) -> None:
    assert store.read("runs/x/result.json") is None
    uri = store.write_json("runs/x/result.json", {"b": 1, "a": [2]})
    assert uri.endswith("/runs/x/result.json")
    assert store.read_json("runs/x/result.json") == {"a": [2], "b": 1}
    store.delete("runs/x/result.json")
    store.delete("runs/x/result.json")
    assert store.read("runs/x/result.json") is None


def test_of_many_creators_exactly_one_wins(store: Store) -> None:
    wins: list[int] = []
    store.write("warm", b"")

    def claim(n: int) -> None:
        if store.create("claims/one", str(n).encode()):
            wins.append(n)

    threads = [threading.Thread(target=claim, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.read("claims/one") == str(wins[0]).encode()


def test_listing_starts_behind_a_given_path(store: Store) -> None:
    for number in (1, 2, 3):
        store.write(f"ledger/{number:03}.json", b"{}")
    assert sorted(store.paths("ledger")) == ["ledger/001.json", "ledger/002.json", "ledger/003.json"]
    assert sorted(store.paths("ledger", after="ledger/001.json")) == ["ledger/002.json", "ledger/003.json"]
    assert [*store.paths("nothing")] == []


def test_the_newest_table_version_comes_from_the_log(store: Store) -> None:
    assert store.latest_version("flights") is None
    for name in ("00000000000000000000.json", "00000000000000000010.json", "_last_checkpoint"):
        store.write(f"tables/flights/_delta_log/{name}", b"{}")
    store.write("tables/flights/_delta_log/00000000000000000010.checkpoint.parquet", b"x")
    assert store.latest_version("flights") == 10


def test_no_store_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="no store is configured") as caught:
        Store("")
    assert "AIRFLOW__ML__STORE" in str(caught.value)


def test_credentials_in_the_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="credentials in it") as caught:
        Store("s3://AKIA:planted-secret@bucket/prefix")
    assert "planted-secret" not in str(caught.value)


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MLError, match=r"could not|refuses") as caught:
        Store(str(tmp_path / "file" / "store")).write("x", b"")
    assert str(tmp_path / "file") in str(caught.value)
