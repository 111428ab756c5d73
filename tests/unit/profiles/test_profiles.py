"""Profiles of columns: bins that suit the data, exact counts, the same for the same rows."""

from __future__ import annotations

import json
import math
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.steps import profiles
from airflow_ml_provider.steps.profiles import (
    ColumnProfile,
    apply_profile,
    apply_profile_by,
    bin_labels,
    build_profile,
)


def _column(values: list[Any], dtype: Any = None) -> ColumnProfile:
    return build_profile(pl.LazyFrame({"x": pl.Series(values, dtype=dtype)}), ["x"])["columns"]["x"]


def _total(column: ColumnProfile) -> int:
    return sum(column["counts"]) + column.get("other", 0) + column["nulls"]


def test_numeric_columns_get_ten_bins_of_about_equal_counts_and_one_on_either_side() -> None:
    values = np.random.default_rng(1).normal(size=10_000)
    column = _column(values.tolist())

    assert column["counts"] == pytest.approx([0, *[1000] * 10, 0], abs=1)
    expected, _ = np.histogram(values, [-np.inf, *np.nextafter(column["edges"], np.inf), np.inf])
    assert column["counts"] == expected.tolist()


def test_a_frequent_value_has_a_bin_of_its_own() -> None:
    column = _column([0.0] * 700 + list(range(1, 301)))

    labels = bin_labels(column)
    assert dict(zip(labels, column["counts"], strict=True))["= 0"] == 700
    assert column["counts"][labels.index("= 0") + 1 :] == [100, 100, 100, 0]


def test_leaving_a_constant_shows_on_either_side() -> None:
    profile = build_profile(pl.LazyFrame({"x": [7] * 50}), ["x"])
    assert bin_labels(profile["columns"]["x"]) == ["< 7", "= 7", "> 7"]
    assert profile["columns"]["x"]["counts"] == [0, 50, 0]

    later = apply_profile(profile, pl.LazyFrame({"x": [6.999, 7.0, 7.0, 8.0]}))
    assert later["columns"]["x"]["counts"] == [1, 2, 1]


def test_nulls_and_nan_are_missing_and_infinities_have_bins() -> None:
    column = _column([1.0, 2.0, 3.0, None, math.nan, math.inf, -math.inf, -math.inf])

    assert column["nulls"] == 2
    assert sum(column["counts"]) == 6
    assert (column["counts"][0], column["counts"][-1]) == (2, 1)
    assert bin_labels(column) == ["< 1", "= 1", "1 – 2", "= 2", "2 – 3", "> 3"]
    json.dumps(column, allow_nan=False)


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Null, pl.Int32])
def test_a_column_without_a_value_has_a_profile_too(dtype: Any) -> None:
    profile = build_profile(pl.LazyFrame({"x": pl.Series([None] * 3, dtype=dtype)}), ["x"])
    assert profile["columns"]["x"] == {"kind": "numeric", "edges": [], "counts": [0], "nulls": 3}

    later = apply_profile(profile, pl.LazyFrame({"x": [1.0, 2.0]}))
    assert later["columns"]["x"]["counts"] == [2]


def test_an_empty_frame_has_a_profile() -> None:
    frame = pl.LazyFrame(schema={"x": pl.Float64, "word": pl.String})
    profile = build_profile(frame, ["x", "word"])
    assert profile["rows"] == 0
    assert profile["columns"]["word"] == {
        "kind": "categorical", "categories": [], "counts": [], "other": 0, "nulls": 0,
    }  # fmt: skip


def test_text_keeps_its_most_frequent_values_and_counts_the_others() -> None:
    words = [f"w{n:03}" for n in range(80) for _ in range(80 - n)]
    column = _column([*words, None], pl.String)

    assert column["categories"] == [f"w{n:03}" for n in range(50)]
    assert column["counts"] == [80 - n for n in range(50)]
    assert column["other"] == sum(80 - n for n in range(50, 80))
    assert column["nulls"] == 1


def test_values_of_equal_frequency_are_taken_in_the_order_of_their_names() -> None:
    assert _column(["b", "a", "c", "c"])["categories"] == ["c", "a", "b"]


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["yes", "no", "never"])])
def test_text_of_few_values_is_text(dtype: Any) -> None:
    assert _column(["no", "yes", "no"], dtype)["categories"] == ["no", "yes"]


def test_a_boolean_is_a_number_so_that_it_can_be_compared_with_what_the_model_got() -> None:
    profile = build_profile(pl.LazyFrame({"x": [1.0, 0.0, 1.0, None]}), ["x"])
    assert bin_labels(profile["columns"]["x"]) == ["< 0", "= 0", "0 – 1", "= 1", "> 1"]

    later = apply_profile(profile, pl.LazyFrame({"x": [True, False, None, True]}))

    assert later["columns"]["x"]["counts"] == [0, 1, 0, 2, 0]
    assert later["columns"]["x"]["nulls"] == 1
    assert _column([True, False, True, None]) == profile["columns"]["x"]


