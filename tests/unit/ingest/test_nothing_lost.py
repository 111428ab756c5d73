"""Whatever a file holds, every row of it is published or quarantined, once."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_ml_provider.contract.documents import StepSpec, read_spec
from airflow_ml_provider.steps import records
from airflow_ml_provider.steps.runner import run_step

SCHEMA = {
    "columns": [
        {"name": "ds", "nullable": False},
        {"name": "n", "type": "int64", "minimum": -50, "maximum": 50},
        {"name": "x", "type": "float64"},
        {"name": "text"},
    ],
    "null_values": ["NA"],
}

text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=8)
cell = st.one_of(
    st.integers(-60, 60).map(str),
    st.floats(allow_nan=False).map(str),
    st.sampled_from(["NA", "", "abc", '"', "a,b", "two\nlines", "5.0", " 7", "1e999", "d1"]),
    text,
)
day = st.sampled_from(["d1", "d1", "d2", "d3", "NA"])
row = st.one_of(
    st.tuples(day, st.integers(-60, 60).map(str), st.floats(0, 1).map(str), text).map(list),
    st.tuples(day, cell, cell, cell).map(list),
    st.lists(cell, min_size=1, max_size=6),
)


def written(rows: list[list[str]], line_end: str) -> str:
    """The rows as CSV; one that would be a blank line, which is no row, is left out."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=line_end)
    for values in rows:
        if any(values):
            writer.writerow(values)
    return out.getvalue()


def ingested(
    folder: Path, content: bytes, partitions: str, block: int
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Rows, bad rows and the number of rows of other partitions that come of a file."""
    (folder / "a.csv").write_bytes(content)
    spec = StepSpec(
        "ingest",
        (folder / "store").as_uri(),
        {
            "source": str(folder / "a.csv"),
            "schema": SCHEMA,
            "publish": {"name": "t", "partition_by": "ds"},
            "partitions": partitions,
            "max_bad_rows": 10_000,
        },
    )
    before, records.BLOCK_BYTES = records.BLOCK_BYTES, block
    try:
        result = run_step(read_spec(spec.encode(), source="the test"))
    finally:
        records.BLOCK_BYTES = before
    assert result.status in ("success", "skipped"), result.failure
    if result.status == "skipped":
        return pl.DataFrame(), pl.DataFrame(), -1
    bad = pl.DataFrame()
    if "quarantine" in result.tables:
        bad = pl.read_delta(str(folder / "store/tables/t_quarantine"))
    elsewhere = int(result.summary.get("rows of other partitions", 0))
    return pl.read_delta(str(folder / "store/tables/t")), bad, elsewhere


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(row, min_size=1, max_size=40),
    line_end=st.sampled_from(["\n", "\r\n"]),
    block=st.sampled_from([16, 64, 1 << 20]),
)
@example(rows=[["d1", "1", "1", "a\r\nb"], ["d1", "2"], ["d1", "3", "1", '"']], line_end="\r\n", block=16)
@example(rows=[["d1", "1", "1", "a\rb"], ["d1", "x", "1", "c"]], line_end="\n", block=16)
def test_good_and_bad_rows_together_are_all_rows_whatever_the_blocks(
    rows: list[list[str]], line_end: str, block: int
) -> None:
    content = ("ds,n,x,text" + line_end + written(rows, line_end)).encode()
    expected = list(csv.reader(io.StringIO(content.decode(), newline="")))[1:]
    expected = [values for values in expected if values]
    with tempfile.TemporaryDirectory() as folder:
        good, bad, elsewhere = ingested(Path(folder), content, "", block)
    if elsewhere == -1:
        assert not expected
        return
    assert elsewhere == 0
    assert len(good) + len(bad) == len(expected)
    # Each bad row's line is where it stands in the file, and is told once.
    if len(bad):
        assert bad["line"].n_unique() == len(bad)
        lines = content.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line, raw in bad.select("line", "raw").iter_rows():
            first = raw.replace("\r\n", "\n").replace("\r", "\n").split("\n")[0]
            assert lines[line - 1].startswith(first[:1_000])
    # What was published is what a plain reader sees in the rows that are as declared.
    texts = sorted(str(values[3]) for values in expected if fits(values))
    assert sorted(value if value is not None else "NA" for value in good["text"]) == texts


def fits(values: list[str]) -> bool:
    """Whether a row is as declared, by the simplest rules that say so."""
    if len(values) != 4 or values[0] == "NA":
        return False
    try:
        number = 0.0 if values[1] == "NA" else float(values[1])
        if values[2] != "NA":
            float(values[2])
    except ValueError:
        return False
    return -50 <= number <= 50 and number == int(number)


def test_a_range_holds_what_its_days_hold_one_by_one(tmp_path: Path) -> None:
    rows = [[f"2013-06-0{1 + n % 3}", str(n % 70), "0.5", f"t{n}"] for n in range(200)]
    content = ("ds,n,x,text\n" + written(rows, "\n")).encode()
    together = tmp_path / "together"
    apart = tmp_path / "apart"
    together.mkdir()
    apart.mkdir()
    good, bad, _ = ingested(together, content, "2013-06-01..2013-06-03", 256)
    for number in (1, 2, 3):
        good_apart, bad_apart, _ = ingested(apart, content, f"2013-06-0{number}", 512)
    assert good.sort("text").equals(good_apart.sort("text"))
    assert bad.sort("line").equals(bad_apart.sort("line"))
    assert len(good) + len(bad) == 200
