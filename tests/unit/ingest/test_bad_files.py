"""Files that cannot be read as declared: what is wrong, with what, and that nothing was published."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest
from raw_orders import HEADER, Ingest, Rows, write_packed

GOOD = HEADER + "".join(f"d1,{n},{n / 7},{'note ' * 5}{n}\n" for n in range(20_000))


def refused(ingest: Ingest, source: Path | str = "", **arguments: object) -> str:
    """The message of a step that must fail for its data, before which nothing was published."""
    result = ingest(source, **arguments)
    assert result.status == "failed", result.summary
    assert result.failure is not None
    assert result.table is None
    return f"{result.failure.kind}: {result.failure.message}"


def test_a_missing_column_is_named_with_the_file_and_what_it_has(ingest: Ingest, landing: Path) -> None:
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\n")
    write_packed(landing / "b.csv", "day,id,amoun,note\nd1,2,1,\n")
    said = refused(ingest)
    assert "data: b.csv has no column 'amount'; it has day, id, amoun, note" in said
    assert "did you mean 'amoun'" in said
    assert "nothing of this source was published" in said


def test_a_missing_column_of_json_lines_and_parquet_is_told_too(ingest: Ingest, landing: Path) -> None:
    write_packed(landing / "a.jsonl", '{"day": "d1", "id": 1, "note": "amount"}\n' * 3)
    assert "a.jsonl has no column 'amount' in any line; its first lines have day, id, note" in refused(ingest)
    import polars as pl

    pl.DataFrame({"day": ["d"], "id": [1], "Amount": [1.0], "note": [""]}).write_parquet(
        landing / "a.parquet"
    )
    said = refused(ingest, landing / "a.parquet")
    assert "a.parquet has no column 'amount'" in said
    assert "did you mean 'Amount'" in said


def test_a_wrong_delimiter_is_guessed(ingest: Ingest, landing: Path) -> None:
    write_packed(landing / "a.csv", HEADER.replace(",", ";"))
    assert "is the delimiter ';'? Give delimiter=';'" in refused(ingest)


def test_a_column_that_the_file_has_twice_is_refused(ingest: Ingest, landing: Path) -> None:
    write_packed(landing / "a.csv", "day,id,id,amount,note\n")
    assert "a.csv has 2 columns named 'id'" in refused(ingest)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zip", "a.jsonl", "a.parquet"])
def test_an_empty_file_is_an_error_that_names_it(ingest: Ingest, landing: Path, name: str) -> None:
    write_packed(landing / name, "")
    said = refused(ingest)
    assert f"data: {name}" in said
    assert "is empty: it has not even a header" in said


def test_a_header_without_rows_is_no_error(ingest: Ingest, landing: Path, rows: Rows) -> None:
    write_packed(landing / "a.csv", HEADER.strip())
    write_packed(landing / "b.csv", HEADER + "d1,1,1,\n")
    assert ingest().status == "success"
    assert len(rows()) == 1


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zip"])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_truncated_archive_is_an_error_and_nothing_is_published(
    ingest: Ingest, landing: Path, name: str, share: float
) -> None:
    path = write_packed(landing / name, GOOD)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    said = refused(ingest)
    assert f"data: {name} is truncated or damaged" in said
    assert "nothing of this source was published" in said
    assert "fetch the file again" in said


def test_a_damaged_archive_is_told_from_a_truncated_one_by_nobody(ingest: Ingest, landing: Path) -> None:
    content = bytearray(gzip.compress(GOOD.encode()))
    content[len(content) // 2] ^= 0xFF
    (landing / "a.csv.gz").write_bytes(content)
    assert "a.csv.gz is truncated or damaged" in refused(ingest)
    (landing / "a.csv.gz").write_text("this was never gzip")
    assert "a.csv.gz is truncated or damaged" in refused(ingest)


def test_a_truncated_parquet_file_is_an_error(ingest: Ingest, landing: Path) -> None:
    (landing / "a.parquet").write_bytes(b"PAR1 and then nothing of it")
    assert "a.parquet is truncated or damaged" in refused(ingest)


def test_an_archive_without_data_says_what_it_has(ingest: Ingest, landing: Path) -> None:
    with zipfile.ZipFile(landing / "a.zip", "w") as archive:
        archive.writestr("README", "hello")
    assert "a.zip holds no file that can be read; it holds: README" in refused(ingest)


def test_a_header_that_is_not_utf8_says_how_to_convert_it(ingest: Ingest, landing: Path) -> None:
    (landing / "a.csv").write_bytes((HEADER + "d1,1,1,\n").encode("utf-16"))
    said = refused(ingest)
    assert "the header of a.csv is UTF-16" in said
    assert "iconv" in said
    (landing / "a.csv").write_bytes("día,id,amount,note\n".encode("latin-1"))
    assert "the header of a.csv is not UTF-8: byte 0xed" in refused(ingest)


def test_a_single_file_that_is_not_there_fails(ingest: Ingest, landing: Path) -> None:
    said = refused(ingest, landing / "nope.csv")
    assert f"there is no file {landing}/nope.csv" in said
    assert "give its folder or a glob" in said


def test_a_file_whose_name_tells_no_format_needs_one_given(ingest: Ingest, landing: Path, rows: Rows) -> None:
    write_packed(landing / "data", HEADER + "d1,1,1,\n")
    assert "config: the format of" in refused(ingest, landing / "data")
    assert ingest(landing / "data", format="csv").status == "success"
    assert len(rows()) == 1


def test_binary_rubbish_is_refused_without_reading_it_all_into_memory(ingest: Ingest, landing: Path) -> None:
    (landing / "a.csv").write_bytes(HEADER.encode() + b'"' + b"x" * (17 << 20))
    assert "a.csv, line 2 is longer than 16 MiB" in refused(ingest)
