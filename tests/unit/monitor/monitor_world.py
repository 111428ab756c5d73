"""Tables and a model as the steps before monitor leave them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from deltalake import DeltaTable, write_deltalake

from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.ledger import Entry, Ledger
from airflow_ml_provider.steps.profiles import build_profile

HASH = "f" * 64
FIRST_DAY = datetime(2013, 6, 1, tzinfo=UTC)
LABELS = """
    import polars as pl
    from airflow_ml_provider.contract.features import FeatureSet, Label

    def rows(flights: pl.LazyFrame) -> pl.LazyFrame:
        return flights

    def late(flights: pl.LazyFrame) -> pl.LazyFrame:
        return flights.select("flight_id", "late", "landed_at")

    FEATURES = {"rows": rows, "key": ("flight_id",), "prediction_time": "predict_at",
                "row_features": ("distance", "delay", "carrier")}
    SET = FeatureSet(**FEATURES, label=Label("late", late, known_at="landed_at"))
    NO_LABEL = FeatureSet(**FEATURES)
"""

PUBLISH = {"publish": {"name": "monitoring"}}
TABLES = {"tables": [{"name": "flights"}]}


def flights(day: int, rows: int = 400, moved: float = 0.0) -> pl.DataFrame:
    """A day of flights: ``moved`` shifts delays and scores and brings a new carrier."""
    rng = np.random.default_rng([day + 100, rows])
    ds = FIRST_DAY + timedelta(days=day)
    weather = rng.normal()
    delay = rng.normal(size=rows) + weather + 6 * moved
    score = 1 / (1 + np.exp(1 - 0.5 * delay))
    late = (rng.random(rows) < score).astype(int)
    return pl.DataFrame({
        "flight_id": [f"{day}-{n}" for n in range(rows)],
        "ds": f"{ds:%Y-%m-%d}",
        "predict_at": [ds] * rows,
        "distance": rng.integers(100, 3000, rows),
        "delay": delay,
        "carrier": np.where(rng.random(rows) < moved, "new", rng.choice(["AA", "UA"], rows)),
        "score": score,
        # Every tenth flight is cancelled; every fifth lands a day later.
        "late": [None if n % 10 == 0 else int(late[n]) for n in range(rows)],
        "landed_at": [
            None if n % 10 == 0 else ds + timedelta(hours=36 if n % 5 == 1 else 6) for n in range(rows)
        ],
    })  # fmt: skip


@cache
def profile_of_may(by: str | None, moved: float = 0.0) -> dict[str, Any]:
    """The profile of forty days before June."""
    frame = pl.concat([flights(-n, moved=moved) for n in range(1, 41)]).lazy()
    return dict(build_profile(frame, ["distance", "delay", "carrier", "score"], by=by))


class World:
    """Tables and a model as the steps before monitor leave them."""

    def __init__(self, store: str, mlflow_uri: str) -> None:
        import mlflow

        self.store, self.client = Store(store), mlflow.MlflowClient(mlflow_uri, mlflow_uri)
        experiment = self.client.get_experiment_by_name("training")
        self.experiment = (
            experiment.experiment_id if experiment else self.client.create_experiment("training")
        )
        self.run_id = self.train()

    def train(self, *, by: str | None = "ds", score: bool = True, reference: bool = True) -> str:
        """A training run with its profiles."""
        run_id = str(self.client.create_run(self.experiment).info.run_id)
        if reference:
            self.client.log_dict(run_id, profile_of_may(by), "reference_profile.json")
        if score:
            alone = {**profile_of_may(by), "columns": {"score": profile_of_may(by)["columns"]["score"]}}
            self.client.log_dict(run_id, alone, "score_profile.json")
        return run_id

    def publish(
        self,
        *days: pl.DataFrame,
        version: int = 3,
        run_id: str = "",
        feature_hash: str = HASH,
        model: str = "flight_delays",
        landed: bool = True,
    ) -> None:
        """Feature rows, predictions and flights of some days."""
        every = pl.concat(days).with_columns(feature_hash=pl.lit(feature_hash))
        made = every.select(
            "flight_id", "ds", "predict_at", "score", "feature_hash",
            model_name=pl.lit(model), model_version=pl.lit(version, pl.Int64),
            model_run_id=pl.lit(run_id or self.run_id), predicted_at=pl.lit(FIRST_DAY),
        )  # fmt: skip
        rows = every.select("flight_id", "ds", "predict_at", "distance", "delay", "carrier", "feature_hash")
        self.write("predictions", made)
        self.write("rows", rows)
        if landed:
            self.write("flights", every.select("flight_id", "ds", "late", "landed_at"))
        roles = {
            "feature_hash": feature_hash, "key": ["flight_id"], "prediction_time": "predict_at",
            "partition_by": "ds", "features": ["distance", "delay", "carrier"], "label": None, "keep": [],
            "entry_point": "labels:SET",
        }  # fmt: skip
        self.store.write_json(f"tables/rows/_ml/features-{feature_hash}.json", roles)

    def write(self, table: str, frame: pl.DataFrame) -> None:
        """Add rows to a table that is partitioned by day."""
        write_deltalake(self.store.table_uri(table), frame.to_arrow(), mode="append", partition_by=["ds"])

    def found(self) -> pl.DataFrame:
        """What the monitor step published."""
        return pl.read_delta(DeltaTable(self.store.table_uri("monitoring"))).sort("ds", "is_score", "column")

    def land(self, day: pl.DataFrame, by: datetime | None = None) -> None:
        """Replace a day's flights by those that had landed by a moment; by all that ever did."""
        known = day.select("flight_id", "ds", "late", "landed_at")
        known = known.filter(pl.col("landed_at") <= by) if by else known
        write_deltalake(
            self.store.table_uri("flights"), known.to_arrow(), mode="overwrite",
            predicate=f"ds = '{day['ds'][0]}'", partition_by=["ds"],
        )  # fmt: skip

    def evaluated(self, roc_auc: float, *, version: int = 3) -> None:
        """A promotion of the model, by a verdict."""
        verdict = {"metrics": {"roc_auc": {"value": roc_auc}}}
        uri = self.store.write_json("runs/promote/verdict.json", verdict)
        Ledger(self.store, "flight_delays").append(
            Entry(
                sequence=1, model="flight_delays", alias="champion", version=version, previous=None,
                at="2013-05-01T06:00:00+00:00", by="ada", reason="better", verdict="d", verdict_uri=uri,
                step_key="promote",
            )
        )  # fmt: skip

    def register(self, name: str, *, trained_on: str, rows: int) -> int:
        """The model's run as a version in the registry, as a train step leaves it."""
        self.client.log_metric(self.run_id, "train_rows", rows)
        self.client.create_registered_model(name)
        tags = {"airflow_ml.partitions": trained_on, "airflow_ml.tables": "training@0"}
        tags = {tag: value for tag, value in tags.items() if value}
        source = f"{self.client.get_run(self.run_id).info.artifact_uri}/model"
        return int(self.client.create_model_version(name, source, self.run_id, tags=tags).version)


def said(result: StepResult) -> str:
    assert result.failure is not None
    return result.failure.message
