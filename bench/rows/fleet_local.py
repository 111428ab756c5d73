"""A fleet over local processes against a bare pool that does the same fits on the same rows.

224 routes of very different size, as New York's flights of a year have, times 100 parameter sets; fewer sets
when fewer rows are asked for (10 for a million). The reference keeps its rows in memory, grouped once in each
process, and writes its results to one file at the end; ours has a ledger of every item, and what was finished
outlives a kill. The second row also keeps each model in the store, checked and measured, as a training does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from deltalake import write_deltalake

from airflow_ml_provider.contract.fleets import write_items
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.steps.feature_definition import Roles
from bench.measuring import Row, in_turn
from bench.scene import Scene

FLIGHTS, ROUTES = 336_776, 224
FEATURES = tuple(f"f{number}" for number in range(8))
CODE = """
import lightgbm
import polars as pl

FEATURES = [f"f{number}" for number in range(8)]


def fitted(rows: pl.DataFrame, params, seed):
    data = lightgbm.Dataset(rows.select(FEATURES).to_numpy(), rows["late"].to_numpy(), feature_name=FEATURES)
    settings = {**params, "objective": "binary", "num_threads": 1, "verbose": -1, "seed": seed,
                "deterministic": True, "force_row_wise": True, "min_data_in_leaf": 5}
    return lightgbm.train(settings, data, num_boost_round=20)


def fit(rows: pl.DataFrame, params, seed):
    model = fitted(rows, params, seed)
    return {"trees": model.num_trees(), "gain": float(model.feature_importance("gain").sum())}


def train(rows: pl.DataFrame, params, seed):
    return fitted(rows, params, seed)
"""
POOL = '''
import itertools, json, multiprocessing, os, sys
os.environ.update(OMP_NUM_THREADS="1", POLARS_MAX_THREADS="1")

def begin(code, path):
    global rows
    sys.path.insert(0, code)
    import polars as pl
    import small_model
    frame = pl.read_parquet(path)
    rows = {route: part for (route,), part in frame.partition_by("route", as_dict=True).items()}

def one(item):
    import small_model
    params = {name: value for name, value in item.items() if name != "route"}
    return {**item, **small_model.fit(rows[item["route"]], params, 1)}

def kept(item):
    """The same, with the model in a file and its score of the rows measured."""
    import small_model
    import numpy as np
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score
    params = {name: value for name, value in item.items() if name != "route"}
    own = rows[item["route"]]
    model = small_model.fitted(own, params, 1)
    name = "-".join(map(str, item.values()))
    model.save_model(f"{sys.argv[5]}/{name}.lgb")
    scores, labels = model.predict(own.select(small_model.FEATURES).to_numpy(), num_threads=1), own["late"].to_numpy()
    return {**item, **{each.__name__: float(each(labels, scores)) for each in
            (roc_auc_score, average_precision_score, brier_score_loss, log_loss)}}

if __name__ == "__main__":
    code, path, items, out, models = sys.argv[1:6]
    work = [json.loads(line) for line in open(items)]
    with multiprocessing.Pool(len(os.sched_getaffinity(0)), begin, (code, path)) as pool:
        found = pool.map(kept if sys.argv[6] == "kept" else one, work, chunksize=20)
    import polars as pl
    pl.DataFrame(found).write_parquet(out)
'''


def rows(scene: Scene) -> Iterator[Row]:
    """One for functions, one for trainings."""
    code = scene.folder / "fleet-code"
    code.mkdir(exist_ok=True)
    (code / "small_model.py").write_text(CODE)
    pool = scene.folder / "pool.py"
    pool.write_text(POOL)
    flat = _data(scene)
    items = list(_items(scene))
    listed = scene.folder / "items.jsonl"
    listed.write_bytes(write_items(items))
    models = scene.folder / "pool-models"
    models.mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "items": items, "table": {"name": "fleet_flights"}, "items_per_index": 100,
        "parallelism": 64,
    }  # fmt: skip
    keys = iter(range(10_000))
    for what, how, more in (
        ("fleet", "plain", {"function": "small_model:fit", "publish": _results("fits")}),
        (
            "trainings",
            "kept",
            {"function": "small_model:train", "trains": True, "publish": _results("trained")},
        ),
    ):

        def ours(more: dict[str, Any] = more, what: str = what) -> Any:
            # A key of its own: nothing is known of the fleet.
            return scene.step("fleet", {**given, **more}, key=f"{what}-{next(keys)}", code=code)

        def theirs(how: str = how) -> Any:
            return scene.python(pool, code, flat, listed, scene.folder / "out.parquet", models, how)

        mine, others = in_turn(ours, theirs, scene.repeats)
        yield Row(
            f"{what}: {ROUTES} routes x {len(items) // ROUTES} parameter sets",
            "multiprocessing.Pool, same fits" + (", models saved and scored" if how == "kept" else ""),
            ">= 0.85x speed",
            mine,
            others,
            as_speed=True,
            limit=0.85,
            note="per-item ledger and table of results included",
        )


def _data(scene: Scene) -> Path:
    """The rows, as a Delta table of feature rows and as one Parquet file."""
    flat = scene.folder / "fleet-flights.parquet"
    if flat.exists():
        return flat
    random = np.random.default_rng(20)
    share = 1 / np.arange(1, ROUTES + 1) ** 0.8
    # As in New York: the largest route has some ten thousand flights. Each has enough for both labels.
    route = np.concatenate(
        [
            np.repeat(np.arange(ROUTES), 40),
            random.choice(ROUTES, FLIGHTS - 40 * ROUTES, p=share / share.sum()),
        ]
    )
    values = random.normal(size=(FLIGHTS, len(FEATURES)))
    odds = values[:, 0] + values[:, 1] * (route % 7 - 3) / 3 - 1
    day = random.integers(0, 28, FLIGHTS)
    frame = pl.DataFrame(
        {
            "flight_id": np.arange(FLIGHTS),
            "ds": [f"2013-01-{each + 1:02}" for each in day],
            "route": [f"R{each:03}" for each in route],
            **{name: values[:, number] for number, name in enumerate(FEATURES)},
            "late": (random.random(FLIGHTS) < 1 / (1 + np.exp(-odds))).astype(np.int64),
        }
    ).with_columns(
        predict_at=pl.col("ds").str.to_datetime("%Y-%m-%d", time_unit="us", time_zone="UTC"),
        feature_hash=pl.lit("f00d" * 16),
    )
    place = Store(scene.store.as_uri())
    Roles(
        feature_hash="f00d" * 16, key=("flight_id",), prediction_time="predict_at", features=FEATURES,
        entry_point="bench:rows", partition_by="ds", label="late", keep=("route",),
    ).write(place, "fleet_flights")  # fmt: skip
    write_deltalake(place.table_uri("fleet_flights"), frame, partition_by=["ds"], mode="overwrite")
    frame.write_parquet(flat)
    return flat


def _items(scene: Scene) -> Iterator[dict[str, Any]]:
    """The routes times the parameter sets, those of a route together, as a table of them would have them."""
    sets = max(1, min(100, round(scene.rows / 100_000)))
    grid = list(product(np.linspace(0.02, 0.3, 10).round(3).tolist(), range(4, 14)))[:sets]
    for route in range(ROUTES):
        for rate, leaves in grid:
            yield {"route": f"R{route:03}", "learning_rate": rate, "num_leaves": leaves}


def _results(name: str) -> dict[str, Any]:
    return {"name": name, "partition_by": None}


if __name__ == "__main__":
    sys.exit("python -m bench --only fleet_local")
