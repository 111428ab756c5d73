"""Feature rows as they were known, against DuckDB's ASOF join of the same files.

The reference joins on one time, the later of a fact's two, and writes one Parquet file. Ours is a whole
features step: both clocks, the proof, repeated keys looked for, and the rows published to a Delta table.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from deltalake import write_deltalake

from bench.measuring import Cost, Row, in_turn
from bench.scene import Scene

CODE = """
from __future__ import annotations

import polars as pl

from airflow_ml_provider import FeatureSet, FeatureView, Label


def asked(labels: pl.LazyFrame) -> pl.LazyFrame:
    return labels.select("row_id", "customer", "predict_at")


def bought(labels: pl.LazyFrame) -> pl.LazyFrame:
    return labels.select("row_id", "bought", "bought_at")


def measured(facts: pl.LazyFrame) -> pl.LazyFrame:
    return facts


VIEW = FeatureView("facts", measured, by=("customer",), event_time="event", knowledge_time="known",
                   features=("f0", "f1", "f2", "f3", "f4"))
ROWS = FeatureSet(rows=asked, key=("row_id",), prediction_time="predict_at", views=(VIEW,),
                  label=Label("bought", bought, known_at="bought_at"))
"""
ASOF = """
import sys, duckdb
labels, facts, to = sys.argv[1:]
duckdb.sql(f\"\"\"COPY (
    SELECT l.row_id, l.predict_at, f.* EXCLUDE (customer, usable) FROM '{labels}/*.parquet' l
    ASOF LEFT JOIN (SELECT *, greatest(event, known) AS usable FROM '{facts}/*.parquet') f
    ON l.customer = f.customer AND l.predict_at >= f.usable
) TO '{to}' (FORMAT parquet)\"\"\")
"""
_WRITTEN = "the reference writes nine columns to one file (Snappy), ours seven to ten to a table (zstd)"
_CHUNK = 1_000_000
_SECONDS_OF_A_YEAR = 365 * 86_400
_ROWS_A_CUSTOMER = 100


def rows(scene: Scene) -> Iterator[Row]:
    """Rows to predict, then rows to train on, by size: these have their labels matched and checked too."""
    yield _compared(_of_size(scene, scene.rows), with_labels=False, limit=1.5)
    for count in (scene.rows // 10, scene.rows, *([5 * scene.rows] if scene.rows >= 10_000_000 else [])):
        sized = _of_size(scene, count)
        yield _compared(sized, with_labels=True, limit=1.5 if count == scene.rows else None)
        shutil.rmtree(sized.folder)


def _of_size(scene: Scene, count: int) -> Scene:
    """The scene with so many rows and facts, in a folder of their own."""
    sized = replace(scene, rows=count, folder=scene.folder / f"point-in-time-{count}")
    generated(sized.store / "tables", count)
    code = sized.folder / "code"
    code.mkdir(exist_ok=True)
    (code / "point_in_time_set.py").write_text(CODE)
    return sized


def _compared(scene: Scene, *, with_labels: bool, limit: float | None) -> Row:
    """
    :param limit: None where only the growth is asked for.
    """
    labels, facts = generated(scene.store / "tables", scene.rows)

    def theirs() -> Cost:
        return scene.python(ASOF, labels, facts, scene.folder / "asof.parquet")

    mine, others = in_turn(lambda: build(scene, with_labels), theirs, scene.repeats)
    what, size = "features with labels" if with_labels else "features to predict", f"{scene.rows / 1e6:g} M"
    return Row(
        f"{what}: {size} rows x {size} facts x 5 features, two clocks, proof",
        "DuckDB's ASOF join of the same files", "at most 1.5x the time" if limit else "linear", mine, others,
        limit=limit, note=_WRITTEN if limit else "",
    )  # fmt: skip


def build(scene: Scene, with_labels: bool) -> Cost:
    """A features step of all rows, published anew."""
    key = f"features-{'labels' if with_labels else 'no-labels'}"
    target = key.replace("-", "_")
    shutil.rmtree(scene.store / "tables" / target, ignore_errors=True)
    arguments = {
        "features": "point_in_time_set:ROWS",
        "tables": [{"name": "labels"}, {"name": "facts"}],
        "publish": {"name": target, "partition_by": None},
        "labels": with_labels,
    }
    return scene.step("features", arguments, key=key, code=scene.folder / "code")


def generated(tables: Path, rows: int) -> tuple[Path, Path]:
    """The two tables, in the order of their times; made once a size."""
    made = tables / "labels", tables / "facts"
    for path, chunk in zip(made, (_labels, _facts), strict=True):
        if path.exists():
            continue
        for first in range(0, rows, _CHUNK):
            draw = np.random.default_rng([rows, first, path == made[0]])
            frame = chunk(draw, first, min(_CHUNK, rows - first), rows)
            write_deltalake(path, frame.to_arrow(compat_level=pl.CompatLevel.oldest()), mode="append")
    return made


def _labels(draw: np.random.Generator, first: int, count: int, rows: int) -> pl.DataFrame:
    predicted = _times(draw, first, count, rows)
    return pl.DataFrame(
        {
            "row_id": np.arange(first, first + count),
            "customer": draw.integers(0, max(rows // _ROWS_A_CUSTOMER, 1), count),
            "predict_at": predicted,
            "bought": draw.random(count) < 0.3,
            "bought_at": predicted + draw.integers(60, 30 * 86_400, count) * 1_000_000,
        }
    ).with_columns(pl.col("predict_at", "bought_at").cast(pl.Datetime("us", "UTC")))


def _facts(draw: np.random.Generator, first: int, count: int, rows: int) -> pl.DataFrame:
    event = _times(draw, first, count, rows)
    # Most become known within minutes, one in ten within two days: later than newer ones.
    late = np.where(draw.random(count) < 0.1, 2 * 86_400, 600)
    frame = {
        "customer": draw.integers(0, max(rows // _ROWS_A_CUSTOMER, 1), count),
        "event": event,
        "known": event + (draw.random(count) * late).astype(np.int64) * 1_000_000,
    }
    frame |= {f"f{number}": draw.normal(size=count) for number in range(5)}
    return pl.DataFrame(frame).with_columns(pl.col("event", "known").cast(pl.Datetime("us", "UTC")))


def _times(draw: np.random.Generator, first: int, count: int, rows: int) -> np.ndarray:
    """Microseconds since 1970, over 2013, in order."""
    begin, seconds = 1_356_998_400, _SECONDS_OF_A_YEAR
    spread = first + np.sort(draw.random(count)) * count
    return (
        (begin * 1_000_000 + spread * (seconds * 1_000_000 / rows)).astype(np.int64) // 1_000_000 * 1_000_000
    )
