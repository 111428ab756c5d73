"""A small shop: orders to predict, visits as facts, returns as labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl
from deltalake import write_deltalake

from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.contract.store import Store, local_path
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps.pinned_tables import PinnedTable, open_table

SHOP = """
    from __future__ import annotations

    import polars as pl

    from airflow_ml_provider import FeatureSet, FeatureView, Label


    def to_predict(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders


    def visited(visits: pl.LazyFrame) -> pl.LazyFrame:
        return visits


    def returned(returns: pl.LazyFrame) -> pl.LazyFrame:
        return returns


    VISITS = FeatureView("visits", visited, by=("customer",), event_time="visited_at",
                         knowledge_time="logged_at", features=("pages", "device"))
    SET = dict(rows=to_predict, key=("order_id",), prediction_time="ordered_at", views=(VISITS,),
               label=Label("returned", returned, known_at="returned_at"), row_features=("amount",),
               keep=("country",))
    RETURNS = FeatureSet(**SET)
"""


def put_table(store: str, name: str, frame: pl.DataFrame, partition_by: str | None = None) -> None:
    """Write a table into a store, as an ingest step would have."""
    write_deltalake(
        str(local_path(store) / "tables" / name),
        frame.to_arrow(compat_level=pl.CompatLevel.oldest()),
        partition_by=[partition_by] if partition_by else None,
        mode="overwrite",
        schema_mode="overwrite",
    )


@dataclass
class Shop:
    """Runs features steps over the shop's tables."""

    store: str
    write_code: Callable[..., str]
    run: Callable[..., StepResult]

    def code(self, extra: str = "", **modules: str) -> None:
        """Write the module ``shop``, with more lines at its end."""
        self.write_code(shop=SHOP + extra, **modules)

    def put(self, name: str, frame: pl.DataFrame, partition_by: str | None = None) -> None:
        put_table(self.store, name, frame, partition_by)

    def build(self, *, features: str = "shop:RETURNS", publish: str = "rows", **arguments: Any) -> StepResult:
        settings = {"partitions": "2013-06-01..2013-06-03", **arguments}
        step = {name: settings.pop(name) for name in ("fingerprint", "step_key") if name in settings}
        names = settings.pop("tables", ("orders", "visits", "returns"))
        target = publish if isinstance(publish, dict) else {"name": publish}
        tables = [{"name": name} for name in names]
        return self.run(
            "features", {"features": features, "tables": tables, "publish": target, **settings}, **step
        )

    def table(self, name: str = "rows") -> PinnedTable:
        return open_table(Store(self.store), Table(name))

    def rows(self, name: str = "rows") -> pl.DataFrame:
        return self.table(name).lazy().collect().sort("order_id")


def orders() -> pl.DataFrame:
    """Two orders a day over three days, by two customers."""
    frame = pl.DataFrame(
        {
            "order_id": [1, 2, 3, 4, 5, 6],
            "customer": ["ann", "bob", "ann", "bob", "ann", None],
            "amount": [10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
            "country": ["at", "de", "at", "de", "at", "de"],
            "day": [1, 1, 2, 2, 3, 3],
        }
    )
    return frame.select(
        pl.exclude("day"),
        ds=pl.date(2013, 6, "day").cast(pl.String),
        ordered_at=pl.datetime(2013, 6, "day", 12, time_zone="UTC"),
    )


def visits() -> pl.DataFrame:
    """Ann's visits of each morning, logged at 9; Bob's of 1 June, logged two days late."""
    frame = pl.DataFrame(
        {
            "customer": ["ann", "ann", "ann", "bob"],
            "pages": [1, 2, 3, 4],
            "device": ["phone", "desk", "phone", "desk"],
            "day": [1, 2, 3, 1],
            "logged": [1, 2, 3, 3],
        }
    )
    return frame.select(
        pl.exclude("day", "logged"),
        visited_at=pl.datetime(2013, 6, "day", 8, time_zone="UTC"),
        logged_at=pl.datetime(2013, 6, "logged", 9, time_zone="UTC"),
    )


def returns() -> pl.DataFrame:
    """Known on 10 June for orders 1 to 4, on 20 June for 5; nothing about 6."""
    frame = pl.DataFrame(
        {"order_id": [1, 2, 3, 4, 5], "returned": [True, False, True, False, True], "day": [10] * 4 + [20]}
    )
    return frame.select(pl.exclude("day"), returned_at=pl.datetime(2013, 6, "day", time_zone="UTC"))