def test_other_rows_are_counted_into_the_same_bins() -> None:
    reference = pl.LazyFrame({"x": list(range(100)), "word": ["a"] * 60 + ["b"] * 40})
    profile = build_profile(reference, ["x", "word"])
    later = apply_profile(
        profile, pl.LazyFrame({"word": ["b", "new", None], "x": [-5, 200, None], "more": 1})
    )

    assert later["rows"] == 3
    assert later["columns"]["x"]["edges"] == profile["columns"]["x"]["edges"]
    assert later["columns"]["x"]["counts"] == [1, *[0] * 10, 1]
    assert later["columns"]["word"] == {
        "kind": "categorical", "categories": ["a", "b"], "counts": [0, 1], "other": 1, "nulls": 1,
    }  # fmt: skip


def test_more_rows_than_the_sample_are_still_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "_SAMPLE_ROWS", 1_000)
    monkeypatch.setattr(profiles, "_BATCH_ROWS", 700)
    rng = np.random.default_rng(2)
    frame = pl.LazyFrame({"x": rng.normal(size=10_007), "word": rng.choice(["a", "b"], size=10_007)})

    profile = build_profile(frame, ["x", "word"])

    assert profile["rows"] == 10_007
    assert all(_total(column) == 10_007 for column in profile["columns"].values())
    assert profile["columns"]["x"]["counts"] == pytest.approx([0, *[1000] * 10, 0], rel=0.2, abs=30)
    assert apply_profile(profile, frame) == profile
    assert build_profile(frame, ["x", "word"]) == profile


def test_partitions_are_counted_one_by_one_in_one_pass_and_an_absent_one_is_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiles, "_BATCH_ROWS", 7)
    rng = np.random.default_rng(3)
    frame = pl.DataFrame({"x": rng.normal(size=100), "word": rng.choice(["a", "b"], 100)})
    frame = frame.with_columns(ds=pl.Series(rng.choice(["d1", "d2", "d3"], 100)))
    profile = build_profile(frame.lazy(), ["x", "word"])

    by_day = apply_profile_by(profile, frame.lazy(), "ds", ["d1", "d3", "d4"])

    assert list(by_day) == ["d1", "d3", "d4"]
    for day in ("d1", "d3"):
        assert by_day[day] == apply_profile(profile, frame.lazy().filter(ds=day))
    assert by_day["d4"]["rows"] == 0
    assert _total(by_day["d4"]["columns"]["x"]) == 0


def test_a_profile_by_partition_knows_how_far_single_partitions_usually_lie_from_the_rest() -> None:
    rng = np.random.default_rng(4)
    days = [f"day{n:02}" for n in range(30)]
    frame = pl.DataFrame({"ds": days * 200}).with_columns(
        weather=pl.col("ds").rank("dense").cast(pl.Float64), dice=pl.Series(rng.integers(1, 7, 6_000))
    )
    columns = build_profile(frame.lazy(), ["weather", "dice"], by="ds")["columns"]

    # One weather a day: every day differs from the others. Dice know no day: nothing is left above chance.
    assert columns["weather"]["usual"]["partitions"] == 30
    assert columns["weather"]["usual"]["median"] > 4
    assert abs(columns["dice"]["usual"]["median"]) < 0.01
    assert columns["dice"]["usual"]["p95"] < 0.1
    assert "usual" not in build_profile(frame.lazy(), ["dice"])["columns"]["dice"]


def test_the_partition_column_of_a_profile_must_exist() -> None:
    with pytest.raises(DataError, match="no partition column 'day' to take a profile by"):
        build_profile(pl.LazyFrame({"x": [1], "ds": ["a"]}), ["x"], by="day")


def test_a_profile_survives_json() -> None:
    profile = build_profile(pl.LazyFrame({"x": [0.1, 0.2, 0.3], "word": ["ä", "b", "b"]}), ["x", "word"])
    assert json.loads(json.dumps(profile)) == profile


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -0.0, 1.0])), max_size=60))
def test_every_row_is_in_exactly_one_bin_and_the_profile_applied_to_its_own_rows_is_itself(
    values: list[float | None],
) -> None:
    frame = pl.LazyFrame({"x": pl.Series(values, dtype=pl.Float64)})
    profile = build_profile(frame, ["x"])
    column = profile["columns"]["x"]

    assert _total(column) == len(values) == profile["rows"]
    assert column["edges"] == sorted(set(column["edges"]))
    assert len(column["counts"]) == len(column["edges"]) + 1 == len(bin_labels(column))
    assert apply_profile(profile, frame) == profile


def test_a_missing_column_is_named_with_the_nearest_there_is() -> None:
    with pytest.raises(DataError, match="no column 'weather__tmp' to take a profile of") as raised:
        build_profile(pl.LazyFrame({"weather__temp": [1.0]}), ["weather__tmp"])
    assert "did you mean 'weather__temp'?" in str(raised.value)


def test_a_column_that_changed_its_kind_is_refused() -> None:
    profile = build_profile(pl.LazyFrame({"x": [1, 2]}), ["x"])
    with pytest.raises(DataError, match=r"'x' is categorical \(String\) and was numeric in the profile"):
        apply_profile(profile, pl.LazyFrame({"x": ["1", "2"]}))


def test_a_date_is_not_a_feature() -> None:
    with pytest.raises(DataError, match="'day' is of type Date; a profile is taken of numbers,"):
        build_profile(pl.LazyFrame({"day": [date(2013, 6, 1)]}), ["day"])
