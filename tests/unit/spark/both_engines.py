"""A shop whose features are written twice: for the single-machine engine, and for Spark."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from deltalake import write_deltalake

from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.contract.store import Store, local_path
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps.pinned_tables import open_table

START = datetime(2013, 6, 1, tzinfo=UTC)
DAYS = "2013-06-01..2013-06-04"

HERE = """
    import polars as pl
    from airflow_ml_provider import FeatureSet, FeatureView, Label

    def to_predict(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders

    def visited(visits: pl.LazyFrame) -> pl.LazyFrame:
        return visits.with_columns(long=pl.col("pages") > 3)

    def stocked(stock: pl.LazyFrame) -> pl.LazyFrame:
        return stock

    def returned(returns: pl.LazyFrame) -> pl.LazyFrame:
        return returns

    def orders_as_known(orders: pl.LazyFrame, at) -> pl.LazyFrame:
        return orders.filter(pl.col("ordered_at") <= at)

    def visits_as_known(visits: pl.LazyFrame, at) -> pl.LazyFrame:
        return visits.filter(pl.col("logged_at") <= at)
"""
ON_SPARK = """
    from pyspark.sql import DataFrame, functions as F
    from airflow_ml_provider import FeatureSet, FeatureView, Label

    def to_predict(orders: DataFrame) -> DataFrame:
        return orders

    def visited(visits: DataFrame) -> DataFrame:
        return visits.withColumn("long", F.col("pages") > 3)

    def stocked(stock: DataFrame) -> DataFrame:
        return stock

    def returned(returns: DataFrame) -> DataFrame:
        return returns

    def orders_as_known(orders: DataFrame, at) -> DataFrame:
        return orders.filter(F.col("ordered_at") <= F.lit(at))

    def visits_as_known(visits: DataFrame, at) -> DataFrame:
        return visits.filter(F.col("logged_at") <= F.lit(at))
"""
SET = """
    VISITS = FeatureView("visits", visited, by=("customer",), event_time="visited_at", knowledge_time="logged_at",
                         features=("pages", "device", "long"))
    YOUNG = FeatureView("young", visited, by=("customer",), event_time="visited_at", knowledge_time="logged_at",
                        features=("pages", "share"), max_age="9h")
    STOCK = FeatureView("stock", stocked, by=("country", "size"), event_time="counted_at",
                        knowledge_time="counted_at", features=("pieces",))
    SET = dict(rows=to_predict, key=("order_id",), prediction_time="ordered_at", views=(VISITS, YOUNG, STOCK),
               label=Label("returned", returned, known_at="returned_at", matures_after="2d"),
               row_features=("amount",), row_known_at="entered_at", keep=("country",))
    RETURNS = FeatureSet(**SET)
    REPLAYED = FeatureSet(**SET, as_known={"orders": orders_as_known, "visits": visits_as_known})
"""


@dataclass
class Engines:
    """Runs features steps on both engines over the same tables."""

    store: str
    write_code: Callable[..., str]
    run: Callable[..., StepResult]

    def __post_init__(self) -> None:
        self.code()

    def code(self, here: str = "", on_spark: str = "", both: str = "", **modules: str) -> str:
        """Write the modules ``here`` and ``there``, with more lines at their ends; gives their folder."""
        return self.write_code(
            here=HERE + here + SET + both, there=ON_SPARK + on_spark + SET + both, **modules
        )

    def put(self, name: str, frame: pl.DataFrame, partition_by: str | None = None) -> None:
        """Write a table into the store, as an ingest step would have."""
        write_deltalake(
            str(local_path(self.store) / "tables" / name),
            frame.to_arrow(compat_level=pl.CompatLevel.oldest()),
            partition_by=[partition_by] if partition_by else None,
            mode="overwrite",
            schema_mode="overwrite",
        )

    def put_all(self, seed: int, **sizes: int) -> None:
        """Random tables, with everything that a join on two clocks has to get right."""
        for name, frame in tables(seed, **sizes).items():
            self.put(name, frame, "ds" if name == "orders" else None)

    def build(self, module: str, features: str = "RETURNS", **arguments: Any) -> StepResult:
        """Run the step; ``module`` is ``here`` or ``there``, and so the engine and the table's name."""
        names = arguments.pop("tables", ("orders", "visits", "stock", "returns"))
        step = {name: arguments.pop(name) for name in ("fingerprint", "step_key") if name in arguments}
        settings = {
            "features": f"{module}:{features}",
            "tables": [{"name": name} for name in names],
            "publish": {"name": f"rows_{module}"},
            "partitions": DAYS,
            **arguments,
        }
        return self.run("features", settings, **step)

    def built(self, module: str, features: str = "RETURNS", **arguments: Any) -> StepResult:
        """Run a step that must succeed."""
        result = self.build(module, features, **arguments)
        assert result.status == "success", result.failure or result.reason
        return result

    def rows(self, module: str, key: str = "order_id") -> pl.DataFrame:
        """What was published, without what names the definition."""
        found = open_table(Store(self.store), Table(f"rows_{module}")).lazy().collect()
        return found.drop("feature_hash").sort(key)


def tables(seed: int, *, orders: int = 300, visits: int = 900) -> dict[str, pl.DataFrame]:
    """Orders, visits, stock and returns: times that coincide, entities and times that are null, facts that
    become known late, corrections, facts that contradict each other, values that are no numbers."""
    draw = random.Random(seed)

    def moment(hours: int) -> datetime:
        return START + timedelta(hours=hours)

    def maybe(value: Any, share: float = 0.05) -> Any:
        return None if draw.random() < share else value

    customers, countries = [*(f"c{number}" for number in range(12)), "ünï"], ["at", "de", "nl"]
    at = [draw.randrange(96) for _ in range(orders)]
    frames = {
        "orders": pl.DataFrame(
            {
                "order_id": draw.sample(range(10 * orders), orders),
                "customer": [maybe(draw.choice(customers)) for _ in at],
                "country": [maybe(draw.choice(countries)) for _ in at],
                "size": [maybe(draw.randrange(3)) for _ in at],
                "amount": [maybe(draw.choice([1.5, -0.0, float("nan"), 7.25])) for _ in at],
                "ordered_at": [moment(hours) for hours in at],
                "entered_at": [moment(hours - draw.randrange(3)) for hours in at],
                "ds": [moment(hours).date().isoformat() for hours in at],
            },
            schema_overrides={"size": pl.Int16, "amount": pl.Float64},
        ),
        "stock": pl.DataFrame(
            [
                {
                    "country": maybe(draw.choice(countries)),
                    "size": maybe(draw.randrange(3)),
                    "counted_at": maybe(moment(draw.randrange(-24, 96)).replace(tzinfo=None)),
                    "pieces": maybe(draw.randrange(5), 0.3),
                }
                for _ in range(visits // 3)
            ],
            schema={
                "country": pl.String,
                "size": pl.Int64,
                "counted_at": pl.Datetime("us"),
                "pieces": pl.Int32,
            },
        ),
    }
    seen = []
    for _ in range(visits):
        event = draw.randrange(-30, 96)
        seen.append(
            {
                "customer": maybe(draw.choice(customers)),
                "visited_at": maybe(moment(event)),
                "logged_at": maybe(moment(event + draw.choice([0, 0, 1, 5, 40, -2]))),
                "pages": maybe(draw.randrange(6)),
                "device": maybe(draw.choice(["phone", "desk", ""])),
                "share": draw.choice([0.25, float("nan"), None, 1.0]),
            }
        )
    times = pl.Datetime("us", "UTC")
    schema = {"customer": pl.String, "visited_at": times, "logged_at": times, "pages": pl.Int64,
              "device": pl.String, "share": pl.Float64}  # fmt: skip
    frames["visits"] = pl.DataFrame(seen, schema=schema)
    ids = frames["orders"]["order_id"].to_list()
    frames["returns"] = pl.DataFrame(
        {
            "order_id": [*ids[: orders * 9 // 10], 10**6],
            "returned": [maybe(draw.random() < 0.4) for _ in range(orders * 9 // 10 + 1)],
            "returned_at": [maybe(moment(100 + draw.randrange(200))) for _ in range(orders * 9 // 10 + 1)],
        },
        schema_overrides={"returned_at": times},
    )
    return frames
