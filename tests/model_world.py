"""A store with feature rows, a real MLflow, user code that trains on the rows, and steps run on them."""

from __future__ import annotations

import multiprocessing
import signal
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
from deltalake import DeltaTable, write_deltalake
from fatal_proxy import FatalProxy, Moment

from airflow_ml_provider.contract.documents import Code, RunOf, StepResult, StepSpec, Tracking, read_spec
from airflow_ml_provider.contract.store import Store, local_path
from airflow_ml_provider.steps.feature_definition import Roles

FEATURES = ("distance", "night", "weather__temp", "origin")
FEATURE_HASH = "f00d" * 16
FIRST_DAY = date(2013, 1, 1)

MODELS = """
    import lightgbm
    import numpy as np
    import pandas as pd
    import polars as pl
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    NUMBERS = ["distance", "night", "weather__temp"]
    CALLS = []

    def linear(rows: pl.DataFrame, features, label, params, seed):
        CALLS.append(seed)
        encoder = make_column_transformer(
            (SimpleImputer(), NUMBERS), (OneHotEncoder(handle_unknown="ignore"), ["origin"])
        )
        model = make_pipeline(encoder, LogisticRegression(C=params.get("C", 1.0), max_iter=500))
        return model.fit(rows.select(features).to_pandas(), rows[label].to_numpy())

    def boosted(rows: pd.DataFrame, features, label, params, seed):
        data = lightgbm.Dataset(rows[features].astype({"origin": "category"}), rows[label])
        settings = {"objective": "binary", "seed": seed, "deterministic": True, "force_row_wise": True,
                    "feature_fraction": 0.7, "num_leaves": 7, "verbose": -1, **params}
        return lightgbm.train(settings, data, num_boost_round=20)

    def guess(rows: pl.DataFrame, label):
        '''No better than chance: it has seen one feature that says nothing.'''
        data = lightgbm.Dataset(rows.select(pl.col("weather__temp") * 0).to_numpy(), rows[label].to_numpy(),
                                feature_name=["weather__temp"])
        return lightgbm.train({"objective": "binary", "verbose": -1}, data, num_boost_round=1)
"""


def feature_rows(
    days: int = 4, rows_a_day: int = 200, *, seed: int = 0, labels: bool = True, first: date = FIRST_DAY
) -> pl.DataFrame:
    """Flights that are late by distance, night and temperature; some temperatures and labels are missing."""
    random = np.random.default_rng(seed)
    n = days * rows_a_day
    distance, temp = random.gamma(4, 250, n), random.normal(12, 8, n)
    night, origin = random.random(n) < 0.3, random.choice(["EWR", "JFK", "LGA"], n)
    odds = (distance - 1000) / 400 + night + (temp < 5) + (origin == "LGA")
    late = random.random(n) < 1 / (1 + np.exp(-odds))
    ds = [(first + timedelta(days=int(day))).isoformat() for day in np.repeat(np.arange(days), rows_a_day)]
    frame = pl.DataFrame(
        {
            "flight_id": random.permutation(n),
            "ds": ds,
            "predict_at": pl.Series(ds).str.to_datetime("%Y-%m-%d", time_unit="us", time_zone="UTC"),
            "distance": distance,
            "night": night,
            "weather__temp": pl.Series(temp).set(pl.Series(random.random(n) < 0.02), None),
            "origin": origin,
            "carrier": random.choice(["AA", "B6", "UA"], n),
        }
    )
    if not labels:
        return frame
    return frame.with_columns(
        late=pl.Series(late, dtype=pl.Int64).set(pl.Series(random.random(n) < 0.03), None),
        label_known_at=pl.col("predict_at") + pl.duration(hours=5),
    )


