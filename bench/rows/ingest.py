"""Ingest, CSV and Parquet to partitions of a table, against Polars copying the same files unchecked.

Ours types every value by the declared schema, checks missing values and bounds, looks for rows with the same
key in one of the two, keeps bad rows apart and publishes in one commit. Polars reads the columns as the same
types and writes Parquet with the same compression (zstd, level 1), in folders by day; it checks nothing. Either
chooses dictionaries, encodings and statistics by its own rules; ours has none of texts that are in no order.

The rows are orders of thirty days, in the order of time, in ten files; one in ten thousand is bad.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.measuring import Cost, Row, in_turn
from bench.scene import Scene

FILES = 10
DAYS = 30
BAD_EVERY = 10_000
SCHEMA: dict[str, Any] = {
    "columns": [
        {"name": "day", "nullable": False},
        {"name": "order_id", "type": "int64", "nullable": False},
        {"name": "ordered_at", "type": "timestamp", "nullable": False},
        {"name": "customer", "nullable": False},
        {"name": "country"},
        {"name": "channel"},
        {"name": "quantity", "type": "int64", "minimum": 1, "maximum": 1000},
        {"name": "price", "type": "float64", "minimum": 0},
        {"name": "discount", "type": "float64", "minimum": 0, "maximum": 1},
        {"name": "weight", "type": "float64"},
        {"name": "paid", "type": "boolean"},
        {"name": "note"},
    ]
}
UNCHECKED = """
import sys
import polars as pl
source, target, kind = sys.argv[1:]
if kind == "csv":
    rows = pl.scan_csv(source, ignore_errors=True, schema={
        "day": pl.String, "order_id": pl.Int64, "ordered_at": pl.String, "customer": pl.String,
        "country": pl.String, "channel": pl.String, "quantity": pl.Int64, "price": pl.Float64,
        "discount": pl.Float64, "weight": pl.Float64, "paid": pl.Boolean, "note": pl.String,
    }).with_columns(pl.col("ordered_at").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC"))
else:
    rows = pl.scan_parquet(source)
rows.sink_parquet(pl.PartitionBy(target, key="day"), compression="zstd", compression_level=1, mkdir=True,
                  engine="streaming")
"""


def rows(scene: Scene) -> Iterator[Row]:
    """Speed against Polars; then time and memory at a tenth, at all and, from 10 million on, at five times."""
    for kind in ("csv", "parquet"):
        for key in (False, True):
            source = generated(scene.folder, scene.rows, kind)
            ours, theirs = in_turn(
                partial(ingested, scene, scene.rows, kind, key=key),
                partial(copied, scene, source, kind),
                scene.repeats,
            )
            what = ", no two with the same key" if key else ""
            yield Row(
                f"ingest {scene.rows:,} rows x 12 columns of {kind}, typed, with quarantine{what}",
                "Polars streaming read and write, nothing checked",
                ">= 0.7x speed",
                ours,
                theirs,
                as_speed=True,
                limit=0.7,
                note="both write zstd level 1, a folder a day, with statistics, ours none of texts in no order",
            )
    for count in (scene.rows // 10, scene.rows, *([5 * scene.rows] if scene.rows >= 10_000_000 else [])):
        for kind in ("csv", "parquet"):
            generated(scene.folder, count, kind)
            yield Row(
                f"ingest {count:,} rows of {kind}", "", "< 1536 MiB", [ingested(scene, count, kind, key=True)]
            )
            if count > scene.rows:
                shutil.rmtree(_folder(scene.folder, count, kind))


def generated(folder: Path, count: int, kind: str) -> str:
    """The raw files as a glob; made once, part by part."""
    place = _folder(folder, count, kind)
    if not place.exists():
        making = place.with_name(f"{place.name}-making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        for number in range(FILES):
            first, last = count * number // FILES, count * (number + 1) // FILES
            part = orders(first, last, count)
            path = making / f"orders-{number:02}.{kind}"
            if kind == "csv":
                part.write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%SZ", float_precision=2)
            else:
                part.write_parquet(path, compression="zstd", compression_level=1, row_group_size=1 << 17)
        making.rename(place)
    return str(place / f"*.{kind}")


def orders(first: int, last: int, count: int) -> pl.DataFrame:
    """Orders of some numbers, of ``count`` in all, which take thirty days."""
    random = np.random.default_rng(first)
    n = last - first
    number = np.arange(first, last)
    microseconds = number * (DAYS * 86_400_000_000 // count)
    at = pl.Series(1_370_044_800_000_000 + microseconds // 1_000_000 * 1_000_000).cast(
        pl.Datetime("us", "UTC")
    )
    quantity = np.where(number % BAD_EVERY == BAD_EVERY - 1, 5_000, random.integers(1, 20, n))
    return pl.DataFrame(
        {
            "day": at.dt.strftime("%Y-%m-%d"),
            "order_id": number,
            "ordered_at": at,
            "customer": pl.Series(random.integers(0, 500_000, n)).cast(pl.String).str.zfill(8),
            "country": pl.Series(["DE", "FR", "US", "GB", "NL", "IT", "ES", "PL"])[random.integers(0, 8, n)],
            "channel": pl.Series(["web", "app", "shop", None])[random.integers(0, 4, n)],
            "quantity": quantity,
            "price": random.gamma(2, 20, n).round(2),
            "discount": random.integers(0, 50, n) / 100,
            "weight": pl.Series(random.random(n).round(2) * 30).set(pl.Series(random.random(n) < 0.05), None),
            "paid": random.random(n) < 0.9,
            "note": pl.Series(["", "gift", "leave it at the door", "second floor, ring twice"])[
                random.integers(0, 4, n)
            ],
        }
    )


def ingested(scene: Scene, count: int, kind: str, *, key: bool) -> Cost:
    """One run of the step into a table that does not exist yet."""
    name = f"orders_{kind}"
    for table in (name, f"{name}_quarantine"):
        shutil.rmtree(scene.store / "tables" / table, ignore_errors=True)
    arguments = {
        "source": generated(scene.folder, count, kind),
        "schema": {**SCHEMA, "key": ["order_id"] if key else []},
        "publish": {"name": name, "partition_by": "day"},
        "max_bad_rows": count,
    }
    return scene.step("ingest", arguments, key=f"bench-ingest-{kind}")


def copied(scene: Scene, source: str, kind: str) -> Cost:
    """One run of the reference."""
    target = scene.folder / "unchecked"
    shutil.rmtree(target, ignore_errors=True)
    return scene.python(UNCHECKED, source, target, kind)


def _folder(folder: Path, count: int, kind: str) -> Path:
    return folder / f"orders-{count}-{kind}"
