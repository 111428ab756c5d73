"""The arguments of a predict step, and its table without what differs from run to run."""

from __future__ import annotations

from typing import Any

import polars as pl


def prediction(publish: str, partitions: str = "", version: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "model": {"name": "delays", "version": version},
        "table": {"name": "fresh"},
        "publish": {"name": publish},
        "partitions": partitions,
        **more,
    }


def without_time(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop("predicted_at").sort("ds", "flight_id")
