"""Leaks: the proof of times, the replay, and features that are too good."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from shop_tables import Shop, orders

from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.features import FeatureSet, FeatureView
from airflow_ml_provider.steps.feature_build import Built, Wanted
from airflow_ml_provider.steps.feature_inputs import Rows
from airflow_ml_provider.steps.leakage import check_times, single_feature_auc, too_good


def nothing() -> None:
    """Stands for a user's function that is not called."""


VIEW = FeatureView(
    "weather", nothing, ("origin",), "observed_at", "published_at", ("temp", "wind"), max_age="6h"
)
NOON = datetime(2013, 6, 1, 12)


def built_by_a_wrong_join(path: Path, **columns: object) -> Built:
    """Three rows predicted at noon, with a fact of 8:00, known at 9:00, where nothing else is said."""
    given = {
        "c0": ["a", "b", "c"],
        "c1": [NOON] * 3,
        "v0_0": [1.0] * 3,
        "v0_1": [1.0] * 3,
        "e0": [NOON.replace(hour=8)] * 3,
        "k0": [NOON.replace(hour=9)] * 3,
    }
    pl.DataFrame({**given, **columns}).write_parquet(path)
    features = FeatureSet(nothing, ("flight_id",), "predict_at", (VIEW,))
    names = {"flight_id": "c0", "predict_at": "c1"}
    rows = Rows(path, names, pl.read_parquet_schema(path), order=("c0",))
    return Built(features, Wanted(None, None), (path,), rows, count=3, asked=3, timeless={})


def test_facts_at_or_before_the_prediction_time_pass(tmp_path: Path) -> None:
    at_noon = {"k0": [NOON] * 3, "e0": [NOON, NOON.replace(hour=6), None]}
    checked = check_times(built_by_a_wrong_join(tmp_path / "built.parquet", **at_noon))
    assert checked.facts == 2
    assert checked.without_fact == {"weather": pytest.approx(1 / 3)}


@pytest.mark.parametrize(
    ("column", "time", "said"),
    [
        (
            "e0",
            NOON.replace(hour=13),
            "event time 2013-06-01 13:00:00 UTC and knowledge time 2013-06-01 09:00:00 UTC",
        ),
        (
            "k0",
            NOON.replace(hour=13),
            "event time 2013-06-01 08:00:00 UTC and knowledge time 2013-06-01 13:00:00 UTC",
        ),
        ("e0", NOON.replace(hour=5), "event time 2013-06-01 05:00:00 UTC"),
    ],
)
def test_a_fact_from_the_future_or_too_old_fails_by_feature_row_and_both_times(
    tmp_path: Path, column: str, time: datetime, said: str
) -> None:
    good = NOON.replace(hour=8 if column == "e0" else 9)
    built = built_by_a_wrong_join(tmp_path / "built.parquet", **{column: [good, time, time]})
    with pytest.raises(DataError) as refused:
        check_times(built)
    message = str(refused.value)
    assert "feature 'weather__temp', 'weather__wind' is not known when it is used" in message
    assert "row flight_id='b' has prediction time 2013-06-01 12:00:00 UTC" in message
    assert said in message
    assert "2 of 3 rows are like it" in message


LEAKY = """
    from dataclasses import replace
    from datetime import datetime

    from shop import SET, VISITS, FeatureSet, pl, to_predict

    def with_outcome(orders: pl.LazyFrame, returns: pl.LazyFrame) -> pl.LazyFrame:
        return orders.join(returns, on="order_id").with_columns(refund=pl.col("amount") * pl.col("returned"))

    # The refund is known when the order comes back.
    OUTCOME = FeatureSet(**{**SET, "rows": with_outcome, "row_features": ("refund",),
                            "row_known_at": "returned_at"})

    def above_average(visits: pl.LazyFrame) -> pl.LazyFrame:
        return visits.with_columns(pages=pl.col("pages") - pl.col("pages").mean())

    def next_visit(visits: pl.LazyFrame) -> pl.LazyFrame:
        by_time = visits.sort("visited_at")
        return by_time.with_columns(device=pl.col("device").shift(-1).over("customer"))

    def returned_only(orders: pl.LazyFrame, returns: pl.LazyFrame) -> pl.LazyFrame:
        return orders.join(returns, on="order_id", how="semi")

    def visits_as_known(visits: pl.LazyFrame, at: datetime) -> pl.LazyFrame:
        return visits.filter(pl.col("logged_at") <= at)

    def returns_as_known(returns: pl.LazyFrame, at: datetime) -> pl.LazyFrame:
        return returns.filter(pl.col("returned_at") <= at)

    AS_KNOWN = {"visits": visits_as_known, "returns": returns_as_known}

    def of(**changes):
        return FeatureSet(**{**SET, "as_known": AS_KNOWN, **changes})

    HONEST = of()
    AVERAGE = of(views=(replace(VISITS, function=above_average),))
    NEXT = of(views=(replace(VISITS, function=next_visit),))
    CHOSEN = of(rows=returned_only)
    UNKNOWN = of(as_known={"visit": visits_as_known})
"""


@pytest.fixture
def leaky(shop: Shop) -> Callable[..., StepResult]:
    """Builds a set of the module of leaks."""
    shop.code(leaky=LEAKY)
    return lambda name, **arguments: shop.build(features=f"leaky:{name}", **arguments)


def refused(result: StepResult, kind: str = "data") -> str:
    assert result.failure is not None
    assert result.failure.kind == kind
    return result.failure.message


