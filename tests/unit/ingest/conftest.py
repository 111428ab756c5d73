"""What the tests of ingestion share: a landing folder, and a step with the usual arguments filled in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from raw_orders import ORDERS, Bad, Ingest, Rows

from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.contract.store import Store, local_path


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    """An empty folder for raw files."""
    folder = tmp_path / "landing"
    folder.mkdir()
    return folder


@pytest.fixture
def ingest(run_step: Callable[..., StepResult], landing: Path) -> Ingest:
    """Runs an ingest step of orders: ``ingest(partitions="d1", max_bad_rows=3, ...)``."""

    def run(
        source: Path | str = "", *, step_key: str = "", code_digest: str = "", **arguments: Any
    ) -> StepResult:
        given = {
            "source": str(source or landing),
            "schema": ORDERS,
            "publish": {"name": "orders", "partition_by": "day"},
            "partitions": "",
            **arguments,
        }
        return run_step("ingest", given, step_key=step_key, code_digest=code_digest)

    return run


@pytest.fixture
def rows(store: str) -> Rows:
    """The rows of a table now, or at a version, sorted: ``rows("orders_quarantine", "file", "line")``."""

    def read(table: str = "orders", *by: str, version: int | None = None) -> pl.DataFrame:
        frame = pl.read_delta(str(local_path(Store(store).table_uri(table))), version=version)
        return frame.sort(by or pl.all(), nulls_last=True)

    return read


@pytest.fixture
def bad(rows: Rows) -> Bad:
    """What is in quarantine: file, line and reason."""

    def read() -> list[tuple[str, int, str]]:
        found = rows("orders_quarantine", "file", "line")
        return list(found.select("file", "line", "reason").iter_rows())

    return read
