"""The point-in-time join against a reference in plain Python that says what it means."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.steps.laid_files import scan
from airflow_ml_provider.steps.out_of_core import connect
from airflow_ml_provider.steps.point_in_time import Facts, check_order, join

START = datetime(2013, 6, 1)
HOUR = timedelta(hours=1)


class Row(NamedTuple):
    entity: str | None
    time: int


class Fact(NamedTuple):
    entity: str | None
    event: int | None
    known: int | None
    value: int | None


class Used(NamedTuple):
    """The fact a row uses: its times, and the values it may have (several if facts contradict each other)."""

    event: int | None
    known: int | None
    values: set[int | None]


def reference(row: Row, facts: Sequence[Fact], max_age: int | None) -> Used:
    usable = [
        fact
        for fact in facts
        if fact.entity == row.entity is not None
        and fact.event is not None
        and fact.known is not None
        and fact.event <= row.time
        and fact.known <= row.time
        and (max_age is None or fact.event >= row.time - max_age)
    ]
    if not usable:
        return Used(None, None, {None})
    event, known = max((fact.event, fact.known) for fact in usable)
    values = {fact.value for fact in usable if (fact.event, fact.known) == (event, known)}
    return Used(event, known, values)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(tmp_path_factory.mktemp("duckdb")) as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("join")


def moments(hours: Sequence[int | None]) -> pl.Series:
    times = [None if hour is None else START + hour * HOUR for hour in hours]
    return pl.Series(times, dtype=pl.Datetime("us"))


def write_rows(rows: Sequence[Row], path: Path) -> Path:
    pl.DataFrame(
        {
            "key": range(len(rows)),
            "entity": pl.Series([row.entity for row in rows], dtype=pl.String),
            "t": moments([row.time for row in rows]),
        }
    ).write_parquet(path)
    return path


def write_facts(facts: Sequence[Fact], path: Path, max_age: int | None = None) -> Facts:
    pl.DataFrame(
        {
            "b0": pl.Series([fact.entity for fact in facts], dtype=pl.String),
            "event": moments([fact.event for fact in facts]),
            "known": moments([fact.known for fact in facts]),
            "f0": pl.Series([fact.value for fact in facts], dtype=pl.Int64),
        }
    ).write_parquet(path)
    return Facts(path, ("entity",), 1, None if max_age is None else max_age * 3600)


def joined(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    rows: Sequence[Row],
    views: Sequence[Facts],
    **sizes: int,
) -> pl.DataFrame:
    path = write_rows(rows, folder / "rows.parquet")
    files = join(connection, path, "t", views, folder, **sizes)
    return pl.concat([scan(file) for file in (path, *files)], how="horizontal").collect()


ENTITIES = st.sampled_from(["ann", "bob", None])
HOURS = st.integers(0, 8)
ROWS = st.lists(st.builds(Row, ENTITIES, HOURS), min_size=1, max_size=8)
FACTS = st.lists(
    st.builds(Fact, ENTITIES, st.none() | HOURS, st.none() | HOURS, st.none() | st.integers(0, 99)),
    max_size=25,
)
MAX_AGE = st.none() | st.integers(0, 4)
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_as_reference(
    found: pl.DataFrame, view: int, rows: Sequence[Row], facts: Sequence[Fact], max_age: int | None
) -> None:
    assert found["key"].to_list() == list(range(len(rows)))
    wanted = [reference(row, facts, max_age) for row in rows]
    assert found[f"e{view}"].to_list() == moments([used.event for used in wanted]).to_list()
    assert found[f"k{view}"].to_list() == moments([used.known for used in wanted]).to_list()
    for value, used in zip(found[f"v{view}_0"], wanted, strict=True):
        assert value in used.values


@MANY
@given(rows=ROWS, facts=FACTS, others=FACTS, max_age=MAX_AGE)
def test_each_row_gets_the_newest_fact_that_had_happened_and_was_known(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    rows: list[Row],
    facts: list[Fact],
    others: list[Fact],
    max_age: int | None,
) -> None:
    views = [
        write_facts(facts, folder / "facts.parquet", max_age),
        write_facts(others, folder / "others.parquet"),
    ]
    found = joined(connection, folder, rows, views)
    assert_as_reference(found, 0, rows, facts, max_age)
    assert_as_reference(found, 1, rows, others, None)


@MANY
@given(rows=ROWS, facts=FACTS, seed=st.integers(0, 9))
def test_the_order_of_the_facts_changes_nothing_even_where_they_contradict_each_other(
    connection: duckdb.DuckDBPyConnection, folder: Path, rows: list[Row], facts: list[Fact], seed: int
) -> None:
    shuffled = random.Random(seed).sample(facts, len(facts))
    one = joined(connection, folder, rows, [write_facts(facts, folder / "facts.parquet")])
    other = joined(connection, folder, rows, [write_facts(shuffled, folder / "facts.parquet")])
    assert one.equals(other)


def test_many_rows_and_facts_come_out_as_the_reference_says_for_any_chunks_and_buckets(
    connection: duckdb.DuckDBPyConnection, folder: Path
) -> None:
    draw = random.Random(7)
    names = [*"abcdefghij", None]
    rows = [Row(draw.choice(names), draw.randrange(500)) for _ in range(3_000)]
    facts = [
        Fact(draw.choice(names), event := draw.randrange(500), event + draw.randrange(-20, 60), number)
        for number in range(3_000)
    ]
    view = write_facts(facts, folder / "facts.parquet", max_age=30)
    found = joined(connection, folder, rows, [view])
    assert found["e0"].null_count() < len(rows) / 2
    by_entity = {name: [fact for fact in facts if fact.entity == name] for name in names}
    for row, event, known, value in zip(rows, found["e0"], found["k0"], found["v0_0"], strict=True):
        used = reference(row, by_entity[row.entity], 30)
        assert value in used.values
        assert (event, known) == tuple(moments([used.event, used.known]))
    connection.execute("SET threads = 1")
    for sizes in ({"chunk_rows": 70}, {"bucket_bytes": 40_000}, {"bucket_bytes": 9_000, "chunk_rows": 700}):
        assert joined(connection, folder, rows, [view], **sizes).equals(found), sizes


@pytest.mark.parametrize("numbers", [[0, 2, 1], [0, 1], [0, 1, 2, 3]])
def test_a_file_that_does_not_stand_beside_its_rows_is_never_used(folder: Path, numbers: list[int]) -> None:
    path = folder / "view-0.parquet"
    pl.DataFrame({"n0": numbers}).write_parquet(path)
    with pytest.raises(
        InfrastructureError, match=r"view-0\.parquet does not have one line for each of 3 rows"
    ):
        check_order(path, "n0", 3)


def test_a_late_fact_about_an_older_event_does_not_replace_a_newer_one(
    connection: duckdb.DuckDBPyConnection, folder: Path
) -> None:
    facts = [Fact("ann", event=5, known=5, value=1), Fact("ann", event=3, known=7, value=2)]
    found = joined(connection, folder, [Row("ann", 8)], [write_facts(facts, folder / "facts.parquet")])
    assert found["v0_0"].to_list() == [1]


def test_a_correction_replaces_what_it_corrects_from_when_it_is_known(
    connection: duckdb.DuckDBPyConnection, folder: Path
) -> None:
    facts = [Fact("ann", event=3, known=4, value=1), Fact("ann", event=3, known=6, value=2)]
    rows = [Row("ann", 3), Row("ann", 5), Row("ann", 6)]
    found = joined(connection, folder, rows, [write_facts(facts, folder / "facts.parquet")])
    assert found["v0_0"].to_list() == [None, 1, 2]


def test_a_forecast_known_before_its_event_is_used_from_the_event_on(
    connection: duckdb.DuckDBPyConnection, folder: Path
) -> None:
    facts = [Fact("ann", event=6, known=2, value=1)]
    rows = [Row("ann", 5), Row("ann", 6)]
    found = joined(connection, folder, rows, [write_facts(facts, folder / "facts.parquet")])
    assert found["v0_0"].to_list() == [None, 1]


def test_the_rows_joined_are_counted_as_they_are_done(
    connection: duckdb.DuckDBPyConnection, folder: Path
) -> None:
    told: list[int] = []
    path = write_rows([Row("ann", hour) for hour in range(5)], folder / "rows.parquet")
    views = [write_facts([Fact("ann", 1, 1, 1)], folder / "facts.parquet")] * 2
    join(connection, path, "t", views, folder, chunk_rows=2, advance=told.append)
    assert told == [2, 2, 1] * 2