def test_a_row_feature_that_becomes_known_after_the_prediction_fails(
    leaky: Callable[..., StepResult],
) -> None:
    message = refused(leaky("OUTCOME"))
    assert "row feature 'refund' is not known when it is used" in message
    assert "row order_id=1 has prediction time 2013-06-01 12:00:00 UTC" in message
    assert "the value has 'returned_at' 2013-06-10 00:00:00 UTC" in message
    assert "5 of 5 rows are like it" in message


def test_an_honest_set_is_replayed_and_comes_out_the_same(leaky: Callable[..., StepResult]) -> None:
    result = leaky("HONEST")
    assert result.failure is None
    assert "10 rows replayed from what was known then, all the same" in result.summary["proof"]


def test_an_average_over_the_whole_table_is_found_by_the_replay(leaky: Callable[..., StepResult]) -> None:
    message = refused(leaky("AVERAGE"))
    assert "feature 'visits__pages' uses what was not known yet: for row order_id=1 it is -1.5" in message
    assert "0.0 when made from what was known at 2013-06-01 12:00:00 UTC" in message


def test_a_value_taken_from_the_next_fact_is_found_by_the_replay(leaky: Callable[..., StepResult]) -> None:
    message = refused(leaky("NEXT"))
    assert "feature 'visits__device' uses what was not known yet" in message
    assert "'desk' when made from all the data, and None" in message


def test_rows_chosen_by_their_outcome_are_found_by_the_replay(leaky: Callable[..., StepResult]) -> None:
    message = refused(leaky("CHOSEN"))
    assert (
        "row order_id=1 is not there in the tables as they were known at 2013-06-01 12:00:00 UTC" in message
    )
    assert "leaky:returned_only makes it from what came later" in message


def test_a_cut_of_an_unknown_table_is_refused(leaky: Callable[..., StepResult]) -> None:
    message = refused(leaky("UNKNOWN"), "user")
    assert "as_known has a function for table 'visit', which this step does not read" in message
    assert "did you mean 'visits'?" in message


def test_a_label_known_before_the_prediction_is_warned_of(shop: Shop) -> None:
    shop.put("orders", orders().with_columns(ordered_at=pl.datetime(2013, 6, 12, time_zone="UTC")), "ds")
    assert shop.build().warnings == (
        "4 of 5 rows have a label that was already known at their prediction time: "
        "'ordered_at' is too late, or there is nothing to predict",
    )


def many(shop: Shop, **columns: pl.Expr) -> None:
    """A thousand orders of one day, a third of them returned, with more columns made of the label."""
    number = pl.col("order_id")
    frame = pl.DataFrame({"order_id": range(1000)}).with_columns(late=number.hash(3) % 3 == 0)
    frame = frame.with_columns(
        customer=pl.lit("ann"),
        country=pl.lit("at"),
        amount=(number.hash(4) % 100).cast(pl.Float64),
        ds=pl.lit("2013-06-01"),
        ordered_at=pl.datetime(2013, 6, 1, time_zone="UTC"),
    ).with_columns(**columns)
    returned_at = pl.datetime(2013, 6, 10, time_zone="UTC")
    shop.put("returns", frame.select("order_id", returned="late", returned_at=returned_at))
    shop.put("orders", frame.drop("late"), "ds")


def test_a_feature_that_by_itself_predicts_the_label_is_warned_of(shop: Shop) -> None:
    many(shop, amount=pl.col("late").cast(pl.Float64) + pl.col("amount") / 90)
    (warning,) = shop.build().warnings
    assert warning.startswith("feature 'amount' by itself predicts the label with an AUC of 0.9")
    assert "check that its value is known at the prediction time" in warning


def test_a_feature_that_is_null_exactly_when_the_label_is_one_is_warned_of(shop: Shop) -> None:
    many(shop, amount=pl.when(~pl.col("late")).then("amount"))
    (warning,) = shop.build().warnings
    assert "'amount' by itself predicts the label with an AUC of 1.000" in warning


def test_features_that_know_nothing_are_not_warned_of(shop: Shop) -> None:
    many(shop)
    assert shop.build().warnings == ()


def test_a_label_that_is_no_class_has_no_auc(tmp_path: Path) -> None:
    path = tmp_path / "built.parquet"
    built = built_by_a_wrong_join(path, label=[0.5, 2.0, 3.0], v0_0=[0.5, 2.0, 3.0])
    assert too_good(built) == {}


def test_a_feature_with_a_value_for_every_row_earns_nothing_by_remembering() -> None:
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 2, 4000).astype(float)
    names = pl.Series([f"N{number}" for number in draw.permutation(4000)])
    twice = pl.Series([f"N{number // 4}" for number in range(4000)])
    assert single_feature_auc(names, labels) == pytest.approx(0.5, abs=0.03)
    assert single_feature_auc(twice, labels) == pytest.approx(0.5, abs=0.03)


def test_a_relation_that_is_not_monotone_is_seen_in_numbers_booleans_and_text() -> None:
    numbers = pl.Series(np.tile(np.arange(1000), 4), dtype=pl.Float64)
    labels = ((numbers > 300) & (numbers < 600)).to_numpy().astype(float)
    assert single_feature_auc(numbers, labels) > 0.99
    assert single_feature_auc((numbers // 100).cast(pl.String), labels) > 0.9
    assert single_feature_auc(pl.Series(labels == 1), labels) == 1.0
    assert single_feature_auc(pl.Series([None] * 4000, dtype=pl.Float64), labels) == pytest.approx(
        0.5, abs=0.03
    )
