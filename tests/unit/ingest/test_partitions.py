"""What is published, what is left alone, and what is not done twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from raw_orders import HEADER, Ingest, Rows, write_packed

TRANSFORM = """
    import polars as pl

    def by_day(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders.filter(pl.col("note") != "drop", pl.col("note").is_not_null()).with_columns(
            ds=pl.col("day").replace({"d9": None})
        )

    def selecting(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders.select("id", ds="day").sort("id")

    def losing(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders.filter(pl.col("id") > 1).select("id", ds="day")

    def raising(orders: pl.LazyFrame) -> pl.LazyFrame:
        factor = {}["no such key"]
        return orders.with_columns(ds=pl.col("day") * factor)

    def raising_late(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders.with_columns(ds=pl.col("no_such_column"))

    def in_pandas(orders: "pd.DataFrame"):
        return orders.assign(ds=orders["day"])

    def no_frame(orders: pl.LazyFrame) -> int:
        return 3

    def unannotated(orders):
        return orders
"""


@pytest.fixture
def code(user_code: Callable[..., str]) -> None:
    user_code(shaping=TRANSFORM)


DS = {"name": "orders", "partition_by": "ds"}


def test_only_the_partitions_asked_for_are_replaced(ingest: Ingest, landing: Path, rows: Rows) -> None:
    source = landing / "a.csv"
    source.write_text(HEADER + "d1,1,1,\nd2,2,1,\nd3,3,1,\n")
    ingest(partitions="d1,d2,d3")
    source.write_text(HEADER + "d1,10,1,\nd2,20,1,\nd2,21,1,\nd3,30,1,\n")
    result = ingest(partitions="d2")
    assert rows()["id"].to_list() == [1, 20, 21, 3]
    assert result.table is not None
    assert (result.table.partitions, result.table.rows, result.table.changed) == ("d2", 2, True)
    assert result.summary["rows of other partitions"] == 2


def test_the_same_bytes_twice_are_a_no_op(ingest: Ingest, landing: Path, store: str) -> None:
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\nd1,x,1,\n")
    first = ingest(partitions="d1", max_bad_rows=1, step_key="one")
    os.utime(landing / "a.csv", (1, 1))
    again = ingest(partitions="d1", max_bad_rows=1, step_key="another")
    assert first.table is not None
    assert again.table is not None
    assert again.summary["already ingested"] == f"orders@{first.table.version}"
    assert (again.table.version, again.table.rows, again.table.changed) == (first.table.version, 1, False)
    assert again.summary["rejected"] == 1
    assert again.tables["quarantine"].rows == 1


@pytest.mark.parametrize(
    "change",
    [
        {"delimiter": ";"},
        {"schema": {"columns": [{"name": "day"}, {"name": "id", "type": "int64"}]}},
        {"transform": "shaping:selecting", "publish": DS},
        {"code_digest": "other", "transform": "shaping:in_pandas"},
    ],
)
def test_whatever_the_rows_depend_on_makes_it_new(
    ingest: Ingest, landing: Path, code: None, change: dict[str, object]
) -> None:
    usual: dict[str, object] = {"delimiter": ",", "transform": None, "code_digest": "one"}
    if "code_digest" in change:
        usual["transform"] = change["transform"]
    write_packed(landing / "a.csv", "day;id,day,id,amount,note\nd1;1,d1,1,1,\n")
    assert ingest(**usual).status == "success"
    assert "already ingested" in ingest(**usual).summary
    changed = {**usual, **change}
    changed["publish"] = change.get("publish", {"name": "orders", "partition_by": "day"})
    assert "already ingested" not in ingest(**changed).summary


def test_a_table_published_whole_meanwhile_is_not_taken_for_the_same(
    ingest: Ingest, landing: Path, rows: Rows
) -> None:
    source = landing / "a.csv"
    source.write_text(HEADER + "d1,1,1,\nd2,2,1,\n")
    ingest(partitions="d1")
    source.write_text(HEADER + "d1,7,1,\nd2,8,1,\n")
    ingest()
    source.write_text(HEADER + "d1,1,1,\nd2,2,1,\n")
    assert "already ingested" not in ingest(partitions="d1").summary
    assert rows()["id"].to_list() == [1, 8]


@pytest.mark.parametrize("source", ["", "nothing/here", "*.csv", "**/2013-*/x.csv.gz"])
def test_no_file_yet_skips_with_a_reason(ingest: Ingest, landing: Path, source: str) -> None:
    write_packed(landing / "notes.md", "")
    result = ingest(f"{landing}/{source}", partitions="2013-06-01")
    assert result.status == "skipped"
    assert f"there is no file at {landing}/{source}" in result.reason
    assert "for partitions 2013-06-01" in result.reason


def test_no_row_for_the_partitions_skips_and_changes_nothing(
    ingest: Ingest, landing: Path, rows: Rows
) -> None:
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\nd2,x,1,\n")
    result = ingest(partitions="d3", max_bad_rows=0)
    assert result.status == "skipped"
    assert result.reason == f"of the 2 rows of {landing}, none is in day = d3"
    write_packed(landing / "a.csv", HEADER)
    assert ingest().reason == f"of the 0 rows of {landing}, none is left"


def test_a_table_without_partitions_is_replaced_whole(ingest: Ingest, landing: Path, rows: Rows) -> None:
    whole = {"name": "orders", "partition_by": None}
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\nd2,2,1,\n")
    result = ingest(publish=whole)
    assert result.summary["partitions"] == "all"
    write_packed(landing / "a.csv", HEADER + "d3,3,1,\n")
    ingest(publish=whole)
    assert rows()["id"].to_list() == [3]
    failure = ingest(publish=whole, partitions="d3").failure
    assert failure is not None
    assert failure.kind == "config"
    assert "'orders': it is not partitioned" in failure.message


def test_a_transform_may_add_filter_and_send_rows_nowhere(
    ingest: Ingest, landing: Path, code: None, rows: Rows
) -> None:
    lines = ["d1,1,1,keep", "d1,2,1,drop", "d9,3,1,lost", "d2,4,1,keep", "d9,x,1,bad", "d1,y,1,bad"]
    write_packed(landing / "a.csv", HEADER + "\n".join(lines))
    result = ingest(transform="shaping:by_day", publish=DS, partitions="d1", max_bad_rows=9)
    assert result.status == "success", result.failure
    assert rows().rows() == [("d1", 1, 1.0, "keep", "d1")]
    assert rows("orders_quarantine", "line").select("partition", "line", "reason", "raw").rows() == [
        ("d1", 4, "ds is missing: the row belongs to no partition", "d9,3,1,lost"),
        ("d1", 6, "id: 'x' is not an int64", "d9,x,1,bad"),
        ("d1", 7, "id: 'y' is not an int64", "d1,y,1,bad"),
    ]


def test_a_transform_may_select_columns_and_take_other_frames(
    ingest: Ingest, landing: Path, code: None, rows: Rows
) -> None:
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\nd1,2,1,\nd1,2,1,\n")
    schema = {"columns": [{"name": "id", "type": "int64"}, {"name": "day"}], "key": ["id"]}
    for transform in ("selecting", "in_pandas"):
        result = ingest(
            transform=f"shaping:{transform}", publish=DS, schema=schema, partitions="d1", max_bad_rows=1
        )
        assert result.status == "success", result.failure
        assert rows().select("id", "ds").rows() == [(1, "d1"), (2, "d1")]
        assert rows("orders_quarantine").select("line", "raw").rows() == [(4, "d1,2,1,")]


def test_a_transform_that_loses_track_of_rows_is_told_how_to_keep_it(
    ingest: Ingest, landing: Path, code: None
) -> None:
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\nd1,2,1,\n")
    failure = ingest(transform="shaping:losing", publish=DS).failure
    assert failure is not None
    assert "shaping:losing gave 1 rows for 2 and left out the column '_source_row'" in failure.message
    assert "use with_columns and filter" in failure.message


@pytest.mark.parametrize(
    ("transform", "error"),
    [("raising", "KeyError: 'no such key'"), ("raising_late", "ColumnNotFoundError: ")],
)
def test_a_transform_that_raises_shows_its_own_traceback(
    ingest: Ingest, landing: Path, code: None, transform: str, error: str
) -> None:
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\n")
    failure = ingest(transform=f"shaping:{transform}", publish=DS).failure
    assert failure is not None
    assert (failure.kind, failure.error) == ("user", "UserFunctionError")
    assert f"shaping:{transform} raised {error.partition(':')[0]}" in failure.message
    assert error in failure.traceback
    assert "airflow_ml_provider" not in failure.traceback


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ("shaping:no_frame", "shaping:no_frame gave int, not a frame"),
        ("shaping:unannotated", "parameter 'orders' is a table and has no annotation"),
        ("shaping:by_dya", "did you mean 'by_day'"),
        ("shapping:by_day", "there is no module 'shapping'"),
        (None, "have no partition column 'ds'; they have day, id, amount, note"),
    ],
)
def test_a_transform_that_cannot_be_used_says_why(
    ingest: Ingest, landing: Path, code: None, transform: str | None, message: str
) -> None:
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\n")
    failure = ingest(transform=transform, publish=DS).failure
    assert failure is not None
    assert message in failure.message


def test_a_schema_may_be_named_and_must_be_one(
    ingest: Ingest, landing: Path, rows: Rows, user_code: Callable[..., str]
) -> None:
    user_code(
        shapes="""
        from airflow_ml_provider import Column, Schema

        ORDERS = Schema(columns=(Column("day"), Column("id", "int64")), key=("id",))
        ORDER = {"day": "string"}
        """
    )
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\n")
    assert ingest(schema="shapes:ORDERS").status == "success"
    assert rows().columns == ["day", "id"]
    failure = ingest(schema="shapes:ORDER").failure
    assert failure is not None
    assert "shapes:ORDER is dict, not a Schema" in failure.message


def test_a_column_that_changed_its_type_does_not_fit_the_table(ingest: Ingest, landing: Path) -> None:
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\nd2,1,1,\n")
    ingest(partitions="d1")
    schema = {"columns": [{"name": "day"}, {"name": "id", "type": "string"}, {"name": "amount"}]}
    failure = ingest(schema=schema, partitions="d2").failure
    assert failure is not None
    assert "column 'id' is string in the rows and long in the table" in failure.message


def test_a_store_that_may_not_be_written_says_so(
    run_step: Callable[..., object], landing: Path, tmp_path: Path
) -> None:
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\n")
    (tmp_path / "file").write_text("in the way")
    arguments = {
        "source": str(landing),
        "schema": {"columns": [{"name": "day"}]},
        "publish": {"name": "orders", "partition_by": "day"},
    }
    result = run_step("ingest", arguments, store_uri=(tmp_path / "file" / "store").as_uri())
    failure = result.failure  # type: ignore[attr-defined]
    assert failure.kind == "config"
    assert "the store refuses to" in failure.message
    assert "Not a directory" in failure.message
    assert "next: give the identity this step runs as read and write access to the store" in failure.message
