"""Eight processes publish at once: none loses a row or doubles one, and each knows its own version."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Barrier
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from airflow_ml_provider.contract.documents import StepSpec
from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import delta, tables
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.pinned_tables import open_table

WRITERS = 8
ROWS = 1_000
TABLE = Table("readings")
together: Barrier


def set_up(barrier: Barrier) -> None:
    global together
    together = barrier


def publish(task: tuple[str, int, str]) -> tuple[str, int]:
    """Publish rows that hold the writer's number; gives "ok" or the error's kind, and the version."""
    store, writer, day = task
    step = StepContext(StepSpec("ingest", store, {}, step_key=f"writer-{writer}"), Path())
    rows = pa.table({"writer": [writer] * ROWS, "ds": [day] * ROWS})
    reader = pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches())
    together.wait(60)
    try:
        done = tables.publish(
            step, TABLE, reader, partitions=parse_partitions(day), content=f"{writer} {day} {store}"
        )
    except MLError as error:
        return error.kind, -1
    return "ok", done.version


@pytest.fixture(scope="module")
def writers() -> Iterator[Pool]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(WRITERS, set_up, (context.Barrier(WRITERS),)) as pool:
        yield pool


def rows_of(store: str, version: int | None = None) -> pl.DataFrame:
    pinned = open_table(Store(store), TABLE.at(version))
    return pinned.lazy().group_by("ds", "writer").len().collect().sort("ds")


def test_writers_that_create_the_table_together_all_get_through(writers: Pool, store: str) -> None:
    tasks = [(store, writer, f"2013-06-0{writer + 1}") for writer in range(WRITERS)]
    first = writers.map(publish, tasks, chunksize=1)
    assert [outcome for outcome, _ in first] == ["ok"] * WRITERS
    assert sorted(version for _, version in first) == list(range(1, WRITERS + 1))
    expected = [(day, writer, ROWS) for _, writer, day in tasks]
    assert rows_of(store).rows() == expected
    # Each names the version in which its own rows appeared.
    for (_, writer, day), (_, version) in zip(tasks, first, strict=True):
        assert (day, writer, ROWS) in rows_of(store, version).rows()
        assert (day, writer, ROWS) not in rows_of(store, version - 1).rows()


def test_replacing_different_partitions_at_once_is_no_conflict(writers: Pool, store: str) -> None:
    days = [f"2013-06-0{writer + 1}" for writer in range(WRITERS)]
    writers.map(publish, [(store, writer, days[writer]) for writer in range(WRITERS)], chunksize=1)
    again = writers.map(
        publish, [(store, writer, days[-1 - writer]) for writer in range(WRITERS)], chunksize=1
    )
    assert [outcome for outcome, _ in again] == ["ok"] * WRITERS
    assert rows_of(store).rows() == [(days[n], WRITERS - 1 - n, ROWS) for n in range(WRITERS)]


def test_of_writers_of_one_partition_the_rows_of_exactly_one_remain(writers: Pool, store: str) -> None:
    outcomes = writers.map(publish, [(store, writer, "2013-06-01") for writer in range(WRITERS)], chunksize=1)
    kinds = {kind for kind, _ in outcomes}
    assert kinds <= {"ok", "transient"}
    last = max(range(WRITERS), key=lambda writer: outcomes[writer][1])
    assert outcomes[last][0] == "ok"
    assert rows_of(store).rows() == [("2013-06-01", last, ROWS)]


def test_a_commit_is_found_by_what_it_says_and_not_by_its_place(store: str, tmp_path: Path) -> None:
    step = StepContext(StepSpec("ingest", store, {}, step_key="one"), tmp_path)
    for content, day in (("a", "d1"), ("b", "d2"), ("c", "d1")):
        batches = tables.batches_of(pl.LazyFrame({"writer": [1], "ds": [day]}))
        tables.publish(step, TABLE, batches, partitions=parse_partitions(day), content=content)
    assert [delta.version_of(step, TABLE, content) for content in "abc"] == [1, 2, 3]
    assert delta.commit_info(step.store, "readings", 2)["partitions"] == "d2"
    assert delta.commit_info(step.store, "readings", 9) == {}
