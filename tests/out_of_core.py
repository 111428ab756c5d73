"""A process that may not have much memory: a table of a given size, a limit, and the work under it.

``python out_of_core.py FOLDER MEGABYTES WORK`` runs ``WORK`` over the table with so much address space beyond
what the process had before it began, and ends with 0 if that was enough.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

NUMBERS, TEXTS, FILE_ROWS = 20, 2, 250_000


def make(folder: Path, rows: int) -> None:
    """A Delta table of numbers and texts, written file by file."""
    import numpy as np
    import polars as pl
    from deltalake import write_deltalake

    words = pl.Series([f"word {number:03}" for number in range(40)])
    for start in range(0, rows, FILE_ROWS):
        own = np.arange(start, min(start + FILE_ROWS, rows))
        numbers = {f"x{number}": (own * (number + 7) % 1009) / 8 for number in range(NUMBERS)}
        texts = {f"s{number}": words[own * (2 * number + 7) % 40] for number in range(TEXTS)}
        frame = pl.DataFrame({"id": own, **numbers, **texts, "ds": [f"d{start % 7}"] * len(own)})
        write_deltalake(folder, frame.to_arrow(), mode="append")


def run(folder: Path, megabytes: int, work: str) -> subprocess.CompletedProcess[str]:
    """Do work in a process of its own, with so much memory beyond what it has at its start."""
    command = [sys.executable, __file__, str(folder), str(megabytes), work]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


def _limit(megabytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _main(folder: str, megabytes: str, work: str) -> None:
    import polars as pl
    from deltalake import DeltaTable

    frame = pl.scan_delta(DeltaTable(folder))
    # Threads and libraries take their address space before the limit is set.
    rows = frame.select(pl.len(), pl.col("x0").mean()).collect(engine="streaming").item(0, 0)
    prepared = {"validate": _validate, "monitor": _monitor, "load": _load}[work](frame, rows)
    _limit(int(megabytes))
    prepared()


def _validate(frame: Any, rows: int) -> Any:
    from airflow_ml_provider.steps.suites import import_gx

    import_gx()
    import great_expectations as gx
    import great_expectations.expectations as gxe

    from airflow_ml_provider.steps.expectations import evaluate

    made = [gxe.ExpectColumnValuesToBeUnique(column="id"), gxe.ExpectTableRowCountToEqual(value=rows)]
    made += [
        gxe.ExpectColumnValuesToBeBetween(column=f"x{n}", min_value=0, max_value=127) for n in range(NUMBERS)
    ]
    made += [gxe.ExpectColumnValuesToNotBeNull(column=f"x{n}") for n in range(NUMBERS)]
    made += [gxe.ExpectColumnMaxToBeBetween(column=f"x{n}", min_value=100) for n in range(0, NUMBERS, 9)]
    made += [gxe.ExpectColumnMeanToBeBetween(column="x1", min_value=50, max_value=70)]
    made += [gxe.ExpectColumnValuesToMatchRegex(column=f"s{n}", regex=r"word \d\d\d") for n in range(TEXTS)]
    made += [gxe.ExpectColumnUniqueValueCountToBeBetween(column="s1", min_value=40, max_value=40)]
    suite = gx.ExpectationSuite(name="suite", expectations=made)
    evaluate(suite, frame.head(1000), 1000, what="a small table")

    def work() -> None:
        result = evaluate(suite, frame, rows, what="the table")
        assert result.success, [one.expectation_config for one in result.results if not one.success]

    return work


def _monitor(frame: Any, rows: int) -> Any:
    from airflow_ml_provider.steps.profiles import apply_profile_by, build_profile

    columns = [*(f"x{n}" for n in range(NUMBERS)), *(f"s{n}" for n in range(TEXTS))]
    profile = build_profile(frame.head(FILE_ROWS), columns, by="ds")

    def work() -> None:
        found = apply_profile_by(profile, frame, "ds", [f"d{n}" for n in range(7)])
        assert sum(part["rows"] for part in found.values()) == rows

    return work


def _load(frame: Any, rows: int) -> Any:
    def work() -> None:
        assert frame.collect().height == rows

    return work


if __name__ == "__main__":
    _main(*sys.argv[1:])
