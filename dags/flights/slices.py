"""Ways to part flights into groups that a column does not have."""

from __future__ import annotations

import polars as pl

SHORT, LONG = 500, 1500  # miles


def haul(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Short, medium and long flights."""
    miles = pl.col("distance")
    short, long = miles < SHORT, miles > LONG
    return rows.select(
        pl.when(short).then(pl.lit("short")).when(long).then(pl.lit("long")).otherwise(pl.lit("medium"))
    )
