"""Rows that are not as declared: found, told with file and line, kept, and never lost."""

from __future__ import annotations

from pathlib import Path

from raw_orders import HEADER, ORDERS, ORDERS_WITH_KEY, Bad, Ingest, Rows


def test_each_kind_of_bad_row_is_kept_with_its_line_reason_and_text(
    ingest: Ingest, landing: Path, rows: Rows
) -> None:
    (landing / "a.csv").write_text(
        HEADER
        + "d1,1,5.5,fine\n"
        + "d1,abc,5.5,\n"
        + ",3,5.5,\n"
        + "d1,4,-1,\n"
        + "d1,5,1048.36,\n"
        + "d1,6\n"
        + "d1,7,1,x,y\n"
        + "d1,NA,x,two faults\n"
        + "d1,9,NA,fine too\n"
    )
    result = ingest(max_bad_rows=10)
    assert result.status == "success", result.failure
    assert rows()["id"].to_list() == [1, 9]
    assert rows("orders_quarantine", "line").select(
        "partition", "line", "column", "reason", "raw"
    ).rows() == [
        ("d1", 3, "id", "id: 'abc' is not an int64", "d1,abc,5.5,"),
        ("all", 4, "day", "day: missing, and declared as not nullable", ",3,5.5,"),
        ("d1", 5, "amount", "amount: '-1' is below the minimum 0", "d1,4,-1,"),
        ("d1", 6, "amount", "amount: '1048.36' is above the maximum 1000", "d1,5,1048.36,"),
        ("all", 7, "", "2 fields where the header has 4", "d1,6"),
        ("all", 8, "", "5 fields where the header has 4", "d1,7,1,x,y"),
        (
            "d1",
            9,
            "id, amount",
            "id: missing, and declared as not nullable; amount: 'x' is not a float64",
            "d1,NA,x,two faults",
        ),
    ]
    assert result.summary["rejected"] == 7
    assert result.tables["quarantine"].name == "orders_quarantine"
    assert result.tables["quarantine"].rows == 7


def test_more_bad_rows_than_allowed_fail_the_step_and_say_where_they_are(
    ingest: Ingest, landing: Path, bad: Bad
) -> None:
    lines = "".join(f"d1,{'x' if n % 2 else n},1,\n" for n in range(14))
    (landing / "a.csv").write_text(HEADER + lines)
    result = ingest(partitions="d1", max_bad_rows=6)
    assert result.failure is not None
    assert result.failure.kind == "data"
    said = result.failure.message
    assert "7 of 14 rows are bad, and max_bad_rows is 6:\n  a.csv:3: id: 'x' is not an int64" in said
    assert "a.csv:11: id: 'x' is not an int64\n  and 2 more" in said
    assert "kept: all bad rows, in table orders_quarantine version 1 (file://" in said
    assert "table orders is as it was" in said
    assert len(bad()) == 7


def test_a_bound_that_just_suffices_does(ingest: Ingest, landing: Path, rows: Rows) -> None:
    (landing / "a.csv").write_text(HEADER + "d1,x,1,\nd1,2,1,\n")
    assert ingest(max_bad_rows=1).status == "success"
    assert rows()["id"].to_list() == [2]


def test_bytes_that_are_not_utf8_are_a_bad_row_and_not_a_crash(
    ingest: Ingest, landing: Path, rows: Rows
) -> None:
    (landing / "a.csv").write_bytes(
        HEADER.encode() + b"d1,1,1,caf\xc3\xa9\nd1,2,1,caf\xe9\nd1,3\n\nd1,4,1,ok\nd1,x,1,\n"
    )
    assert ingest(max_bad_rows=9).status == "success"
    assert rows().select("id", "note").rows() == [(1, "café"), (4, "ok")]
    assert rows("orders_quarantine", "line").select("line", "reason", "raw").rows() == [
        (3, "not UTF-8: byte 0xe9 at position 11 of the row", r"d1,2,1,caf\xe9"),
        (4, "2 fields where the header has 4", "d1,3"),
        (7, "id: 'x' is not an int64", "d1,x,1,"),
    ]


def test_the_second_row_with_a_key_is_bad_across_batches_and_files(
    ingest: Ingest, landing: Path, rows: Rows
) -> None:
    (landing / "a.csv").write_text(HEADER + "d1,1,1,first\nd1,2,1,\nd1,1,9,again\n")
    (landing / "b.csv").write_text(HEADER + "d2,3,1,\nd2,2,1,in another file\n\nd2,1,1,a third\n")
    result = ingest(schema=ORDERS_WITH_KEY, partitions="d1,d2", max_bad_rows=3)
    assert result.status == "success", result.failure
    assert rows().select("id", "note").rows() == [(1, "first"), (2, None), (3, None)]
    assert rows("orders_quarantine", "file", "line").select(
        "partition", "file", "line", "column", "reason", "raw"
    ).rows() == [
        ("d1", "a.csv", 4, "id", "the same key (id) as a.csv:2", "d1,1,9,again"),
        ("d2", "b.csv", 3, "id", "the same key (id) as a.csv:3", "d2,2,1,in another file"),
        ("d2", "b.csv", 5, "id", "the same key (id) as a.csv:2", "d2,1,1,a third"),
    ]


