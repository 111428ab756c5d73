"""Drift of twenty columns and the score by day, against one pass of Polars that computes the histograms.

The reference counts the same columns of the same two tables into the same bins, for all days together, and
does nothing else. Our step counts by day, reads which model made the predictions, fetches the reference
profiles from MLflow, compares, and writes a verdict and a report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import polars as pl
from deltalake import write_deltalake

from bench.measuring import Cost, Row, in_turn
from bench.rows.predict import mlflow_server
from bench.scene import Scene

DAYS, NUMBERS, TEXTS = 10, 15, 5
_PART = 500_000
_HASH = "f" * 64
REFERENCE = """
import json, sys
import polars as pl
from deltalake import DeltaTable
profile = json.load(open(sys.argv[1]))["columns"]
def histograms(columns):
    for name in columns:
        column = pl.col(name)
        edges = profile[name].get("edges")
        yield (column.value_counts() if edges is None else column.hist(bins=edges)).implode().alias(name)
for table, columns in ((sys.argv[2], [name for name in profile if name != "score"]), (sys.argv[3], ["score"])):
    pl.scan_delta(DeltaTable(table)).select(histograms(columns)).collect(engine="streaming")
"""


def _part(start: int, count: int, rows: int) -> pl.DataFrame:
    random = np.random.default_rng(start)
    numbers = np.arange(start, start + count)
    texts = pl.Series([f"c{number:02}" for number in range(30)])
    columns: dict[str, object] = {
        f"x{number}": random.normal(number, 1 + number, count)
        if number < 10
        else random.integers(0, 90 * number, count)
        for number in range(NUMBERS)
    }
    columns |= {f"s{number}": texts[random.integers(0, 30, count)] for number in range(TEXTS)}
    columns |= {"score": random.random(count), "key": numbers}
    columns["ds"] = pl.Series([f"2013-06-{day:02}" for day in range(1, DAYS + 1)])[numbers * DAYS // rows]
    return pl.DataFrame(columns).with_columns(feature_hash=pl.lit(_HASH))


def _world(scene: Scene, rows: int, run_id: str) -> dict[str, str]:
    """Feature rows and predictions, made once; gives the names of the tables."""
    names = {"rows": f"monitored_{rows}", "predictions": f"predicted_{rows}"}
    places = {role: scene.store / "tables" / name for role, name in names.items()}
    if (places["predictions"] / "_delta_log").exists():
        return names
    for start in range(0, rows, _PART):
        part = _part(start, min(_PART, rows - start), rows)
        made = part.select(
            "key", "ds", "score", "feature_hash", model_name=pl.lit("model"),
            model_version=pl.lit(1, pl.Int64), model_run_id=pl.lit(run_id),
        )  # fmt: skip
        for role, frame in (("rows", part.drop("score")), ("predictions", made)):
            write_deltalake(places[role], frame.to_arrow(), mode="append", partition_by=["ds"])
    roles = {
        "feature_hash": _HASH, "key": ["key"], "prediction_time": "ds", "partition_by": "ds",
        "features": [name for name in part.columns if name[0] in "xs" and name != "score"],
        "label": None, "keep": [], "entry_point": "none:NONE",
    }  # fmt: skip
    (places["rows"] / "_ml").mkdir()
    (places["rows"] / "_ml" / f"features-{_HASH}.json").write_text(json.dumps(roles))
    return names


def _trained(scene: Scene, uri: str) -> str:
    """A training run with its reference profile in MLflow, made once."""
    from mlflow import MlflowClient

    from airflow_ml_provider.steps.profiles import build_profile

    known = scene.folder / "monitor" / "mlflow-run"
    if not known.exists():
        client = MlflowClient(uri)
        run = client.create_run(client.create_experiment("training"))
        client.create_experiment("bench")
        columns = [*(f"x{n}" for n in range(NUMBERS)), *(f"s{n}" for n in range(TEXTS)), "score"]
        frame = pl.concat(
            _part(10**9 + n, 20_000, 2 * 10**9).with_columns(ds=pl.lit(f"{n}")) for n in range(25)
        )
        profile = build_profile(frame.lazy(), columns, by="ds")
        client.log_dict(run.info.run_id, dict(profile), "reference_profile.json")
        (scene.folder / "reference_profile.json").write_text(json.dumps(profile))
        known.write_text(run.info.run_id)
    return known.read_text()


def rows(scene: Scene) -> Iterator[Row]:
    """Time against the reference; what more rows cost, without one."""
    folder = scene.folder / "monitor"
    folder.mkdir(exist_ok=True)
    with mlflow_server(folder, keep=True) as uri:
        yield from _rows(scene, uri, _trained(scene, uri))


def _rows(scene: Scene, uri: str, run_id: str) -> Iterator[Row]:
    def ours(size: int) -> Cost:
        names = _world(scene, size, run_id)
        tables = {role: {"name": name} for role, name in names.items()}
        return scene.step("monitor", {**tables, "model": "model"}, key=f"monitor_{size}", tracking=uri)

    def theirs() -> Cost:
        names = _world(scene, scene.rows, run_id)
        places = [scene.store / "tables" / names[role] for role in ("rows", "predictions")]
        return scene.python(REFERENCE, scene.folder / "reference_profile.json", *places)

    _world(scene, scene.rows, run_id)
    mine, others = in_turn(lambda: ours(scene.rows), theirs, scene.repeats)
    columns = NUMBERS + TEXTS
    yield Row(
        f"monitor, {columns} columns and the score x {scene.rows:,} rows, all statistics by day",
        "one pass of Polars for the histograms",
        "at most 1.5x",
        mine,
        others,
        limit=1.5,
        note="ours with the start of the step and all that it tells an MLflow server",
    )
    for times in (0.1, 5):
        size = int(scene.rows * times)
        _world(scene, size, run_id)
        yield Row(f"monitor, {columns} columns x {size:,} rows", "", "linear", [ours(size)])
