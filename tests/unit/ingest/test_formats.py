"""What can be read: CSV, JSON lines and Parquet, packed or not, alone or many; and how text becomes typed."""

from __future__ import annotations

import datetime
import json
import zipfile
from pathlib import Path

import polars as pl
import pytest
from raw_orders import HEADER, Bad, Ingest, Rows, write_packed

from airflow_ml_provider.steps import reading

UTC = datetime.UTC


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zip"])
def test_csv_is_read_plain_gzipped_and_zipped(
    ingest: Ingest, landing: Path, rows: Rows, bad: Bad, name: str
) -> None:
    write_packed(landing / name, HEADER + "d1,1,1,\nd1,x,1,\nd1,2,2.5,ok\n")
    result = ingest(landing / name, max_bad_rows=1)
    assert result.status == "success", result.failure
    assert rows().rows() == [("d1", 1, 1.0, None), ("d1", 2, 2.5, "ok")]
    told = name + "/a.csv" if name.endswith(".zip") else name
    assert bad() == [(told, 3, "id: 'x' is not an int64")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson.gz", "a.jsonl.zip"])
def test_json_lines_are_read_and_their_bad_lines_told(
    ingest: Ingest, landing: Path, rows: Rows, bad: Bad, name: str
) -> None:
    lines = [
        '{"day": "d1", "id": 1, "amount": 1.5, "note": "é", "other": [1, 2]}',
        '{"day": "d1", "id": "2", "amount": 7}',
        "",
        '{"day": "d1", "id": 3.5}',
        '{"day": "d1", "id": 4',
        "[1, 2]",
        '{"id": 5, "day": "d1"}{"id": 6, "day": "d1"}',
        '{"day": null, "id": 7}',
        '{"day": "d1", "id": 8, "amount": NaN}',
        '{"day": "d1", "id": 9.0, "amount": null, "note": 12}',
    ]
    write_packed(landing / name, "\n".join(lines))
    assert ingest(max_bad_rows=10).status == "success"
    assert rows("orders", "id").rows() == [
        ("d1", 1, 1.5, "é"),
        ("d1", 2, 7.0, None),
        ("d1", 9, None, "12"),
    ]
    reasons = {line: reason for _, line, reason in bad()}
    assert sorted(reasons) == [4, 5, 6, 7, 8, 9]
    assert reasons[4] == "id: '3.5' is not an int64"
    assert reasons[5].startswith("not JSON: Expecting")
    assert reasons[6] == "not a JSON object but list"
    assert reasons[7].startswith("not JSON: Extra data")
    assert reasons[8] == "day: missing, and declared as not nullable"
    assert reasons[9] == "not JSON: NaN is no JSON value"


def test_parquet_is_read_with_its_own_types_where_nothing_is_lost(
    ingest: Ingest, landing: Path, rows: Rows, bad: Bad
) -> None:
    pl.DataFrame(
        {
            "note": ["a", "NA", None, "", "e"],
            "id": [1.0, 2.0, 3.5, 4.0, float("nan")],
            "day": pl.Series(["d1"] * 5, dtype=pl.Categorical),
            "amount": pl.Series([1, 2, 3, None, 5], dtype=pl.Int16),
            "more": [[1]] * 5,
        }
    ).write_parquet(landing / "a.parquet", row_group_size=2)
    assert ingest(max_bad_rows=2).status == "success"
    assert rows().rows() == [("d1", 1, 1.0, "a"), ("d1", 2, 2.0, "NA"), ("d1", 4, None, "")]
    assert bad() == [
        ("a.parquet", 3, "id: '3.5' is not an int64"),
        ("a.parquet", 5, "id: missing, and declared as not nullable"),
    ]
    assert json.loads(rows("orders_quarantine", "line")["raw"][0]) == {
        "day": "d1", "id": 3.5, "amount": 3, "note": None,
    }  # fmt: skip


def test_parquet_of_another_type_altogether_is_refused(ingest: Ingest, landing: Path) -> None:
    frame = pl.DataFrame({"day": ["d1"], "id": [[1]], "amount": [1.0], "note": [""]})
    frame.write_parquet(landing / "a.parquet")
    failure = ingest().failure
    assert failure is not None
    assert "column 'id' of a.parquet is List(Int64), which cannot become int64" in failure.message


def test_a_folder_is_read_in_the_order_of_names_without_hidden_and_foreign_files(
    ingest: Ingest, landing: Path, rows: Rows
) -> None:
    write_packed(landing / "b.csv", HEADER + "d1,2,1,\n")
    write_packed(landing / "a.jsonl.gz", '{"day": "d1", "id": 1, "amount": 1, "note": "n"}')
    write_packed(landing / "_b.csv", "broken")
    write_packed(landing / ".c.csv", "broken")
    write_packed(landing / "README.md", "broken")
    (landing / "deeper").mkdir()
    write_packed(landing / "deeper" / "c.csv", "broken")
    result = ingest()
    assert result.summary["source files"] == 2
    assert rows()["id"].to_list() == [1, 2]


def test_a_glob_reads_what_it_matches_at_any_depth(ingest: Ingest, landing: Path, rows: Rows) -> None:
    for number, day in enumerate(("2013/06/01", "2013/06/02", "2013/07/01")):
        (landing / day).mkdir(parents=True)
        write_packed(landing / day / "part-0.csv", HEADER + f"d,{number},1,\n")
        write_packed(landing / day / "part-0.txt.bak", "broken")
    assert ingest(f"{landing}/2013/06/**/*.csv").status == "success"
    assert rows()["id"].to_list() == [0, 1]
    assert ingest(f"{landing.as_uri()}/2013/0[67]/01/part-?.csv").status == "success"
    assert rows()["id"].to_list() == [0, 2]


def test_a_zip_archive_may_hold_several_files(ingest: Ingest, landing: Path, rows: Rows, bad: Bad) -> None:
    with zipfile.ZipFile(landing / "all.zip", "w") as archive:
        archive.writestr("b.csv", HEADER + "d1,2,1,\nd1,x,1,\n")
        archive.writestr("sub/a.jsonl", '{"day": "d1", "id": 1, "amount": null, "note": "n"}\n')
        archive.writestr("__MACOSX/._b.csv", "broken")
        archive.writestr("README", "not data")
    assert ingest(max_bad_rows=1).status == "success"
    assert rows()["id"].to_list() == [1, 2]
    assert bad() == [("all.zip/b.csv", 3, "id: 'x' is not an int64")]


def test_quoted_values_may_hold_delimiters_quotes_and_line_ends(
    ingest: Ingest, landing: Path, rows: Rows, bad: Bad
) -> None:
    (landing / "a.csv").write_bytes(
        b'"day","id","amount","note"\r\n'
        b'd1,1,1,"a, ""b""\nand c"\r\n'
        b"\r\n"
        b'd1,2,1,5" disc\r\n'
        b'"d1","x","1","y\nz"\r\n'
        b"d1,3,1,plain"
    )
    assert ingest(max_bad_rows=1).status == "success"
    assert rows().select("id", "note").rows() == [(1, 'a, "b"\nand c'), (2, '5" disc'), (3, "plain")]
    assert bad() == [("a.csv", 6, "id: 'x' is not an int64")]
    assert rows("orders_quarantine")["raw"].item() == '"d1","x","1","y\nz"'


def test_other_delimiters_a_byte_order_mark_and_undeclared_columns_are_no_trouble(
    ingest: Ingest, landing: Path, rows: Rows
) -> None:
    (landing / "a.csv").write_text("﻿more;note;id;amount;day;more\n1;x,y;1;2;d1;2\n", encoding="utf-8")
    assert ingest(delimiter=";").status == "success"
    assert rows().rows() == [("d1", 1, 2.0, "x,y")]
    wrong = ingest(delimiter=";;").failure
    assert wrong is not None
    assert "';;' cannot be a delimiter" in wrong.message


def test_text_becomes_typed_by_rules_that_people_expect(ingest: Ingest, landing: Path, rows: Rows) -> None:
    kinds = {"i": "int64", "f": "float64", "b": "boolean", "d": "date", "t": "timestamp"}
    values = {
        "i": ["7", "+7", "7.0", " 7 ", "-0", "7.5", "1e3", "9223372036854775808", "٣"],
        "f": ["1.5", "1e3", ".5", " 2 ", "nan", "-inf", "1,5", "x", "1_0"],
        "b": ["true", "FALSE", "T", "no", "1", "0", "2", "maybe", "-"],
        "d": ["2013-06-01", " 2013-06-01", "2012-02-29", "2013-02-29", "06/01/2013", "20130601", *"xyz"],
        "t": [
            "2013-06-01T10:00:00Z", "2013-06-01 10:00:00", "2013-06-01T12:00:00+02:00", "2013-06-01T10:00",
            "2013-06-01", "2013-06-01t10:00:00.5z", "10:00", "2013-06-31T00:00:00Z", "yesterday",
        ],
    }  # fmt: skip
    lines = ["\t".join(["d", *row]) for row in zip(*values.values(), strict=True)]
    (landing / "a.csv").write_text("day\t" + "\t".join(values) + "\n" + "\n".join(lines))
    found: dict[str, list[object]] = {}
    for name, kind in kinds.items():
        schema = {"columns": [{"name": "day"}, {"name": name, "type": kind}]}
        target = {"name": f"of_{name}", "partition_by": "day"}
        result = ingest(schema=schema, publish=target, delimiter="\t", max_bad_rows=9)
        assert result.status == "success", result.failure
        found[name] = pl.read_delta(result.table.uri.removeprefix("file://"))[name].to_list()
        assert len(found[name]) + result.summary["rejected"] == 9

    def at(hour: int, microsecond: int = 0) -> datetime.datetime:
        return datetime.datetime(2013, 6, 1, hour, 0, 0, microsecond, tzinfo=UTC)

    assert found["i"] == [7, 7, 7, 7, 0]
    assert [str(value) for value in found["f"]] == ["1.5", "1000.0", "0.5", "2.0", "nan", "-inf"]
    assert found["b"] == [True, False, True, False, True, False]
    assert found["d"] == [datetime.date(2013, 6, 1)] * 2 + [datetime.date(2012, 2, 29)]
    assert found["t"] == [at(10)] * 4 + [at(0), at(10, 500_000)]


def test_a_row_is_typed_the_same_whatever_stands_beside_it(ingest: Ingest, landing: Path, rows: Rows) -> None:
    """Values that take the long way must come out as those that take the short one."""
    (landing / "a.csv").write_text(HEADER + "d1,1,1.0,\n")
    ingest()
    alone = rows().rows()
    (landing / "a.csv").write_text(HEADER + "d1,1,1.0,\nd1, 2.0 ,x,\nd1,y, 3 ,\n")
    ingest(max_bad_rows=2)
    assert rows().rows() == alone


@pytest.mark.parametrize("folder", ["plain", "day=d9", "with [brackets] and *"])
@pytest.mark.parametrize("group", [300, 1_000_000])
def test_parquet_is_read_the_same_by_row_groups_and_in_batches_wherever_it_lies(
    ingest: Ingest, landing: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch, folder: str, group: int
) -> None:
    monkeypatch.setattr(reading, "_PARQUET_ROWS", 100)
    frame = pl.DataFrame({"id": range(1_000)}).with_columns(
        day=pl.lit("d") + (pl.col("id") // 400).cast(pl.String),
        amount=pl.when(pl.col("id") % 99 != 0).then(pl.col("id") / 2),
        note=pl.lit("n"),
    )
    (landing / folder).mkdir()
    frame.write_parquet(landing / folder / "a.parquet", row_group_size=group)
    result = ingest(landing / folder / "a.parquet" if "*" not in folder else landing / folder)
    assert result.status == "success", result.failure
    expected = frame.select("day", "id", "amount", "note")
    assert rows().equals(expected.sort(pl.all(), nulls_last=True))


def test_parquet_with_a_damaged_row_group_is_named(ingest: Ingest, landing: Path) -> None:
    path = landing / "a.parquet"
    frame = pl.DataFrame({"day": ["d1"] * 5_000, "id": range(5_000), "amount": 1.0, "note": "n"})
    frame.write_parquet(path, row_group_size=1_000)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    result = ingest(path)
    assert result.failure is not None
    assert result.failure.kind == "data"
    assert "a.parquet is truncated or damaged" in result.failure.message
