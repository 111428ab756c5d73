"""What every place must do alike."""

from __future__ import annotations

import json
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException
from places import Place, store_of
from tries import Try

from airflow_ml_provider import Column, Schema, Table
from airflow_ml_provider.contract.errors import DataError, InfrastructureError, MLError, UserCodeError
from airflow_ml_provider.operators import FleetOperator, IngestOperator

SCHEMA = Schema((Column("id", "int64"), Column("what", "string")))
PLAIN = """
    import polars as pl

    def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows
    """


class ReadOperator(IngestOperator):
    """Reads two rows; unlike ingestion it does not look for new ones when it has a result."""

    reusable = True


class Shop:
    """A user's folder of code in one place, and tasks of it."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.code = folder / "code"
        self.code.mkdir()
        store_of(place).write("raw/rows.csv", b"id,what\n1,one\n2,two\n")

    def write(self, code: str) -> None:
        (self.code / "mine.py").write_text(textwrap.dedent(code))

    def task(
        self, code: str = PLAIN, *, source: str = "raw/rows.csv", compute: Any = None, **more: Any
    ) -> Any:
        """A task that reads two rows and has the user's function see them."""
        self.write(code)
        store = store_of(self.place)
        with DAG("shop"):
            return ReadOperator(
                task_id="rows", source=f"{store.uri}/{source}", schema=SCHEMA, transform="mine:transform",
                publish=Table("rows", partition_by=None), code=str(self.code),
                compute=self.place.compute(**(compute or {})), **more,
            )  # fmt: skip

    def fleet(self, code: str, items: list[dict[str, Any]], **more: Any) -> Any:
        """A task that runs a function over items."""
        self.write(code)
        with DAG("shop"):
            return FleetOperator(
                task_id="fleet", function="mine:work", over=items, code=str(self.code),
                compute=self.place.compute(), parallelism=2, **more,
            )  # fmt: skip

    def versions(self) -> int | None:
        return store_of(self.place).latest_version("rows")


@pytest.fixture
def shop(place: Place, tmp_path: Path) -> Shop:
    return Shop(place, tmp_path)


def run(task: Any, number: int = 1) -> dict[str, Any]:
    return Try(task, number).to_the_end()


def test_a_step_publishes_and_leaves_nothing_behind(shop: Shop) -> None:
    output = run(shop.task())
    assert output["table"]["rows"] == 2
    shop.place.until(lambda: not shop.place.leftovers())


def test_the_users_other_files_are_there(shop: Shop) -> None:
    (shop.code / "helper.py").write_text("WHAT = 'helped'\n")
    code = """
        import helper
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            assert helper.WHAT == "helped"
            return rows
        """
    assert run(shop.task(code))["table"]["rows"] == 2


def test_a_mistake_in_the_users_code_is_told_with_their_traceback_and_not_retried(shop: Shop) -> None:
    code = """
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            raise ValueError("a mistake")
        """
    with pytest.raises(UserCodeError, match="mine:transform raised ValueError: a mistake") as failed:
        run(shop.task(code))
    assert 'raise ValueError("a mistake")' in failed.value.__notes__[-1]
    assert not failed.value.retryable
    shop.place.until(lambda: not shop.place.leftovers())


def test_bad_data_is_told_and_nothing_is_published(shop: Shop) -> None:
    store_of(shop.place).write("raw/rows.csv", b"id,what\none,1\n")
    with pytest.raises(DataError):
        run(shop.task())
    assert shop.versions() is None


def test_nothing_to_do_is_a_skip(shop: Shop) -> None:
    with pytest.raises(AirflowSkipException):
        run(shop.task(source="raw/none-*.csv"))


def test_a_cleared_task_reuses_what_it_has_and_edited_code_runs_again(shop: Shop) -> None:
    run(shop.task())
    version = shop.versions()
    began = time.monotonic()
    run(shop.task(), 2)
    reused = time.monotonic() - began
    assert shop.versions() == version
    assert not shop.place.leftovers()
    run(shop.task(PLAIN + "\n    # edited\n"), 3)
    assert reused < 30


def test_a_step_whose_place_is_taken_away_ends_published_once(shop: Shop) -> None:
    code = """
        import time
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            time.sleep(5)
            return rows
        """
    task = shop.task(code)
    output = run_interrupted(shop.place, task)
    assert output["table"]["rows"] == 2
    assert shop.versions() == output["table"]["version"]
    shop.place.until(lambda: not shop.place.leftovers())


def test_a_task_that_is_ended_ends_its_step(shop: Shop) -> None:
    code = """
        import time
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            time.sleep(300)
            return rows
        """
    attempt = Try(shop.task(code, compute={"deferrable": False}))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            attempt.leg()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    shop.place.until(shop.place.running)
    attempt.running.on_kill()
    thread.join(60)
    assert failures
    shop.place.until(lambda: not shop.place.leftovers())
    assert shop.versions() is None


def test_a_connection_reaches_the_users_code_and_no_document(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "generic", "password": "pl4nted"}))
    code = """
        import json
        import os
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            assert json.loads(os.environ["AIRFLOW_ML_CONN_WAREHOUSE"])["password"] == "pl4" + "nted"
            return rows
        """
    output = run(shop.task(code, connections=["warehouse"]))
    store = store_of(shop.place)
    documents = [store.read(path) or b"" for path in store.paths("runs")]
    assert documents
    assert not any(b"pl4nted" in document for document in [*documents, str(output).encode()])
    shop.place.until(lambda: not shop.place.leftovers())


def test_a_fleet_runs_all_items_and_a_retry_only_those_that_failed(shop: Shop) -> None:
    code = """
        import os

        def work(item, params):
            if item["n"] == 2 and params["strict"]:
                raise ConnectionError("number two is not there yet")
            return {"square": item["n"] ** 2}
        """
    items = [{"n": n} for n in range(5)]
    strict = shop.fleet(code, items, hyperparameters={"strict": True}, tries=1)
    with pytest.raises(MLError, match="number two is not there yet") as failed:
        run(strict)
    assert "1" in str(failed.value)
    lax = shop.fleet(code, items, hyperparameters={"strict": False}, items_per_index=2)
    output = run(lax, 2)
    assert output["metrics"]["items_done"] == 5
    shop.place.until(lambda: not shop.place.leftovers())


def test_a_fleet_whose_place_is_taken_away_goes_on(shop: Shop) -> None:
    code = """
        import time

        def work(item):
            time.sleep(1.5)
            return {"n": item["n"]}
        """
    task = shop.fleet(code, [{"n": n} for n in range(6)], items_per_index=2)
    output = run_interrupted(shop.place, task)
    assert output["metrics"]["items_done"] == 6


def run_interrupted(place: Place, task: Any) -> dict[str, Any]:
    """Run a task whose place is taken away once: in one try where that costs none, else in two."""
    interrupter = threading.Thread(target=interrupt_once, args=(place,))
    interrupter.start()
    try:
        return run(task)
    except InfrastructureError:
        return run(task, 2)
    finally:
        interrupter.join()


def interrupt_once(place: Place) -> None:
    place.until(place.running)
    time.sleep(2.5)
    place.interrupt()
