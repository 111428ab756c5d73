"""The shape that users of feature stores find too slow: 17,000 rows, ten views, a thousand features."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from deltalake import write_deltalake

from bench.measuring import Cost, Row
from bench.scene import Scene

ROWS, VIEWS, FEATURES, FACTS_A_ROW = 17_000, 10, 100, 10
CODE = """
from __future__ import annotations

import polars as pl

from airflow_ml_provider import FeatureSet, FeatureView


def asked(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows

{functions}

def view(number, function):
    features = tuple(f"f{{each}}" for each in range({features}))
    return FeatureView(f"view_{{number}}", function, by=("customer",), event_time="event",
                       knowledge_time="known", features=features, max_age="52w")


WIDE = FeatureSet(rows=asked, key=("row_id",), prediction_time="predict_at",
                  views=tuple(view(number, globals()[f"facts_{{number}}"]) for number in range({views})))
"""
FUNCTION = """
def facts_{number}(view_{number}: pl.LazyFrame) -> pl.LazyFrame:
    return view_{number}
"""


def rows(scene: Scene) -> Iterator[Row]:
    """What ours takes; there is nothing to compare with."""
    scene = replace(scene, folder=scene.folder / "wide-features")
    tables = generated(scene)
    code = scene.folder / "code"
    code.mkdir(exist_ok=True)
    functions = "\n".join(FUNCTION.format(number=number) for number in range(VIEWS))
    (code / "wide_set.py").write_text(CODE.format(functions=functions, features=FEATURES, views=VIEWS))

    def ours() -> Cost:
        shutil.rmtree(scene.store / "tables" / "wide", ignore_errors=True)
        arguments = {
            "features": "wide_set:WIDE",
            "tables": [{"name": name} for name in tables],
            "publish": {"name": "wide", "partition_by": None},
            "labels": False,
        }
        return scene.step("features", arguments, key="wide", code=code)

    facts = ROWS * FACTS_A_ROW
    yield Row(
        f"features: {ROWS:,} rows, {VIEWS} views of {facts:,} facts, {VIEWS * FEATURES:,} features",
        "", "seconds, under 4 GiB", [ours() for _ in range(scene.repeats)],
    )  # fmt: skip


def generated(scene: Scene) -> list[str]:
    """The tables' names; made once."""
    tables = scene.store / "tables"
    names = ["rows", *(f"view_{number}" for number in range(VIEWS))]
    for number, name in enumerate(names):
        if not (tables / name).exists():
            _write(tables / name, number)
    return names


def _write(path: Path, number: int) -> None:
    draw = np.random.default_rng(number)
    count = ROWS if number == 0 else ROWS * FACTS_A_ROW
    time = 1_356_998_400_000_000 + draw.integers(0, 365 * 86_400, count) * 1_000_000
    customer = draw.integers(0, ROWS, count)
    if number == 0:
        columns: dict[str, Any] = {"row_id": np.arange(count), "customer": customer, "predict_at": time}
    else:
        late = draw.integers(0, 86_400, count) * 1_000_000
        columns = {"customer": customer, "event": time, "known": time + late}
        columns |= {f"f{each}": draw.normal(size=count) for each in range(FEATURES)}
    moments = [name for name in ("predict_at", "event", "known") if name in columns]
    frame = pl.DataFrame(columns).with_columns(pl.col(moments).cast(pl.Datetime("us", "UTC")))
    write_deltalake(path, frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
