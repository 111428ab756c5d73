"""The files of a publication: every row once, whatever its partition is called and however many there are."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from airflow_ml_provider.contract.documents import Publication, StepSpec
from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.partitions import Partitions
from airflow_ml_provider.contract.store import local_path
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import table_files, tables
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.pinned_tables import open_table

ODD_VALUES = ("EWR x:1", "a+b", "2013-06-01", "x_y.z", "100%", "ü/é")
Publish = Callable[..., Publication]


@pytest.fixture
def step(store: str, tmp_path: Path) -> StepContext:
    return StepContext(StepSpec("ingest", store, {}, step_key="a-step"), tmp_path)


@pytest.fixture
def publish(step: StepContext) -> Publish:
    def run(frame: pl.DataFrame, values: Sequence[str] | None, by: str | None = "ds") -> Publication:
        partitions = None if values is None else Partitions(",".join(values), tuple(values))
        content = str(frame.to_dict(as_series=False)) + str(frame.schema)
        batches = tables.batches_of(frame.lazy())
        return tables.publish(step, Table("t", by), batches, partitions=partitions, content=content)

    return run


def rows(step: StepContext) -> pl.DataFrame:
    return open_table(step.store, Table("t")).lazy().collect().sort(pl.all())


def test_rows_of_many_partitions_become_few_files_each_within_a_bound_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "BUDGET_BYTES", 40_000)
    frames = [
        pl.DataFrame({"n": range(k, k + 1_000)}).with_columns(ds=pl.col("n") % 7)
        for k in range(0, 20_000, 1_000)
    ]
    batches = [batch for frame in frames for batch in frame.cast({"ds": pl.String}).to_arrow().to_batches()]
    kept: dict[str, bytes] = {}
    files = table_files.PartitionFiles(kept.__setitem__, "ds").write(
        pa.RecordBatchReader.from_batches(batches[0].schema, batches)
    )
    assert 7 < len(files) < 40
    found = []
    for file in files:
        values = pq.read_table(pa.BufferReader(kept[file.path])).column("n").to_pylist()
        assert json.loads(file.stats)["numRecords"] == len(values)
        assert file.size == len(kept[file.path])
        # A file holds rows of one partition, in their order.
        assert {value % 7 for value in values} == {int(str(file.partition_values["ds"]))}
        assert values == sorted(values)
        found += values
    assert sorted(found) == list(range(20_000))


def test_least_and_greatest_values_are_told_of_all_but_texts_in_no_order(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "number": [3, 1, None],
            "real": [0.5, -1.0, 2.0],
            "price": pl.Series(["1.50", "0.25", "3.00"]).cast(pl.Decimal(10, 2)),
            "at": [datetime.datetime(2013, 6, day, tzinfo=datetime.UTC) for day in (2, 1, 3)],
            "sorted": ["a", "b", "b"],
            "same": pl.Series(["x"] * 3, dtype=pl.Enum(["x", "y"])),
            "mixed": ["b", "a", "c"],
            "nested": [[1], [2], [3]],
        }
    ).to_arrow(compat_level=pl.CompatLevel.oldest())
    kept: dict[str, bytes] = {}
    [file] = table_files.PartitionFiles(kept.__setitem__, None).write(frame.to_reader())
    written = pq.ParquetFile(pa.BufferReader(kept[file.path])).metadata.row_group(0)
    told = {}
    for number in range(written.num_columns):
        column = written.column(number)
        told[column.path_in_schema] = column.is_stats_set and (column.statistics.min, column.statistics.max)
    assert told.pop("nested.list.element") is False
    assert told.pop("mixed") is False
    assert told["number"] == (1, 3)
    assert told["sorted"] == ("a", "b")
    assert all(told.values())


def test_partition_values_with_any_characters_are_replaced_one_by_one(
    step: StepContext, publish: Publish
) -> None:
    publish(pl.DataFrame({"n": range(6), "ds": ODD_VALUES}), ODD_VALUES)
    for value in ODD_VALUES:
        publish(pl.DataFrame({"n": [100], "ds": [value]}), [value])
    assert rows(step).rows() == [(100, value) for value in sorted(ODD_VALUES)]


def test_a_table_that_another_tool_wrote_is_replaced_by_partition_too(
    step: StepContext, publish: Publish
) -> None:
    uri = local_path(step.store.table_uri("t"))
    write_deltalake(str(uri), pa.table({"n": range(6), "ds": list(ODD_VALUES)}), partition_by=["ds"])
    publish(pl.DataFrame({"n": [100, 101], "ds": ODD_VALUES[:2]}), ODD_VALUES[:2])
    assert rows(step)["n"].to_list() == [2, 3, 4, 5, 100, 101]
    assert sorted(ODD_VALUES) == sorted(rows(step)["ds"])


def test_a_partition_may_be_published_without_rows(step: StepContext, publish: Publish) -> None:
    publish(pl.DataFrame({"n": [1, 2], "ds": ["d1", "d2"]}), ["d1", "d2"])
    done = publish(pl.DataFrame({"n": [], "ds": []}, schema={"n": pl.Int64, "ds": pl.String}), ["d1", "d3"])
    assert done.rows == 0
    assert rows(step).rows() == [(2, "d2")]


def test_rows_without_a_partition_value_survive_a_publication_of_the_whole(
    step: StepContext, publish: Publish
) -> None:
    publish(pl.DataFrame({"n": [1, 2], "ds": [None, "d2"]}), None)
    publish(pl.DataFrame({"n": [3], "ds": ["d2"]}), ["d2"])
    assert rows(step).rows() == [(1, None), (3, "d2")]


def test_a_new_column_is_added_and_one_left_out_is_null(step: StepContext, publish: Publish) -> None:
    publish(pl.DataFrame({"n": [1], "old": ["x"], "ds": ["d1"]}), ["d1"])
    moment = datetime.datetime(2013, 6, 1, 12)
    publish(pl.DataFrame({"n": [2], "new": [moment], "ds": ["d2"]}), ["d2"])
    assert rows(step).select("n", "old", "new").rows() == [(1, "x", None), (2, None, moment)]
    # Replaced whole, a table has the columns of its new rows only.
    publish(pl.DataFrame({"other": [1.5], "ds": ["d1"]}), None)
    assert rows(step).rows() == [(1.5, "d1")]


def test_a_publication_of_the_whole_may_bring_timestamps_of_another_kind(
    step: StepContext, publish: Publish
) -> None:
    moment = datetime.datetime(2013, 6, 1, 12)
    publish(pl.DataFrame({"at": [moment.replace(tzinfo=datetime.UTC)], "ds": ["d1"]}), None)
    publish(pl.DataFrame({"at": [moment], "ds": ["d1"]}), None)
    assert rows(step)["at"].to_list() == [moment]


def test_another_partition_column_than_the_tables_is_refused(publish: Publish) -> None:
    publish(pl.DataFrame({"n": [1], "ds": ["d1"]}), ["d1"])
    with pytest.raises(
        ConfigError, match="'t' is partitioned by ds, and was to be published partitioned by nothing"
    ):
        publish(pl.DataFrame({"n": [1]}), None, by=None)


def test_a_type_that_tables_cannot_hold_is_named(publish: Publish) -> None:
    frame = pl.DataFrame({"n": [1], "took": [datetime.timedelta(1)], "ds": ["d1"]})
    with pytest.raises(DataError, match=r"column 'took' is duration\[us\], which Delta tables cannot hold"):
        publish(frame, ["d1"])


def test_other_readers_understand_the_table(step: StepContext, publish: Publish) -> None:
    publish(pl.DataFrame({"n": range(6), "ds": ODD_VALUES}), ODD_VALUES)
    delta = DeltaTable(str(local_path(step.store.table_uri("t"))))
    assert delta.to_pyarrow_table().num_rows == delta.count() == 6
    some: Any = delta.to_pyarrow_table(partitions=[("ds", "=", "EWR x:1")])
    assert some.column("n").to_pylist() == [0]
    assert delta.vacuum(dry_run=True, retention_hours=0, enforce_retention_duration=False) == []


def test_columns_whose_first_values_repeat_are_written_with_a_dictionary() -> None:
    number = pl.Series("number", range(20_000))
    frame = number.to_frame().select(
        "number",
        at=pl.lit(datetime.datetime(2013, 6, 1)) + pl.duration(seconds="number"),
        few=pl.col("number") % 7,
        name=pl.col("number").cast(pl.String),
        kind=pl.lit("a kind"),
        x=pl.col("number") / 7,
        list=pl.concat_list("number", "number"),
    )
    kept: dict[str, bytes] = {}
    rows = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    table_files.PartitionFiles(kept.__setitem__, None).write(
        pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches())
    )
    (content,) = kept.values()
    assert pl.read_parquet(content).equals(frame)
    group = pq.ParquetFile(pa.BufferReader(content)).metadata.row_group(0)
    columns = [group.column(place) for place in range(group.num_columns)]
    ways = {column.path_in_schema.split(".")[0]: column.encodings for column in columns}
    assert {name for name in ways if "RLE_DICTIONARY" in ways[name]} == {"few", "kind"}
    # No encoding that a reader of Delta tables may not know.
    assert {way for encodings in ways.values() for way in encodings} == {"PLAIN", "RLE", "RLE_DICTIONARY"}
