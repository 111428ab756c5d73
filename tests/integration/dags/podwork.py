"""What the pods of pods.py run."""

from __future__ import annotations

import time

import polars as pl


def quickly(rows: pl.LazyFrame) -> pl.LazyFrame:
    for number in range(20):
        print("line", number, flush=True)
        time.sleep(0.5)
    return rows


def slowly(rows: pl.LazyFrame) -> pl.LazyFrame:
    time.sleep(40)
    return rows


def forever(rows: pl.LazyFrame) -> pl.LazyFrame:
    time.sleep(600)
    return rows
