"""A source larger than the memory that a step may take."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest
from limited import STEP, run_limited

ALLOWED = 850
ROWS = 1_100_000
LONG = "a text that is the same in each of the rows and takes most of the file; " * 12
MODULES = "polars pyarrow.csv pyarrow.parquet pyarrow.compute duckdb airflow_ml_provider.steps.ingest"


@pytest.mark.slow
def test_a_source_is_ingested_that_is_larger_than_the_memory_allowed(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv.gz"
    with gzip.open(source, "wb", compresslevel=1) as file:
        file.write(b"ds,n,x,text\n")
        for first in range(0, ROWS, 1_000):
            lines = (
                f"d{n * 5 // ROWS},{n if n % 1_000 else 'bad'},{n / 8},{LONG}\n"
                for n in range(first, first + 1_000)
            )
            file.write("".join(lines).encode())
    columns = [
        {"name": "ds"},
        {"name": "n", "type": "int64"},
        {"name": "x", "type": "float64"},
        {"name": "text"},
    ]
    spec = tmp_path / "spec.json"
    arguments = {
        "source": str(source), "schema": {"columns": columns, "key": ["n"]}, "max_bad_rows": ROWS,
        "publish": {"name": "t", "partition_by": "ds"},
    }  # fmt: skip
    store = (tmp_path / "store").as_uri()
    spec.write_text(
        json.dumps({"verb": "ingest", "store": store, "step_key": "large", "arguments": arguments})
    )
    # The limit is one: the file does not fit into it.
    whole = run_limited(
        ALLOWED, MODULES, "polars = sys.modules['polars']; polars.read_csv(sys.argv[1])", source
    )
    assert whole.returncode != 0
    done = run_limited(ALLOWED, MODULES, STEP, "ingest", "--spec", spec)
    assert done.returncode == 0, done.stdout[-3000:]
    found = pl.scan_delta(str(tmp_path / "store/tables/t")).select(pl.len(), pl.sum("n")).collect().row(0)
    expected = [n for n in range(ROWS) if n % 1_000]
    assert found == (len(expected), sum(expected))
    assert pl.read_delta(str(tmp_path / "store/tables/t_quarantine")).height == ROWS // 1_000
