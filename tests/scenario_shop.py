"""Ingest tasks whose user's function does one thing, for tests on a real cluster."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from airflow.sdk import DAG
from places import Place, store_of

from airflow_ml_provider import Column, Schema, Table
from airflow_ml_provider.operators import IngestOperator

SCHEMA = Schema((Column("id", "int64"), Column("what", "string")))
FUNCTION = """
import time
import polars as pl

def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
{body}
    return rows
"""
GREEDY = """
taken = []
for _ in range(300):
    taken.append(bytearray(10 * 2**20))
    time.sleep(0.1)
"""


class ReadOperator(IngestOperator):
    """Reads two rows; unlike ingestion it does not look for new ones when it has a result."""

    reusable = True


def plain_ingest(place: Place, folder: Path, compute: dict[str, Any], body: str = "pass") -> Any:
    """A task that reads two rows; its function runs ``body`` first."""
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / "mine.py").write_text(FUNCTION.format(body=textwrap.indent(body.strip(), "    ")))
    store = store_of(place)
    store.write("raw/rows.csv", b"id,what\n1,one\n2,two\n")
    with DAG("real"):
        return ReadOperator(
            task_id="rows", source=f"{store.uri}/raw/rows.csv", schema=SCHEMA, transform="mine:transform",
            publish=Table("rows", partition_by=None), code=str(code), compute=place.compute(**compute),
        )  # fmt: skip


def slow_ingest(place: Place, folder: Path, compute: dict[str, Any], *, seconds: float) -> Any:
    """A task that takes a while."""
    return plain_ingest(place, folder, compute, f"time.sleep({seconds})")


def greedy_ingest(place: Place, folder: Path, compute: dict[str, Any]) -> Any:
    """A task that takes 3 GB, 100 MB a second."""
    return plain_ingest(place, folder, compute, GREEDY)
