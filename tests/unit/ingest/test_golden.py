"""What raw files become, to the last value: the digests here were taken before ingestion was tuned.

The files hold every way to write a value that is known to make parsers disagree.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from airflow_ml_provider.contract.documents import StepResult, StepSpec, read_spec
from airflow_ml_provider.steps import reading, records, table_files
from airflow_ml_provider.steps.runner import run_step

SCHEMA: dict[str, Any] = {
    "columns": [
        {"name": "day", "nullable": False},
        {"name": "n", "type": "int64", "minimum": -500, "maximum": 100_000},
        {"name": "x", "type": "float64", "minimum": -1e6, "maximum": 1e300},
        {"name": "flag", "type": "boolean"},
        {"name": "born", "type": "date"},
        {"name": "at", "type": "timestamp"},
        {"name": "text"},
        {"name": "plain", "type": "int64", "nullable": False},
        {"name": "ratio", "type": "float64"},
    ],
    "null_values": ["NA", ""],
}
ODD: dict[str, Sequence[str]] = {
    "day": ["NA", "", " d1", "d1 ", "d4"],
    "n": [
        "NA", "", "517.0", "517.", "517.5", " 7", "7 ", "\t7", "+5", "-0", "007", "0x1F", "0X1f", "1e3", "1_000", "٣",
        "9223372036854775807", "9223372036854775808", "-9223372036854775808", "99999999999999999999999", "-", "--1",
        "-501", "100001", "100001.0", "000000000000000000000000000012", "0b1", "1,5", "na", "null", "\u00a07", ".0",
    ],
    "x": [
        "NA", "", "nan", "NaN", "-nan", "inf", "-inf", "Infinity", "+inf", "INF", "1e999", "-1e999", "1e-999", "4e-324",
        ".5", "5.", "+1.5", "1e5", "1E+5", " 2.5 ", "1.5f", "0x1p3", "1,5", "1_0", "٣", "-0.0", "1e301", "1d5", "e5",
        "0.1234567890123456789012345678901234567890", "17976931348623157" + "0" * 292, "nan(1)", "infinit", "-2e6",
    ],
    "flag": [
        "NA", "", "true", "TRUE", "tRuE", "t", "T", "yes", "Y", "1", "0", "f", "no", "False", "FALSE", " true ", "on",
        "01", "2", "1.0",
    ],
    "born": [
        "NA", "", "2013-02-29", "2013-6-1", " 2013-06-01", "2013-06-01 ", "20130601", "2013-06-01T00:00:00",
        "0000-01-01", "9999-12-31", "10000-01-01", "-001-01-01", "2013/06/01", "01.06.2013", "2013-13-01",
    ],
    "at": [
        "NA", "", "2013-06-01T12:00:00", "2013-06-01 12:00:00Z", "2013-06-01t12:00:00z", "2013-06-01T12:00Z",
        "2013-06-01T12Z", "2013-06-01T12:00", "2013-06-01", "2013-06-01T12:00:00.123456789Z", "2013-06-01T12:00:00.5Z",
        "2013-06-01T12:00:00+02", "2013-06-01T12:00:00+0200", "2013-06-01T12:00:00+02:00", "2013-06-01T12:00:60Z",
        "2013-06-01T24:00:00Z", "2013-02-30T12:00:00Z", "2013-06-01T12:00:00 Z", " 2013-06-01T12:00:00Z ",
        "2013-06-01T12:00+02:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2013-06-01T12:00:00ZZ",
        "2013-06-01T12:00:00-00:00", "2013-06-01T12:00:00+25:00", "2013-06-01T12:00:00,5Z", "20130601T120000Z",
        "2013-06-01T12:00:00.Z", "2013-06-01T12:00:00+02:60", "12:00", "2013-152T12:00:00Z", "+2013-06-01T12:00:00Z",
        "2013-06-01X12:00:00Z", "2013-6-01T12:00:00Z", "1500-06-01T12:00:00.123Z", "2013-06-01T12:00:00+2:00",
    ],
    "text": ["NA", "", " ", '"', 'a "quoted" word', "two\nlines", "a,b", "null", "0x", "ß", "\u2028", "nan", "\t"],
    "plain": ["NA", "x", "12.0", "0x10"],
    "ratio": ["NA", "1"],
}  # fmt: skip
# Of the rows that are published and of those in quarantine.
ROWS = 4_000
GOLDEN = {
    "csv": ["3707 eae465163a97da3d", "298 dbb399f7961eb340"],
    "csv with a key": ["402 53750dc9e94353a5", "3603 f688019e7f7a8864"],
    "jsonl": ["3668 73b2f245a15a47c4", "332 bd4d6bb46cd0782b"],
    "parquet": ["3957 5dec6fa7133190d4", "43 6c5b29d95cbbfe24"],
    "parquet with a key": ["3914 e238611a57401a4d", "86 1980ff5c44561681"],
}


def cells(number: int, draw: random.Random) -> list[str]:
    at = f"2013-06-{1 + number % 28:02}T{number % 24:02}:{number % 60:02}:{number * 7 % 60:02}"
    at += "Z" if number % 3 else f".{number % 1_000_000:06}Z"
    usual = [
        f"d{1 + number * 3 // ROWS}", str(number % 400 - 100), f"{draw.random() * 100:.3f}",
        draw.choice(["true", "false", "0"]), f"2013-06-{1 + number % 28:02}", at,
        draw.choice(["plain", "with, comma", "ünïcode", "", "long " * 20]), str(number), f"{draw.random():.6f}",
    ]  # fmt: skip
    chance = {"plain": 0.002, "ratio": 0.002, "day": 0.004}
    names = [column["name"] for column in SCHEMA["columns"]]
    return [
        draw.choice(ODD[name]) if draw.random() < chance.get(name, 0.03) else value
        for name, value in zip(names, usual, strict=True)
    ]


def csv_text() -> bytes:
    draw = random.Random(1)
    names = [column["name"] for column in SCHEMA["columns"]]
    lines = [",".join(["undeclared", *names])]
    for number in range(ROWS):
        values = cells(number, draw)
        quoted = [
            '"' + value.replace('"', '""') + '"'
            if re.search('[,"\n]', value) or draw.random() < 0.02
            else value
            for value in values
        ]
        lines.append(",".join(["0", *quoted]))
        if draw.random() < 0.002:
            lines.append(draw.choice(["", "0,d1,1", "\x00", "1,2,3,4,5,6,7,8,9,10,11,12"]))
    content = ("\n".join(lines) + "\n").encode()
    return content.replace("ünïcode".encode(), "ünïcode".encode("latin-1"), 20)


def jsonl_text() -> bytes:
    draw = random.Random(2)
    names = [column["name"] for column in SCHEMA["columns"]]
    rows = [dict(zip(names, cells(number, draw), strict=True)) for number in range(ROWS)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet_frame() -> pl.DataFrame:
    """Clean values in other types than declared, some out of bounds."""
    number = pl.Series("plain", range(ROWS))
    frame = number.to_frame()
    odd = pl.col("plain") % 97 == 0
    value = pl.col("plain").cast(pl.Float64)
    return frame.select(
        day=pl.lit("d") + (pl.col("plain") * 3 // ROWS + 1).cast(pl.String).cast(pl.Categorical).cast(pl.String),
        n=pl.when(odd).then(value + 0.5).when(pl.col("plain") % 89 == 0).then(float("nan")).otherwise(value),
        x=pl.when(odd).then(1e301).otherwise(value / 7).cast(pl.Float32),
        flag=pl.when(~odd).then(pl.col("plain") % 2 == 0),
        born=pl.lit("2013-06-01").str.to_date() + pl.duration(days=pl.col("plain") % 30),
        at=pl.lit("2013-06-01T12:00:00").str.to_datetime(time_unit="ns") + pl.duration(microseconds=pl.col("plain")),
        text=pl.when(odd).then(pl.lit("NA")).otherwise(pl.lit("t")).cast(pl.Categorical),
        plain=pl.when(pl.col("plain") != 5).then(pl.col("plain").cast(pl.Int16)),
        ratio=value.cast(pl.Int32),
    )  # fmt: skip


def ingested(folder: Path, name: str, **more: Any) -> StepResult:
    arguments = {
        "source": str(folder / name), "schema": SCHEMA, "publish": {"name": "t", "partition_by": "day"},
        "max_bad_rows": 100_000, **more,
    }  # fmt: skip
    spec = StepSpec("ingest", (folder / "store").as_uri(), arguments)
    result = run_step(read_spec(spec.encode(), source="the test"))
    assert result.status == "success", result.failure
    return result


def digests(folder: Path) -> list[str]:
    """Of the rows of the table, then of the quarantine, with their numbers."""
    found = []
    for table in ("t", "t_quarantine"):
        frame = pl.read_delta(str(folder / "store/tables" / table)).drop("source_digest", strict=False)
        schema = frame.schema
        # Times as numbers: Python knows no year 0.
        frame = frame.with_columns(pl.col(pl.Date, pl.Datetime).to_physical())
        rows = [repr(row) for row in frame.iter_rows()]
        sha = hashlib.sha256("\n".join([repr(schema), *sorted(rows)]).encode()).hexdigest()
        found.append(f"{len(rows)} {sha[:16]}")
    return found


@pytest.mark.parametrize("size", [1_500, 4 << 20])
@pytest.mark.parametrize("case", ["csv", "csv with a key", "jsonl", "parquet", "parquet with a key"])
def test_rows_and_bad_rows_are_those_of_before_whatever_the_size_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, size: int
) -> None:
    kind = case.partition(" ")[0]
    monkeypatch.setattr(records, "BLOCK_BYTES", size)
    monkeypatch.setattr(reading, "_PARQUET_ROWS", max(100, size // 64))
    monkeypatch.setattr(table_files, "BUDGET_BYTES", 64 << 20 if size > 20_000 else 200_000)
    if kind == "parquet":
        parquet_frame().write_parquet(tmp_path / "a.parquet", row_group_size=1000)
    else:
        (tmp_path / f"a.{kind}").write_bytes(csv_text() if kind == "csv" else jsonl_text())
    schema = {**SCHEMA, "key": ["n"]} if "key" in case else SCHEMA
    ingested(tmp_path, f"a.{kind}", schema=schema)
    assert digests(tmp_path) == GOLDEN[case]
    # Some of the partitions: their rows and bad rows, and no others.
    ingested(
        tmp_path, f"a.{kind}", schema=schema, partitions="d2", publish={"name": "t", "partition_by": "day"}
    )
    assert digests(tmp_path)[0] == GOLDEN[case][0]