@dataclass
class World:
    """Where steps are run, as their own process would run them.

    :param store: URI of the store.
    :param mlflow: address of the tracking server.
    :param code: folder of the user's modules.
    """

    store: str
    mlflow: str
    code: Path

    @classmethod
    def at(cls, folder: Path, mlflow_uri: str) -> World:
        """A world with the module ``delay_models``; the models' rows are to be published."""
        world = cls((folder / "store").as_uri(), mlflow_uri, folder / "code")
        world.code.mkdir()
        world.write("delay_models", MODELS)
        return world

    @property
    def client(self) -> mlflow.MlflowClient:
        mlflow.set_tracking_uri(self.mlflow)
        return mlflow.MlflowClient(self.mlflow, self.mlflow)

    def write(self, module: str, text: str) -> None:
        """A module of the user's; its name must be new, since Python imports a module once."""
        (self.code / f"{module}.py").write_text(textwrap.dedent(text))

    def publish(
        self,
        frame: pl.DataFrame,
        *,
        table: str = "rows",
        feature_hash: str = FEATURE_HASH,
        features: Sequence[str] = FEATURES,
    ) -> int:
        """Publish rows as a features step does; gives the table's version."""
        place = Store(self.store)
        Roles(
            feature_hash=feature_hash,
            key=("flight_id",),
            prediction_time="predict_at",
            features=tuple(features),
            entry_point="flights.features:LATE_ARRIVAL",
            partition_by="ds",
            label="late",
            keep=("carrier",),
        ).write(place, table)
        marked = frame.with_columns(feature_hash=pl.lit(feature_hash))
        uri = place.table_uri(table)
        write_deltalake(uri, marked, partition_by=["ds"], mode="overwrite", schema_mode="overwrite")
        return DeltaTable(uri).version()

    def table(self, name: str, version: int | None = None) -> pl.DataFrame:
        """A published table."""
        return pl.scan_delta(DeltaTable(Store(self.store).table_uri(name), version=version)).collect()

    def spec(self, verb: str, arguments: dict[str, Any], **fields: Any) -> StepSpec:
        """A spec as an operator writes it."""
        return StepSpec(
            verb=verb,
            store=self.store,
            arguments=arguments,
            code=Code(roots=(str(self.code),), digest="c0de" * 16, commit="abc123"),
            tracking=Tracking(uri=fields.pop("mlflow", self.mlflow), experiment="tests"),
            run=RunOf(dag_id="a_dag", task_id=verb, run_id="a_run", triggered_by="ada"),
            **fields,
        )

    def run(self, verb: str, arguments: dict[str, Any], **fields: Any) -> StepResult:
        """Run a step here; gives its result, failures included."""
        from airflow_ml_provider.steps.runner import run_step

        return run_step(read_spec(self.spec(verb, arguments, **fields).encode(), source="the test"))

    def done(self, verb: str, arguments: dict[str, Any], **fields: Any) -> StepResult:
        """Run a step that must succeed."""
        result = self.run(verb, arguments, **fields)
        assert result.status == "success", result.failure
        return result

    def train(self, model: str, function: str = "linear", partitions: str = "", **fields: Any) -> StepResult:
        """Train a version on the table ``rows``."""
        arguments = {
            "function": function if ":" in function else f"delay_models:{function}",
            "table": {"name": "rows"},
            "model": {"name": model},
            "partitions": partitions,
            **fields.pop("arguments", {}),
        }
        return self.done("train", arguments, **fields)

    def folder_of(self, key: str) -> Path:
        """What a step kept."""
        return local_path(Store(self.store).run_uri(key))


def start(spec: StepSpec, folder: Path) -> BaseProcess:
    """Start a step in a process of its own that may be killed.

    It is forked from a server that has imported the heavy libraries once.
    """
    from airflow_ml_provider.steps import __main__ as steps

    path = folder / "spec.json"
    path.write_bytes(spec.encode())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["airflow_ml_provider.steps.train", "airflow_ml_provider.steps.predict", "lightgbm",
         "mlflow.lightgbm", "mlflow.sklearn", "skops.io", "sklearn.pipeline"]
    )  # fmt: skip
    process = context.Process(target=steps.run, args=(str(path),))
    process.start()
    return process


def kill_at(proxy: FatalProxy, moment: tuple[str, str, Moment], spec: StepSpec, folder: Path) -> bool:
    """Start a step that is killed at a moment; whether it came that far."""
    victim = proxy.expect(*moment)
    process = start(spec, folder)
    victim.set_result(process.pid or 0)
    process.join()
    return process.exitcode == -signal.SIGKILL
