"""Raw files of orders: their schema, and how to write them."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from airflow_ml_provider.contract.documents import StepResult

ORDERS: dict[str, Any] = {
    "columns": [
        {"name": "day", "nullable": False},
        {"name": "id", "type": "int64", "nullable": False},
        {"name": "amount", "type": "float64", "minimum": 0, "maximum": 1000},
        {"name": "note"},
    ],
    "null_values": ["", "NA"],
}
ORDERS_WITH_KEY = {**ORDERS, "key": ["id"]}
HEADER = "day,id,amount,note\n"

Ingest = Callable[..., StepResult]
Rows = Callable[..., pl.DataFrame]
Bad = Callable[[], list[tuple[str, int, str]]]


def write_packed(path: Path, text: str | bytes) -> Path:
    """Write a file as its name says: plain, gzipped, or as the one member of a zip archive."""
    content = text.encode() if isinstance(text, str) else text
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.stem, content)
    else:
        path.write_bytes(content)
    return path
