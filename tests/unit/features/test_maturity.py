"""When a label may be learned from: once it has matured."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from shop_tables import Shop, orders

from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.features import Label
from airflow_ml_provider.steps import functions
from airflow_ml_provider.steps.feature_definition import feature_hash

MATURING = """
    BY_TIME = FeatureSet(**{**SET, "label": Label("returned", returned, matures_after="10d")})
    BY_BOTH = FeatureSet(**{**SET, "label": Label("returned", returned, known_at="returned_at",
                                                  matures_after="10d")})
"""


def built(shop: Shop, features: str, known_at: str = "") -> StepResult:
    result = shop.build(features=f"shop:{features}", known_at=known_at)
    assert result.status == "success", result.failure
    return result


# Two orders a day are made at noon of 1, 2 and 3 June; the last has no label. Returns are known on 10 June,
# that of order 5 on 20 June.
@pytest.mark.parametrize(
    ("features", "known_at", "used", "matured"),
    [
        ("BY_TIME", "2013-06-11T12:00:00Z", [1, 2], [(11, 12)] * 2),
        ("BY_TIME", "2013-06-12T11:59:59Z", [1, 2], [(11, 12)] * 2),
        ("BY_TIME", "2013-06-13T12:00:00Z", [1, 2, 3, 4, 5], [(11, 12), (11, 12), (12, 12), (12, 12), (13, 12)]),
        ("BY_BOTH", "2013-06-13T12:00:00Z", [1, 2, 3, 4], [(11, 12), (11, 12), (12, 12), (12, 12)]),
        (
            "BY_BOTH", "2013-06-20T00:00:00Z", [1, 2, 3, 4, 5],
            [(11, 12), (11, 12), (12, 12), (12, 12), (20, 0)],
        ),
    ],
)  # fmt: skip
def test_only_labels_that_had_matured_are_used_and_each_row_says_when_its_did(
    shop: Shop, features: str, known_at: str, used: list[int], matured: list[tuple[int, int]]
) -> None:
    shop.code(MATURING)
    result = built(shop, features, known_at)
    rows = shop.rows()
    assert rows["order_id"].to_list() == used
    assert rows["label_known_at"].to_list() == [datetime(2013, 6, *when, tzinfo=UTC) for when in matured]
    assert result.metrics["matured_share"] == len(used) / 6
    assert result.summary["labels matured"] == f"{len(used)} of 6 ({len(used) / 6:.1%})"


def test_without_a_moment_a_label_that_matures_by_time_waits_for_its_time(shop: Shop) -> None:
    shop.code(MATURING)
    recent = datetime.now(UTC) - timedelta(days=9)
    late = pl.col("order_id") > 2
    shop.put(
        "orders", orders().with_columns(ordered_at=pl.when(late).then(recent).otherwise("ordered_at")), "ds"
    )
    built(shop, "BY_TIME")
    assert shop.rows()["order_id"].to_list() == [1, 2]


def test_rows_are_published_again_only_when_more_labels_have_matured(shop: Shop) -> None:
    shop.code(MATURING)
    first = built(shop, "BY_TIME")
    again = built(shop, "BY_TIME")
    assert first.table is not None
    assert again.table is not None
    assert (first.table.changed, again.table.changed) == (True, False)
    assert again.table.version == first.table.version


def test_a_build_before_any_label_has_matured_says_when_the_first_does(shop: Shop) -> None:
    shop.code(MATURING)
    result = shop.build(features="shop:BY_TIME", known_at="2013-06-04")
    assert result.failure is not None
    assert (
        "the first matures at 2013-06-11 12:00:00 UTC (10d after its prediction), after 2013-06-04 00:00:00 UTC"
    ) in result.failure.message


def test_a_label_says_when_it_matures() -> None:
    with pytest.raises(ConfigError, match="label 'late' does not say when it matures"):
        Label("late", print)
    with pytest.raises(ConfigError, match="label 'late': matures_after: 'a month' is not an age"):
        Label("late", print, matures_after="a month")
    assert Label("late", print, matures_after="2w").matures_after_seconds == 14 * 86_400


def test_when_a_label_matures_is_part_of_the_definition(shop: Shop) -> None:
    shop.code(MATURING)
    roots = (shop.write_code(),)
    found = functions.load("shop:RETURNS", roots)
    maturing = replace(found, label=replace(found.label, matures_after="10d"))
    assert feature_hash(maturing, "shop:RETURNS", roots) != feature_hash(found, "shop:RETURNS", roots)
