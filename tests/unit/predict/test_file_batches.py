"""Rows of a table, batch by batch: the same rows as Polars reads, in batches of one size."""

from __future__ import annotations

import base64
import json
import string
import struct
import threading
import urllib.request
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Schema, write_deltalake
from deltalake.transaction import AddAction
from polars.testing import assert_frame_equal
from servers import s3_server

from airflow_ml_provider.contract.documents import StepSpec
from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.partitions import Partitions, parse_partitions
from airflow_ml_provider.contract.store import local_path
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import delta, file_batches
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.pinned_tables import PinnedTable, open_table

GROUP_ROWS = 100
UTC_TIME = pl.Datetime("us", "UTC")
COLUMNS = ["x", "id", "ds", "seen", "word"]


def rows_of(first: int, last: int) -> pl.DataFrame:
    own = pl.int_range(first, last, eager=True)
    return pl.DataFrame(
        {
            "id": own,
            "x": pl.Series(own / 7).set(own % 11 == 0, None),
            "word": pl.Series([f"word {number % 13}" if number % 5 else None for number in own], dtype=pl.String),
            "seen": pl.Series([datetime(2013, 1, 1, number % 24, tzinfo=UTC) for number in own]).cast(UTC_TIME),
            "unused": own % 3 == 0,
        }
    )  # fmt: skip


@pytest.fixture
def step(tmp_path: Path) -> StepContext:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    store = (tmp_path / "store").as_uri()
    return StepContext(StepSpec(verb="predict", store=store, arguments={}, step_key="k"), scratch)


def table_of(step: StepContext, files: Sequence[tuple[str, int, int]]) -> PinnedTable:
    """A table of files of some days, each of the rows of some numbers, in small row groups."""
    folder = local_path(step.store.table_uri("t"))
    added = []
    for number, (day, first, last) in enumerate(files):
        path = folder / f"ds={day}" / f"part-{number:03}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows_of(first, last).to_arrow(compat_level=pl.CompatLevel.oldest()), path,
                       row_group_size=GROUP_ROWS)  # fmt: skip
        stats = json.dumps({"numRecords": last - first})
        added.append(AddAction(f"ds={day}/{path.name}", path.stat().st_size, {"ds": day}, 0, True, stats))
    fields = [("id", pa.int64()), ("x", pa.float64()), ("word", pa.string()), ("unused", pa.bool_()),
              ("seen", pa.timestamp("us", "UTC")), ("ds", pa.string())]  # fmt: skip
    schema = Schema.from_arrow(pa.schema(fields))
    table = DeltaTable.create(str(folder), schema, partition_by=["ds"])
    table.create_write_transaction(added, "append", schema, ["ds"], commit_properties=CommitProperties())
    return open_table(step.store, Table("t"))


FILES = [("b", 0, 250), ("a", 250, 251), ("a", 251, 600), ("b", 600, 700), ("c", 700, 1003)]


def read(
    step: StepContext, table: PinnedTable, rows: int, partitions: Partitions | None = None
) -> list[pl.DataFrame]:
    return list(file_batches.batches(step, table, partitions, COLUMNS, rows))


@pytest.mark.parametrize("rows", [1, 7, 99, 100, 101, 250, 349, 1002, 1003, 1004, 5000])
def test_batches_around_row_groups_and_files_are_the_tables_rows_in_its_files_order(
    step: StepContext, rows: int
) -> None:
    found = read(step, table_of(step, FILES), rows)
    assert {frame.height for frame in found[:-1]} <= {rows}
    expected = pl.concat(
        rows_of(first, last).with_columns(ds=pl.lit(day))
        for day, first, last in sorted(FILES, key=lambda one: one[0])
    )
    assert_frame_equal(pl.concat(found), expected.select(COLUMNS))


def test_only_the_files_of_the_partitions_and_of_a_shard_are_read(step: StepContext) -> None:
    table = table_of(step, FILES)
    days = pl.concat(read(step, table, 100, parse_partitions("a,c")))
    assert sorted(days["id"]) == [*range(250, 600), *range(700, 1003)]
    shard = PinnedTable(table.table, table.uri, table.delta, only=("ds=b/part-003.parquet",))
    assert pl.concat(read(step, shard, 64))["id"].to_list() == list(range(600, 700))


def test_rows_of_a_file_that_is_older_than_a_column_have_none(step: StepContext) -> None:
    table_of(step, FILES[:1])
    folder = local_path(step.store.table_uri("t"))
    newer = rows_of(250, 300).with_columns(ds=pl.lit("z"), size=pl.lit(1.5))
    write_deltalake(folder, newer, mode="append", schema_mode="merge")
    table = open_table(step.store, Table("t"))
    found = pl.concat(file_batches.batches(step, table, None, ["id", "size"], 60))
    assert found["size"].to_list() == [None] * 250 + [1.5] * 50
    # Also where a file has none of the columns.
    days = pl.concat(file_batches.batches(step, table, None, ["size", "ds"], 60))["ds"]
    assert days.value_counts(sort=True).rows() == [("b", 250), ("z", 50)]


