"""Publishing partitions: whole or not at all, once however often it is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from airflow_ml_provider.contract.documents import Publication, StepSpec
from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import tables
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.pinned_tables import open_table

FLIGHTS = Table("flights")


@pytest.fixture
def step(store: str, tmp_path: Path) -> StepContext:
    spec = StepSpec("ingest", store, {}, step_key="a-step", fingerprint="f" * 64)
    return StepContext(spec, tmp_path)


@pytest.fixture
def publish(step: StepContext) -> Callable[..., Publication]:
    def run(
        rows: dict[str, list[object]], partitions: str, content: str, table: Table = FLIGHTS
    ) -> Publication:
        batches = tables.batches_of(pl.LazyFrame(rows), rows=2)
        which = parse_partitions(partitions) if partitions else None
        return tables.publish(step, table, batches, partitions=which, content=content)

    return run


def rows(step: StepContext, version: int | None = None, table: str = "flights") -> dict[str, list[object]]:
    pinned = open_table(step.store, Table(table, version=version))
    return pinned.lazy().sort(pl.all()).collect().to_dict(as_series=False)


def test_a_publication_replaces_exactly_its_partitions(
    step: StepContext, publish: Callable[..., Publication]
) -> None:
    publish({"x": [1, 2, 3], "ds": ["d1", "d2", "d2"]}, "d1,d2", "a")
    done = publish({"x": [4], "ds": ["d2"]}, "d2", "b")
    assert (done.version, done.rows, done.partitions, done.changed) == (2, 1, "d2", True)
    assert rows(step) == {"x": [1, 4], "ds": ["d1", "d2"]}
    assert rows(step, 1) == {"x": [1, 2, 3], "ds": ["d1", "d2", "d2"]}


def test_the_same_content_is_published_once(step: StepContext, publish: Callable[..., Publication]) -> None:
    first = publish({"x": [1], "ds": ["d1"]}, "d1", "a")
    again = publish({"x": [99], "ds": ["d1"]}, "d1", "a")
    assert first.changed
    assert not again.changed
    assert (again.version, again.rows) == (1, 1)
    assert rows(step)["x"] == [1]


def test_earlier_content_after_other_content_is_a_change(
    step: StepContext, publish: Callable[..., Publication]
) -> None:
    for content, value in (("a", 1), ("b", 2), ("a", 1)):
        assert publish({"x": [value], "ds": ["d1"]}, "d1", content).changed
    assert rows(step)["x"] == [1]


def test_part_of_a_range_published_anew_makes_the_range_new(
    step: StepContext, publish: Callable[..., Publication]
) -> None:
    publish({"x": [1, 2], "ds": ["d1", "d2"]}, "d1,d2", "a")
    assert not publish({"x": [1], "ds": ["d1"]}, "d1", "a").changed
    publish({"x": [3], "ds": ["d1"]}, "d1", "b")
    assert publish({"x": [1, 2], "ds": ["d1", "d2"]}, "d1,d2", "a").changed
    assert rows(step)["x"] == [1, 2]


def test_a_failure_while_rows_are_read_leaves_the_table_as_it_was(
    step: StepContext, publish: Callable[..., Publication]
) -> None:
    publish({"x": [1], "ds": ["d1"]}, "d1", "a")
    schema = pa.schema([("x", pa.int64()), ("ds", pa.string())])

    def broken() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch([[2], ["d1"]], schema=schema)
        raise DataError("line 7 is bad")

    reader = pa.RecordBatchReader.from_batches(schema, broken())
    with pytest.raises(DataError, match="line 7 is bad"):
        tables.publish(step, FLIGHTS, reader, partitions=parse_partitions("d1"), content="b")
    assert rows(step)["x"] == [1]
    assert step.store.latest_version("flights") == 1


def test_a_row_in_a_foreign_partition_is_refused(
    step: StepContext, publish: Callable[..., Publication]
) -> None:
    with pytest.raises(DataError, match="partitions that were not asked for: ds = d2"):
        publish({"x": [1, 2], "ds": ["d1", "d2"]}, "d1", "a")
    with pytest.raises(DataError, match="there is no table 'flights'"):
        rows(step)


def test_rows_without_the_partition_column_are_refused(publish: Callable[..., Publication]) -> None:
    with pytest.raises(DataError, match="have no partition column 'ds'; they have x"):
        publish({"x": [1]}, "d1", "a")


def test_a_table_without_partitions_is_replaced_whole(
    step: StepContext, publish: Callable[..., Publication]
) -> None:
    planes = Table("planes", partition_by=None)
    publish({"x": [1, 2]}, "", "a", planes)
    publish({"x": [3]}, "", "b", planes)
    assert rows(step, table="planes") == {"x": [3]}
    with pytest.raises(ConfigError, match="it has no partition column"):
        publish({"x": [3]}, "d1", "c", planes)


def test_only_the_files_of_a_partition_are_read(
    step: StepContext, publish: Callable[..., Publication]
) -> None:
    publish({"x": [1, 2, 3], "ds": ["2013-01-01", "2013-01-02", "2013-01-03"]}, "2013-01-01..2013-01-03", "a")
    pinned = open_table(step.store, FLIGHTS)
    assert len(pinned.files(parse_partitions("2013-01-02"))) == 1
    assert len(pinned.files(parse_partitions("2013-01-02..2013-01-03"))) == 2
    assert pinned.lazy(parse_partitions("2013-01-02..2013-01-03")).collect().height == 2
    assert pinned.lazy(parse_partitions("2013-01-01,2013-01-03")).collect().height == 2


def test_a_version_that_is_not_there_is_named(step: StepContext, publish: Callable[..., Publication]) -> None:
    publish({"x": [1], "ds": ["d1"]}, "d1", "a")
    with pytest.raises(DataError, match="'flights' has no readable version 7"):
        open_table(step.store, FLIGHTS.at(7))


def test_a_column_of_another_type_is_refused_and_nothing_is_lost(
    step: StepContext, publish: Callable[..., Publication]
) -> None:
    publish({"x": [1, 5], "ds": ["d1", "d2"]}, "d1,d2", "a")
    with pytest.raises(DataError, match="the rows do not fit table 'flights'") as caught:
        publish({"x": [["no", "number"]], "ds": ["d1"]}, "d1", "b")
    assert "the table is as it was" in str(caught.value)
    assert rows(step)["x"] == [1, 5]
