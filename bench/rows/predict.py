"""Predict, LightGBM and scikit-learn, against a bare loop and against ``mlflow models predict``.

The bare loop loads the same model with its own library, reads batches of the same Parquet files, predicts,
and writes keys and scores as Parquet. Ours finds the version in a real MLflow, verifies the model's digest and
the feature hash of the rows, checks each score, keeps with each row which model scored it and why, and
publishes in one commit. The rows have twenty features and a key, in ten days; the models are small.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from deltalake import DeltaTable, write_deltalake

from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.steps.feature_definition import Roles
from bench.measuring import Cost, Row, in_turn
from bench.scene import Scene

FEATURES = [f"f{number:02}" for number in range(20)]
HASH = "be5c" * 16
DAYS = 10
TRAINED_ON = 50_000
# MLflow holds all rows at once, half a GiB a million: more than twice as many would not fit into 24 GiB.
MLFLOW_ROWS = 20_000_000
CODE = """
import lightgbm
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

def boosted(rows: pl.DataFrame, features, label, seed):
    data = lightgbm.Dataset(rows.select(features).to_numpy(), rows[label].to_numpy(), feature_name=list(features))
    return lightgbm.train({"objective": "binary", "num_leaves": 31, "seed": seed, "verbose": -1}, data, 50)

def linear(rows: pl.DataFrame, features, label, seed):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    return model.fit(rows.select(features).to_numpy(), rows[label].to_numpy())
"""
BARE = """
import glob, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
kind, model, source, target = sys.argv[1:]
features = [f"f{number:02}" for number in range(20)]
if kind == "boosted":
    import lightgbm
    booster = lightgbm.Booster(model_file=f"{model}/model.lgb")
    predict = booster.predict
else:
    import skops.io
    pipeline = skops.io.load(f"{model}/model.skops", trusted=[])
    predict = lambda x: pipeline.predict_proba(x)[:, 1]
writer = None
for path in sorted(glob.glob(f"{source}/**/*.parquet", recursive=True)):
    for batch in pq.ParquetFile(path).iter_batches(100_000, columns=["row_id", *features]):
        x = np.column_stack([batch.column(name).to_numpy() for name in features])
        out = pa.table({"row_id": batch.column("row_id"), "score": predict(x)})
        writer = writer or pq.ParquetWriter(target, out.schema, compression="zstd", compression_level=1)
        writer.write_table(out)
