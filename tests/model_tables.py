"""Tables of feature rows as a features step publishes them, and user code that trains on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np
import polars as pl
from deltalake import write_deltalake

from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.steps.feature_definition import Roles

FEATURES = ("distance", "night", "weather__temp", "origin")
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

    def linear(rows: pl.DataFrame, features, label, params, seed):
        encoder = make_column_transformer(
            (SimpleImputer(), NUMBERS), (OneHotEncoder(handle_unknown="ignore"), ["origin"])
        )
        model = make_pipeline(encoder, LogisticRegression(C=params.get("C", 1.0), max_iter=500))
        return model.fit(rows.select(features).to_pandas(), rows[label].to_numpy())

    def linear_and_metrics(rows: pl.DataFrame, features, label, params, seed):
        return linear(rows, features, label, params, seed), {"own": np.float32(0.5)}

    def boosted(rows: pd.DataFrame, features, label, params, seed):
        data = lightgbm.Dataset(rows[features].astype({"origin": "category"}), rows[label])
        settings = {"objective": "binary", "seed": seed, "deterministic": True, "force_row_wise": True,
                    "feature_fraction": 0.7, "num_leaves": 7, "verbose": -1, **params}
        return lightgbm.train(settings, data, num_boost_round=20)

    def constant(rows: pl.DataFrame, features, label):
        data = lightgbm.Dataset(rows.select(NUMBERS).to_pandas(), rows[label].to_numpy())
        return lightgbm.train({"objective": "binary", "verbose": -1}, data, num_boost_round=0)
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


def publish_rows(
    store: str,
    frame: pl.DataFrame,
    *,
    table: str = "rows",
    feature_hash: str = "f00d" * 16,
    features: Sequence[str] = FEATURES,
) -> int:
    """Publish rows as a features step does; gives the table's version."""
    place = Store(store)
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
    write_deltalake(
        place.table_uri(table), marked, partition_by=["ds"], mode="overwrite", schema_mode="overwrite"
    )
    version = place.latest_version(table)
    assert version is not None
    return version
