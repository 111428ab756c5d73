"""The features step as a whole, over the shop's tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from shop_tables import Shop, orders, returns, visits

from airflow_ml_provider.contract.documents import Code, StepResult, StepSpec, read_spec
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.contract.store import local_path
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.feature_rows import FeatureRows


def open_rows(shop: Shop, partitions: str = "", table: str = "rows") -> FeatureRows:
    step = StepContext(
        read_spec(StepSpec("train", shop.store, trainable(table)).encode(), source="the test"), Path("unused")
    )
    return FeatureRows.open(step, shop.table(table), parse_partitions(partitions) if partitions else None)


def trainable(table: str) -> dict[str, object]:
    return {"function": "a:b", "table": {"name": table}, "model": {"name": "m"}}


def succeeded(result: StepResult) -> StepResult:
    assert result.failure is None, result.failure
    assert result.status == "success", result.reason
    return result


def test_rows_hold_their_features_as_they_were_known_and_their_label(shop: Shop) -> None:
    result = succeeded(shop.build())
    rows = shop.rows()
    assert rows.columns[:-1] == [
        *("order_id", "ordered_at", "ds", "amount", "visits__pages", "visits__device", "country"),
        *("returned", "label_known_at"),
    ]
    assert rows["order_id"].to_list() == [1, 2, 3, 4, 5]
    # Bob's visit of 1 June is logged on 3 June, after both of his orders.
    assert rows["visits__pages"].to_list() == [1, None, 2, None, 3]
    assert rows["visits__device"].to_list() == ["phone", None, "desk", None, "phone"]
    assert rows["returned"].to_list() == [1, 0, 1, 0, 1]
    assert rows["label_known_at"][0] == datetime(2013, 6, 10, tzinfo=UTC)
    assert rows["ordered_at"].dtype == pl.Datetime("us", "UTC")
    assert result.summary["rows without a known label, left out"] == 1
    assert result.summary["rows without a fact, by view"] == {"visits": "40.0%"}
    assert result.metrics["rows"] == 5
    assert "no newer than" in result.summary["proof"]


def test_rows_to_predict_have_no_label_and_keep_everybody(shop: Shop) -> None:
    succeeded(shop.build(labels=False))
    rows = shop.rows()
    assert rows["order_id"].to_list() == [1, 2, 3, 4, 5, 6]
    assert "returned" not in rows.columns
    assert "label_known_at" not in rows.columns


@pytest.mark.parametrize("known_at", ["", "2013-06-15T00:00:00Z"])
def test_labels_in_the_order_of_the_rows_give_what_labels_in_any_order_give(
    shop: Shop, known_at: str
) -> None:
    in_step = pl.concat([returns(), returns().tail(1).with_columns(order_id=pl.lit(6, pl.Int64))])
    shop.put(
        "returns", in_step.with_columns(returned_at=pl.when(pl.col("order_id") != 2).then("returned_at"))
    )
    succeeded(shop.build(known_at=known_at))
    shop.put("returns", shop.table("returns").lazy().collect().sample(fraction=1, shuffle=True, seed=4))
    succeeded(shop.build(known_at=known_at, publish="shuffled"))
    rows = shop.rows()
    assert rows["order_id"].to_list() == ([1, 3, 4] if known_at else [1, 3, 4, 5, 6])
    assert rows.equals(shop.rows("shuffled"))


def test_a_null_entity_matches_no_fact_not_even_one_without_entity(shop: Shop) -> None:
    shop.put("visits", visits().with_columns(customer=pl.lit(None, pl.String)))
    succeeded(shop.build(labels=False))
    assert shop.rows()["visits__pages"].to_list() == [None] * 6


def test_labels_that_became_known_later_do_not_count(shop: Shop) -> None:
    result = succeeded(shop.build(known_at="2013-06-15T00:00:00Z"))
    assert shop.rows()["order_id"].to_list() == [1, 2, 3, 4]
    assert result.summary["rows without a known label, left out"] == 2


def test_a_label_known_at_the_very_moment_counts_whatever_the_zone_it_is_written_in(shop: Shop) -> None:
    succeeded(shop.build(known_at="2013-06-10T02:00:00+02:00"))
    assert shop.rows()["order_id"].to_list() == [1, 2, 3, 4]


def test_a_day_built_alone_is_equal_to_the_same_day_of_a_range(shop: Shop) -> None:
    succeeded(shop.build(labels=False))
    whole = shop.rows().filter(pl.col("ds") == "2013-06-02")
    succeeded(shop.build(labels=False, partitions="2013-06-02", publish="one_day"))
    assert shop.rows("one_day").equals(whole)


def test_only_the_asked_partitions_are_replaced(shop: Shop) -> None:
    succeeded(shop.build(labels=False))
    shop.put("orders", orders().with_columns(amount=pl.lit(0.5)), "ds")
    succeeded(shop.build(labels=False, partitions="2013-06-02,2013-06-03"))
    assert shop.rows()["amount"].to_list() == [10.0, 20.0, 0.5, 0.5, 0.5, 0.5]


def test_a_list_of_partitions_leaves_out_the_days_between(shop: Shop) -> None:
    succeeded(shop.build(labels=False, partitions="2013-06-01,2013-06-03"))
    assert shop.rows()["order_id"].to_list() == [1, 2, 5, 6]


def test_rows_can_be_published_to_a_table_without_partitions(shop: Shop) -> None:
    succeeded(shop.build(labels=False, partitions="", publish={"name": "rows", "partition_by": None}))
    assert shop.rows()["order_id"].to_list() == [1, 2, 3, 4, 5, 6]
    assert "ds" not in shop.rows().columns


def test_a_retry_finds_what_was_published_and_publishes_nothing(shop: Shop) -> None:
    first = succeeded(shop.build(fingerprint="same", step_key="same"))
    again = succeeded(shop.build(fingerprint="same", step_key="same"))
    assert first.table is not None
    assert again.table is not None
    assert first.table.changed
    assert not again.table.changed
    assert again.table.version == first.table.version


def test_a_partition_without_rows_is_skipped_and_says_so(shop: Shop) -> None:
    result = shop.build(partitions="2013-07-01")
    assert result.status == "skipped"
    assert result.reason == "no rows to build in ds=2013-07-01: shop:to_predict gives none"


def test_facts_without_a_time_are_not_used_and_are_counted_in_a_warning(shop: Shop) -> None:
    timeless = visits().with_columns(
        logged_at=pl.when(pl.col("pages") != 2).then("logged_at"),
        visited_at=pl.when(pl.col("pages") != 3).then("visited_at"),
    )
    shop.put("visits", timeless)
    result = succeeded(shop.build())
    assert shop.rows()["visits__pages"].to_list() == [1, None, 1, None, 1]
    assert result.warnings == ("view 'visits': 2 facts have no event or no knowledge time and are not used",)


def test_a_fact_older_than_the_max_age_is_not_used(shop: Shop) -> None:
    shop.put("visits", visits().filter(pl.col("pages") == 1))
    module = """
    from shop import SET, VISITS, FeatureSet
    from dataclasses import replace

    YOUNG = FeatureSet(**{**SET, "views": (replace(VISITS, max_age="1d"),)})
    """
    shop.code(young=module)
    succeeded(shop.build(features="young:YOUNG"))
    assert shop.rows()["visits__pages"].to_list() == [1, None, None, None, None]


def test_times_without_a_zone_are_utc_and_other_zones_are_converted(shop: Shop) -> None:
    module = """
    from shop import SET, VISITS, FeatureSet, pl
    from dataclasses import replace

    def visited(visits: pl.LazyFrame) -> pl.LazyFrame:
        # Logged at 12:00 UTC, the very moment of the orders; 14:00 on the clocks of Vienna.
        logged_at = pl.col("logged_at").dt.offset_by("3h")
        return visits.with_columns(logged_at=logged_at.dt.convert_time_zone("Europe/Vienna"))

    def to_predict(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders.with_columns(pl.col("ordered_at").dt.replace_time_zone(None))

    ZONED = FeatureSet(**{**SET, "rows": to_predict, "views": (replace(VISITS, function=visited),)})
    """
    shop.code(zoned=module)
    succeeded(shop.build(features="zoned:ZONED"))
    assert shop.rows()["visits__pages"].to_list() == [1, None, 2, None, 3]
    assert shop.rows()["ordered_at"][0] == datetime(2013, 6, 1, 12, tzinfo=UTC)


def test_rounding_to_microseconds_lets_no_fact_in_before_its_time(shop: Shop) -> None:
    module = """
    from shop import SET, VISITS, FeatureSet, pl
    from dataclasses import replace

    def visited(visits: pl.LazyFrame) -> pl.LazyFrame:
        nanoseconds = pl.col("pages").replace_strict({1: 0, 2: 1, 3: 0}, default=0)
        noon = pl.col("visited_at").dt.offset_by("4h").cast(pl.Datetime("ns", "UTC"))
        return visits.with_columns(logged_at=noon + pl.duration(nanoseconds=nanoseconds, time_unit="ns"))

    FINE = FeatureSet(**{**SET, "views": (replace(VISITS, function=visited),)})
    """
    shop.code(fine=module)
    succeeded(shop.build(features="fine:FINE"))
    assert shop.rows()["visits__pages"].to_list() == [1, 4, 1, 4, 3]


def test_the_roles_of_the_columns_are_kept_beside_the_table(shop: Shop) -> None:
    succeeded(shop.build())
    rows = open_rows(shop)
    assert rows.rows == 5
    assert rows.key == ("order_id",)
    assert rows.features == ("amount", "visits__pages", "visits__device")
    assert rows.label == "returned"
    assert rows.keep == ("country",)
    assert rows.prediction_time == "ordered_at"
    assert rows.partition_by == "ds"
    assert rows.entry_point == "shop:RETURNS"
    assert rows.sorted().collect()["order_id"].to_list() == [1, 2, 3, 4, 5]
    document = local_path(shop.store) / "tables/rows/_ml" / f"features-{rows.hash}.json"
    assert json.loads(document.read_text())["features"] == list(rows.features)


def test_rows_to_predict_have_the_same_hash_and_no_label_role(shop: Shop) -> None:
    succeeded(shop.build())
    succeeded(shop.build(labels=False, partitions="2013-06-02", publish="to_predict"))
    assert open_rows(shop, table="to_predict").hash == open_rows(shop).hash
    assert open_rows(shop, table="to_predict").label is None


def test_rows_of_two_definitions_in_one_table_are_refused_by_name(shop: Shop) -> None:
    succeeded(shop.build(labels=False))
    shop.code("\n    # another thought\n")
    succeeded(shop.build(labels=False, partitions="2013-06-02"))
    with pytest.raises(DataError, match=r"has rows of 2 feature definitions: \w{12} \(\d rows\), \w{12}"):
        open_rows(shop)
    assert open_rows(shop, "2013-06-02").rows == 2


def test_a_table_that_no_features_step_published_is_refused(shop: Shop) -> None:
    with pytest.raises(
        DataError, match="'orders' is not a table of feature rows: it has no column 'feature_hash'"
    ):
        open_rows(shop, table="orders")


def test_partitions_without_rows_open_as_no_rows(shop: Shop) -> None:
    succeeded(shop.build(labels=False))
    assert open_rows(shop, "2013-07-01").rows == 0


def test_types_that_a_table_cannot_hold_are_stored_in_ones_that_it_can(shop: Shop) -> None:
    module = """
    from shop import SET, VISITS, FeatureSet, pl
    from dataclasses import replace

    def visited(visits: pl.LazyFrame) -> pl.LazyFrame:
        return visits.with_columns(
            pl.col("pages").cast(pl.UInt32), pl.col("device").cast(pl.Categorical),
            price=pl.col("pages").cast(pl.Decimal(10, 2)), often=pl.col("pages") > 2,
            customer=pl.col("customer").cast(pl.Categorical),
        )

    TYPED = FeatureSet(**{**SET, "views": (
        replace(VISITS, function=visited, features=("pages", "device", "price", "often")),)})
    """
    shop.code(typed=module)
    succeeded(shop.build(features="typed:TYPED"))
    rows = shop.rows()
    assert rows.schema["visits__pages"] == pl.Int64
    assert rows.schema["visits__device"] == pl.String
    assert rows.schema["visits__price"] == pl.Float64
    assert rows["visits__price"].to_list() == [1.0, None, 2.0, None, 3.0]
    assert rows["visits__often"].to_list() == [False, None, False, None, True]


def test_functions_may_take_and_give_pandas_and_arrow(shop: Shop) -> None:
    module = """
    import pandas as pd
    import pyarrow as pa
    from shop import SET, VISITS, FeatureSet, pl
    from dataclasses import replace

    def visited(visits: pd.DataFrame) -> pd.DataFrame:
        return visits[visits.pages > 1]

    def to_predict(orders: pa.Table) -> pa.Table:
        return orders

    MIXED = FeatureSet(**{**SET, "rows": to_predict, "views": (replace(VISITS, function=visited),)})
    """
    shop.code(mixed=module)
    succeeded(shop.build(features="mixed:MIXED"))
    assert shop.rows()["visits__pages"].to_list() == [None, None, 2, None, 3]


def test_the_rows_are_the_same_on_one_thread_and_on_two(shop: Shop, tmp_path: Path) -> None:
    number = pl.col("number")
    start = pl.datetime(2013, 5, 20, time_zone="UTC")
    shop.put(
        "visits",
        pl.DataFrame({"number": range(20_000)}).select(
            customer=(number % 97).cast(pl.String),
            pages=(number.hash(1) % 1000).cast(pl.Int64),
            device=pl.lit("desk"),
            visited_at=start + pl.duration(minutes=number % 7919),
            logged_at=start + pl.duration(minutes=number % 9973),
        ),
    )
    shop.put(
        "orders",
        pl.DataFrame({"number": range(10_000)}).select(
            order_id=(number.hash(2) // 2**20).cast(pl.Int64),
            customer=(number % 101).cast(pl.String),
            amount=pl.lit(1.0),
            country=pl.lit("at"),
            ds=pl.lit("2013-06-01"),
            ordered_at=start + pl.duration(minutes=number % 9000),
        ),
        "ds",
    )
    arguments = {
        "features": "shop:RETURNS",
        "tables": [{"name": name} for name in ("orders", "visits", "returns")],
        "partitions": "2013-06-01",
        "labels": False,
    }
    built = []
    for threads in ("1", "2"):
        publish = {"name": f"rows_{threads}"}
        spec = StepSpec(
            "features",
            shop.store,
            {**arguments, "publish": publish},
            code=Code(roots=(str(tmp_path / "code"),)),
        )
        path = tmp_path / "spec.json"
        path.write_bytes(spec.encode())
        command = [sys.executable, "-m", "airflow_ml_provider.steps", "features", "--spec", str(path)]
        subprocess.run(command, env={**os.environ, "POLARS_MAX_THREADS": threads}, check=True)
        built.append(open_rows(shop, table=publish["name"]).sorted().collect())
    assert built[0].height == 10_000
    assert built[0]["visits__pages"].null_count() < 5_000
    assert built[0].equals(built[1])


def test_a_build_killed_half_way_leaves_nothing_and_the_next_try_does_it_all(
    shop: Shop, tmp_path: Path
) -> None:
    module = """
    import os, time
    from shop import SET, VISITS, FeatureSet, pl
    from dataclasses import replace

    def visited(visits: pl.LazyFrame) -> pl.LazyFrame:
        if "HANG" in os.environ:
            print("hanging", flush=True)
            time.sleep(60)
        return visits

    SLOW = FeatureSet(**{**SET, "views": (replace(VISITS, function=visited),)})
    """
    shop.code(slow=module)
    arguments = {
        "features": "slow:SLOW",
        "tables": [{"name": name} for name in ("orders", "visits", "returns")],
        "partitions": "2013-06-01..2013-06-03",
        "publish": {"name": "rows"},
    }
    spec = StepSpec("features", shop.store, arguments, code=Code(roots=(str(tmp_path / "code"),)))
    path = tmp_path / "spec.json"
    path.write_bytes(spec.encode())
    command = [sys.executable, "-m", "airflow_ml_provider.steps", "features", "--spec", str(path)]
    hanging = {**os.environ, "HANG": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=hanging) as process:
        assert process.stdout is not None
        assert any("hanging" in line for line in process.stdout)
        process.kill()
    assert not (local_path(shop.store) / "tables" / "rows" / "_delta_log").exists()
    subprocess.run(command, check=True)
    succeeded(shop.build(features="slow:SLOW", publish="undisturbed"))
    assert shop.rows().height == 5
    assert shop.rows().equals(shop.rows("undisturbed"))


def test_returns_are_matched_to_orders_by_their_key(shop: Shop) -> None:
    shop.put("returns", returns().sort("order_id", descending=True))
    succeeded(shop.build())
    assert shop.rows()["returned"].to_list() == [1, 0, 1, 0, 1]