def test_a_bad_row_is_not_the_first_of_its_key_and_missing_keys_count_as_equal(
    ingest: Ingest, landing: Path, bad: Bad, rows: Rows
) -> None:
    schema = {**ORDERS, "key": ["day", "note"]}
    (landing / "a.csv").write_text(HEADER + "d1,x,1,n\nd1,2,1,n\nd1,3,1,\nd1,4,1,\n")
    assert ingest(schema=schema, max_bad_rows=2).status == "success"
    assert rows()["id"].to_list() == [2, 3]
    assert bad() == [
        ("a.csv", 2, "id: 'x' is not an int64"),
        ("a.csv", 5, "the same key (day, note) as a.csv:4"),
    ]


def test_duplicates_across_blocks_are_found_out_of_core(
    ingest: Ingest, landing: Path, bad: Bad, rows: Rows
) -> None:
    wide = "x" * 1_000
    lines = "".join(f"d1,{n},1,{wide}\n" for n in range(10_000))
    (landing / "a.csv").write_text(HEADER + lines + "d1,17,1,again\n")
    assert ingest(schema=ORDERS_WITH_KEY, max_bad_rows=1).status == "success"
    assert len(rows()) == 10_000
    assert bad() == [("a.csv", 10_002, "the same key (id) as a.csv:19")]


def test_bad_rows_of_other_partitions_are_not_this_runs_business(
    ingest: Ingest, landing: Path, bad: Bad
) -> None:
    (landing / "a.csv").write_text(HEADER + "d1,1,1,\nd1,x,1,\nd2,2,1,\nd2,y,1,\n")
    assert ingest(partitions="d2", max_bad_rows=1).status == "success"
    assert bad() == [("a.csv", 5, "id: 'y' is not an int64")]


def test_a_bad_row_whose_partition_cannot_be_told_is_kept_under_what_was_asked_for(
    ingest: Ingest, landing: Path, rows: Rows
) -> None:
    (landing / "a.csv").write_text(HEADER + "2013-06-01,1,1,\nbroken\n")
    asked = "2013-06-01..2013-06-02"
    assert ingest(partitions=asked, max_bad_rows=1).status == "success"
    assert rows("orders_quarantine").select("partition", "raw").rows() == [(asked, "broken")]


def test_ingesting_again_replaces_the_bad_rows_and_never_adds_to_them(
    ingest: Ingest, landing: Path, bad: Bad, rows: Rows
) -> None:
    source = landing / "a.csv"
    source.write_text(HEADER + "d1,x,1,\nd1,1,1,\nd2,y,1,\nd2,1,1,\n")
    assert ingest(partitions="d1,d2", max_bad_rows=9).status == "success"
    source.write_text(HEADER + "d1,x,1,\nd1,1,1,more\nd2,2,1,\nd2,1,1,\n")
    assert ingest(partitions="d1", max_bad_rows=9).status == "success"
    assert [line for _, line, _ in bad()] == [2, 4]
    assert ingest(partitions="d1,d2", max_bad_rows=9).status == "success"
    assert [line for _, line, _ in bad()] == [2]
    source.write_text(HEADER + "d1,3,1,\nd2,2,1,\n")
    again = ingest(partitions="d1,d2")
    assert again.summary["rejected"] == 0
    assert again.summary["quarantine"] == "none"
    assert bad() == []
    assert rows()["id"].to_list() == [3, 2]


def test_a_quote_that_is_never_closed_costs_its_line_only(
    ingest: Ingest, landing: Path, bad: Bad, rows: Rows
) -> None:
    (landing / "a.csv").write_text(HEADER + 'd1,1,1,"fine, quoted"\nd1,2,1,"open\nd1,3,1,x\nd1,4,1,y\n')
    assert ingest(max_bad_rows=1).status == "success"
    assert rows()["id"].to_list() == [1, 3, 4]
    assert bad() == [("a.csv", 3, "a quoted value that begins on this line is never closed")]


def test_a_long_bad_row_is_kept_cut(ingest: Ingest, landing: Path, rows: Rows) -> None:
    (landing / "a.csv").write_text(HEADER + "d1,1,1,\nd1,x,1," + "é" * 5_000 + "\n")
    assert ingest(max_bad_rows=1).status == "success"
    raw = rows("orders_quarantine")["raw"].item()
    assert len(raw) == 2_000
    assert raw.startswith("d1,x,1,ééé")
