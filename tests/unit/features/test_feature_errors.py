"""What a person reads when rows, facts, labels or declarations are not what they should be."""

from __future__ import annotations

import polars as pl
import pytest
from shop_tables import Shop, orders, returns, visits

from airflow_ml_provider.contract.documents import Failure, StepResult
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.features import FeatureSet, FeatureView, Label

VARIANT = """
    from dataclasses import replace

    from shop import *
    from shop import SET, VISITS, pl

    VARIANT = FeatureSet(**{{**SET, {change}}})
"""


def failure(result: StepResult, kind: str) -> Failure:
    assert result.status == "failed", result.summary
    assert result.failure is not None
    assert result.failure.kind == kind, result.failure.message
    return result.failure


def of_variant(shop: Shop, change: str, kind: str = "user", **arguments: object) -> str:
    shop.code(variant=VARIANT.format(change=change))
    return failure(shop.build(features="variant:VARIANT", **arguments), kind).message


def test_duplicate_keys_are_named_and_counted(shop: Shop) -> None:
    twice = pl.concat([orders(), orders().filter(pl.col("order_id") >= 5)])
    shop.put("orders", twice, "ds")
    message = failure(shop.build(labels=False), "data").message
    assert "2 of the rows that shop:to_predict gives have the key order_id=5" in message
    assert "2 keys are repeated, in 4 rows" in message
    assert "next: make the key unique" in message


def test_duplicates_in_partitions_that_were_not_asked_for_do_no_harm(shop: Shop) -> None:
    shop.put("orders", pl.concat([orders(), orders().filter(pl.col("order_id") >= 5)]), "ds")
    assert shop.build(labels=False, partitions="2013-06-01").status == "success"


def test_two_labels_for_a_key_are_refused(shop: Shop) -> None:
    shop.put("returns", pl.concat([returns(), returns().head(1)]))
    message = failure(shop.build(), "data").message
    assert "2 of the labels that shop:returned gives have the key order_id=1" in message


def test_two_labels_for_rows_that_were_not_asked_for_do_no_harm(shop: Shop) -> None:
    shop.put("returns", pl.concat([returns(), returns().head(1)]))
    assert shop.build(partitions="2013-06-02").status == "success"


def test_a_null_key_is_refused(shop: Shop) -> None:
    shop.put(
        "orders", orders().with_columns(order_id=pl.when(pl.col("order_id") != 4).then("order_id")), "ds"
    )
    message = failure(shop.build(labels=False), "data").message
    assert "1 of 6 rows that shop:to_predict gives have no key: 'order_id' is null" in message


def test_a_null_prediction_time_is_refused(shop: Shop) -> None:
    shop.put(
        "orders", orders().with_columns(ordered_at=pl.when(pl.col("order_id") > 2).then("ordered_at")), "ds"
    )
    message = failure(shop.build(labels=False), "data").message
    assert "2 of 6 rows that shop:to_predict gives have no prediction time: 'ordered_at' is null" in message


def test_a_null_partition_is_refused(shop: Shop) -> None:
    rows = orders().with_columns(day=pl.when(pl.col("order_id") > 2).then("ds"))
    shop.put("orders", rows)
    publish = {"name": "rows", "partition_by": "day"}
    message = failure(shop.build(labels=False, partitions="", publish=publish), "data").message
    assert "2 of 6 rows that shop:to_predict gives have no partition: 'day' is null" in message


def test_a_label_column_that_is_all_null_is_refused(shop: Shop) -> None:
    shop.put("returns", returns().with_columns(returned=pl.lit(None, pl.Boolean)))
    message = failure(shop.build(), "data").message
    assert "not one of the rows asked for has a known label" in message
    assert "the label column 'returned' of shop:returned is null in all 5 of them" in message


def test_no_label_with_a_key_of_these_rows_is_told_as_such(shop: Shop) -> None:
    shop.put("returns", returns().filter(pl.col("order_id") <= 4))
    message = failure(shop.build(partitions="2013-06-03"), "data").message
    assert "shop:returned gives no row with a key of theirs" in message


def test_labels_that_are_all_too_late_are_told_as_such(shop: Shop) -> None:
    message = failure(shop.build(known_at="2013-06-05"), "data").message
    assert (
        "the first became known at 2013-06-10 00:00:00 UTC, after known_at=2013-06-05 00:00:00 UTC" in message
    )


def test_labels_that_never_become_known_are_told_as_such(shop: Shop) -> None:
    shop.put("returns", returns().with_columns(returned_at=pl.lit(None, pl.Datetime("us", "UTC"))))
    message = failure(shop.build(), "data").message
    assert "'returned_at' of shop:returned is null wherever there is a label" in message


def test_a_known_at_that_is_no_moment_is_refused(shop: Shop) -> None:
    message = failure(shop.build(known_at="yesterday"), "config").message
    assert "known_at is 'yesterday', not a moment" in message


def test_a_column_that_a_view_does_not_give_is_named_with_the_nearest(shop: Shop) -> None:
    message = of_variant(shop, '"views": (replace(VISITS, features=("pagse",)),)')
    assert "shop:visited gives no column 'pagse', which the feature set declares" in message
    assert "did you mean 'pages'?" in message


def test_a_column_that_the_rows_do_not_have_is_named_with_the_nearest(shop: Shop) -> None:
    assert "did you mean 'ordered_at'" in of_variant(shop, '"prediction_time": "orderd_at"')
    assert "shop:to_predict gives no column 'price'" in of_variant(shop, '"row_features": ("price",)')


def test_a_partition_column_that_the_rows_do_not_have_is_named(shop: Shop) -> None:
    message = failure(shop.build(publish={"name": "rows", "partition_by": "day"}), "user").message
    assert "shop:to_predict gives no column 'day', by which the published table is partitioned" in message