def test_types_are_the_tables_whatever_the_files_and_the_partition_column_have(step: StepContext) -> None:
    folder = local_path(step.store.table_uri("t"))
    for day in (1, 2):
        frame = pl.DataFrame({"n": pl.Series([day, None], dtype=pl.Int32), "day": date(2013, 1, day)})
        write_deltalake(folder, frame, mode="append", partition_by=["day"])
    table = open_table(step.store, Table("t"))
    found = pl.concat(file_batches.batches(step, table, None, ["day", "n"], 3))
    assert_frame_equal(found, table.lazy().select("day", "n").collect(), check_row_order=False)


def deleted(row: int) -> dict[str, object]:
    """A deletion vector of one row, as Delta's protocol has it in the log: a roaring bitmap in Z85."""
    bitmap = struct.pack("<IIHHIH", 12346, 1, 0, 0, 16, row)
    content = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    z85 = f"{string.digits}{string.ascii_lowercase}{string.ascii_uppercase}.-:+=^!/*?&<>()[]{{}}@%$#"
    python = f"{string.digits}{string.ascii_uppercase}{string.ascii_lowercase}!#$%&()*+-;<=>?@^_`{{|}}~"
    text = base64.b85encode(content.ljust(-(-len(content) // 4) * 4, b"\0")).decode()
    text = text.translate(str.maketrans(python, z85))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(content), "cardinality": 1}


def test_rows_that_a_deletion_vector_hides_are_not_read_and_shards_refuse_them(step: StepContext) -> None:
    table = table_of(step, FILES[:1])
    assert file_batches.is_plain(table)
    log = local_path(table.uri) / "_delta_log"
    [added] = [
        json.loads(line)["add"]
        for line in (log / f"{table.version:020}.json").read_text().splitlines()
        if line.startswith('{"add"')
    ]
    features = ["deletionVectors"]
    actions = [
        {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7,
                      "readerFeatures": features, "writerFeatures": features}},
        {"remove": {"path": added["path"], "dataChange": True, "deletionTimestamp": 1,
                    "partitionValues": added["partitionValues"], "size": added["size"]}},
        {"add": {**added, "deletionVector": deleted(3)}},
    ]  # fmt: skip
    (log / f"{table.version + 1:020}.json").write_text(
        "".join(json.dumps(action) + "\n" for action in actions)
    )
    asked = open_table(step.store, Table("t"))
    assert not file_batches.is_plain(asked)
    assert sorted(pl.concat(read(step, asked, 100))["id"]) == [number for number in range(250) if number != 3]
    shard = PinnedTable(asked.table, asked.uri, asked.delta, only=tuple(asked.sizes()))
    with pytest.raises(ConfigError, match="has deletion vectors, which shards do not read"):
        read(step, shard, 100)


def test_a_file_that_was_swept_away_is_named(step: StepContext) -> None:
    table = table_of(step, FILES)
    (local_path(table.uri) / "ds=c/part-004.parquet").unlink()
    with pytest.raises(DataError, match=r"ds=c/part-004\.parquet"):
        read(step, table, 100)


def test_nothing_is_left_of_a_reading_that_is_given_up(step: StepContext) -> None:
    reading = file_batches.batches(step, table_of(step, FILES), None, COLUMNS, 50)
    assert next(reading).height == 50
    assert "ahead" in [thread.name for thread in threading.enumerate()]
    reading.close()  # type: ignore[attr-defined]
    assert "ahead" not in [thread.name for thread in threading.enumerate()]


def test_a_table_in_object_storage_is_read_over_local_disk_which_is_empty_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(tmp_path / "server.log") as address:
        for name, value in {
            "AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        urllib.request.urlopen(urllib.request.Request(f"{address}/rows", method="PUT")).close()
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        step = StepContext(StepSpec(verb="predict", store="s3://rows", arguments={}, step_key="k"), scratch)
        uri = step.store.table_uri("t")
        for day, first in (("b c", 0), ("a", 300)):
            frame = rows_of(first, first + 300).with_columns(ds=pl.lit(day))
            write_deltalake(
                uri, frame, partition_by=["ds"], mode="append", storage_options=delta.storage_options(uri)
            )
        reading = file_batches.batches(step, open_table(step.store, Table("t")), None, COLUMNS, 70)
        found = [next(reading)]
        assert len(list(scratch.iterdir())) == 1
        found += reading
        assert pl.concat(found)["id"].to_list() == [*range(300, 600), *range(300)]
        assert not list(scratch.iterdir())
