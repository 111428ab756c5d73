"""The code of backfills.py."""

from __future__ import annotations

import polars as pl

from airflow_ml_provider import FeatureSet


def undisturbed(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows


def rows_to_predict(backfill_rows: pl.LazyFrame) -> pl.LazyFrame:
    return backfill_rows.with_columns(
        id=pl.format("{}-{}", "ds", "x"), at=pl.col("ds").str.to_datetime("%Y-%m-%d", time_unit="us")
    )


SET = FeatureSet(rows=rows_to_predict, key=("id",), prediction_time="at", row_features=("x",))