writer.close()
"""


def rows(scene: Scene) -> Iterator[Row]:
    """Speed against both references, then time and memory by size."""
    place = scene.folder / "predict"
    place.mkdir(exist_ok=True)
    (place / "bench_models.py").write_text(CODE)
    with mlflow_server(place) as uri:
        for kind in ("boosted", "linear"):
            train(scene, kind, uri)
        yield from _compared(scene, uri)
        for count in (
            scene.rows // 10,
            scene.rows,
            *([5 * scene.rows, 10 * scene.rows] if _large(scene) else []),
        ):
            generated(scene, count)
            yield Row(
                f"predict {count:,} rows x 20 features, LightGBM", "", "flat peak",
                [predicted(scene, "boosted", count, uri)],
            )  # fmt: skip
            if count > scene.rows:
                shutil.rmtree(scene.store / "tables" / _table(count))


def _compared(scene: Scene, uri: str) -> Iterator[Row]:
    names = {"boosted": "LightGBM", "linear": "scikit-learn"}
    for kind, name in names.items():
        source, model = generated(scene, scene.rows), folder_of(scene, kind)
        ours, theirs = in_turn(
            partial(predicted, scene, kind, scene.rows, uri),
            partial(scene.python, BARE, kind, model, source, scene.folder / "bare.parquet"),
            scene.repeats,
        )
        yield Row(
            f"predict {scene.rows:,} rows x 20 features, {name}",
            "bare loop: read Parquet batch, predict, write Parquet",
            ">= 0.9x speed", ours, theirs, as_speed=True, limit=0.9,
        )  # fmt: skip
    few = min(scene.rows, MLFLOW_ROWS)
    for kind, name in names.items():
        generated(scene, few)
        ours, theirs = in_turn(
            partial(predicted, scene, kind, few, uri),
            partial(by_mlflow, scene, kind, few),
            scene.repeats,
        )
        yield Row(
            f"predict {few:,} rows x 20 features, {name}",
            "mlflow models predict of a CSV file, all rows in one frame, to JSON",
            ">= 3x speed", ours, theirs, as_speed=True, limit=3,
            note="ours from a Delta table to a Delta table; both start a process and load the model",
        )  # fmt: skip


def generated(scene: Scene, count: int) -> Path:
    """Feature rows as a features step publishes them, day by day; gives their folder."""
    store, name = Store(scene.store.as_uri()), _table(count)
    folder = scene.store / "tables" / name
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        roles = Roles(HASH, ("row_id",), "predict_at", tuple(FEATURES), "bench:rows", "ds", "late")
        roles.write(store, name)
        for day in range(DAYS):
            first, last = count * day // DAYS, count * (day + 1) // DAYS
            for start in range(first, last, 1_000_000):
                part = feature_rows(start, min(last, start + 1_000_000), day)
                write_deltalake(str(folder), part, partition_by=["ds"], mode="append")
        (folder / "complete").touch()
    return folder


def feature_rows(first: int, last: int, day: int, *, labels: bool = False) -> pl.DataFrame:
    """Rows of some numbers, of one day."""
    random = np.random.default_rng(first)
    n = last - first
    values = random.integers(0, 1000, (len(FEATURES), n)) / 1000
    frame = pl.DataFrame(dict(zip(FEATURES, values, strict=True))).with_columns(
        row_id=pl.Series(np.arange(first, last)),
        predict_at=pl.lit(f"2013-06-{day + 1:02}").str.to_datetime(time_unit="us", time_zone="UTC"),
        ds=pl.lit(f"2013-06-{day + 1:02}"),
        feature_hash=pl.lit(HASH),
    )
    if not labels:
        return frame
    late = random.random(n) < 1 / (1 + np.exp(3 - 3 * (values[0] + values[1])))
    return frame.with_columns(late=pl.Series(late).cast(pl.Int64), label_known_at=pl.col("predict_at"))


def train(scene: Scene, kind: str, uri: str) -> None:
    """A version of the model, by the train step."""
    table = scene.store / "tables" / "bench_training"
    if not table.exists():
        roles = Roles(HASH, ("row_id",), "predict_at", tuple(FEATURES), "bench:rows", "ds", "late")
        roles.write(Store(scene.store.as_uri()), "bench_training")
        write_deltalake(str(table), feature_rows(0, TRAINED_ON, 0, labels=True), partition_by=["ds"])
    arguments: dict[str, Any] = {
        "function": f"bench_models:{kind}",
        "table": {"name": "bench_training"},
        "model": {"name": f"bench_{kind}"},
    }
    scene.step("train", arguments, key=f"bench-train-{kind}", code=scene.folder / "predict", tracking=uri)


def predicted(scene: Scene, kind: str, count: int, uri: str) -> Cost:
    """One run of the step into a table that does not exist yet."""
    name = f"scores_{kind}"
    shutil.rmtree(scene.store / "tables" / name, ignore_errors=True)
    arguments = {
        "model": {"name": f"bench_{kind}", "version": 1},
        "table": {"name": _table(count)},
        "publish": {"name": name, "partition_by": "ds"},
    }
    return scene.step("predict", arguments, key=f"bench-predict-{kind}", tracking=uri)


def by_mlflow(scene: Scene, kind: str, count: int) -> Cost:
    """One run of MLflow's own command over the same rows."""
    source = scene.folder / "predict" / f"rows-{count}.csv"
    if not source.exists():
        pl.scan_delta(DeltaTable(str(generated(scene, count)))).select(FEATURES).sink_csv(source)
    command = (
        "import sys; from mlflow.cli import cli; sys.argv = ['mlflow', 'models', 'predict', '-m', sys.argv[1], '-i', "
        "sys.argv[2], '-t', 'csv', '-o', sys.argv[3], '--env-manager', 'local']; cli()"
    )
    return scene.python(command, folder_of(scene, kind), source, scene.folder / "predict" / "mlflow.json")


def folder_of(scene: Scene, kind: str) -> Path:
    """The model as MLflow keeps it."""
    file = "model.lgb" if kind == "boosted" else "model.skops"
    return next((scene.folder / "predict" / "artifacts").rglob(file)).parent


@contextmanager
def mlflow_server(folder: Path, *, keep: bool = False) -> Iterator[str]:
    """A real MLflow server; gives its address.

    :param keep: with what an earlier one in this folder had; otherwise with nothing in it.
    """
    if not keep:
        shutil.rmtree(folder / "artifacts", ignore_errors=True)
        (folder / "mlflow.db").unlink(missing_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(f"{address}/health", process)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{url} did not come up")


def _table(count: int) -> str:
    return f"bench_rows_{count}"


def _large(scene: Scene) -> bool:
    return scene.rows >= 10_000_000