def test_a_time_that_is_no_timestamp_is_refused(shop: Shop) -> None:
    shop.put("visits", visits().with_columns(pl.col("logged_at").dt.date()))
    message = failure(shop.build(), "user").message
    assert "column 'logged_at' of shop:visited is of type Date, not a timestamp" in message


def test_a_feature_that_is_a_time_is_refused(shop: Shop) -> None:
    message = of_variant(shop, '"views": (replace(VISITS, features=("logged_at",)),)')
    assert "feature 'logged_at' of shop:visited is of type Datetime" in message
    assert "such as the hours since it" in message


def test_a_feature_that_is_a_list_is_refused(shop: Shop) -> None:
    shop.put("visits", visits().with_columns(pages=pl.concat_list("pages")))
    message = failure(shop.build(), "user").message
    assert "column 'pages' of shop:visited is of type List(Int64), which no feature row can hold" in message


def test_entities_of_different_types_are_refused(shop: Shop) -> None:
    shop.put("visits", visits().with_columns(customer=pl.lit(7)))
    message = failure(shop.build(), "user").message
    assert "column 'customer' of shop:visited is of type Int32 and that of the rows is String" in message


def test_a_label_that_is_text_is_refused(shop: Shop) -> None:
    shop.put("returns", returns().with_columns(pl.col("returned").cast(pl.String)))
    message = failure(shop.build(), "user").message
    assert "the label 'returned' of shop:returned is of type String, not a number or a boolean" in message


def test_a_function_that_raises_is_named_and_its_own_traceback_is_kept(shop: Shop) -> None:
    module = """
    from shop import SET, VISITS, FeatureSet, pl
    from dataclasses import replace

    def visited(visits: pl.LazyFrame) -> pl.LazyFrame:
        raise ValueError("the shop is closed")

    CLOSED = FeatureSet(**{**SET, "views": (replace(VISITS, function=visited),)})
    """
    shop.code(closed=module)
    found = failure(shop.build(features="closed:CLOSED"), "user")
    assert "closed:visited raised ValueError: the shop is closed" in found.message
    assert 'raise ValueError("the shop is closed")' in found.traceback


def test_a_lazy_frame_that_fails_when_it_is_computed_is_its_functions_doing(shop: Shop) -> None:
    module = """
    from shop import SET, VISITS, FeatureSet, pl
    from dataclasses import replace

    def visited(visits: pl.LazyFrame) -> pl.LazyFrame:
        return visits.with_columns(pages=pl.col("device").cast(pl.Int64))

    WRONG = FeatureSet(**{**SET, "views": (replace(VISITS, function=visited),)})
    """
    shop.code(wrong=module)
    assert (
        "wrong:visited raised InvalidOperationError"
        in failure(shop.build(features="wrong:WRONG"), "user").message
    )


def test_a_table_that_the_step_was_not_given_is_named_with_what_there_is(shop: Shop) -> None:
    message = failure(shop.build(tables=("orders", "returns"), labels=False), "user").message
    assert "shop:visited asks for 'visits'" in message
    assert "tables: orders, returns" in message


def test_an_entry_point_that_is_no_feature_set_is_refused(shop: Shop) -> None:
    message = failure(shop.build(features="shop:SET"), "user").message
    assert "'shop:SET' is a dict, not a FeatureSet" in message


def test_labels_of_a_set_without_label_are_refused(shop: Shop) -> None:
    message = of_variant(shop, '"label": None', kind="config")
    assert "the feature set declares no label, and rows with labels were asked for" in message


def test_a_failed_build_leaves_the_table_as_it_was(shop: Shop) -> None:
    shop.build(labels=False)
    before = shop.table().version
    shop.put("orders", pl.concat([orders(), orders()]), "ds")
    failure(shop.build(labels=False), "data")
    assert shop.table().version == before
    assert shop.rows().height == 6


def nothing() -> None:
    """Stands for a user's function where only declarations are looked at."""


VIEW = FeatureView("v", nothing, by=("a",), event_time="e", knowledge_time="k", features=("f",))


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (
            lambda: FeatureView("v", nothing, "a", "e", "k", ("f",)),
            "by must be a tuple of column names, not 'a'",
        ),
        (lambda: FeatureView("v", nothing, ("a",), "e", "k", ()), "features must be a tuple of column names"),
        (lambda: FeatureView("v", nothing, ("a",), "e", "k", ("f", "f")), "features names a column twice: f"),
        (
            lambda: FeatureView("a-b", nothing, ("a",), "e", "k", ("f",)),
            "'a-b' cannot be the name of a feature view",
        ),
        (
            lambda: FeatureView("v", nothing, ("a",), "e", "k", ("f",), max_age="1 day"),
            "feature view 'v': '1 day' is not an age",
        ),
        (lambda: FeatureSet(nothing, ("id",), "t"), "the feature set has no feature"),
        (lambda: FeatureSet(nothing, "id", "t", (VIEW,)), "key must be a tuple of column names, not 'id'"),
        (lambda: FeatureSet(nothing, ("id",), "t", (VIEW, VIEW)), "two views named v"),
        (
            lambda: FeatureSet(nothing, ("id",), "t", (VIEW,), Label("v__f", nothing, "k")),
            "would have two columns named v__f",
        ),
        (lambda: FeatureSet(nothing, ("id",), "t", row_features=("id",)), "would have two columns named id"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_where_it_is_written(declare: object, message: str) -> None:
    assert callable(declare)
    with pytest.raises(ConfigError) as refused:
        declare()
    assert message in str(refused.value)
