"""What one look at a file tells of its rows."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from airflow_ml_provider.steps.row_order import all_different, in_order


def write(path: Path, **columns: object) -> Path:
    pl.DataFrame(columns).write_parquet(path)
    return path


@pytest.mark.parametrize("held_rows", [1000, 2])
def test_different_keys_are_seen_to_be_different_and_equal_ones_never(tmp_path: Path, held_rows: int) -> None:
    path = write(tmp_path / "rows.parquet", a=[1, 2, 3, 1], b=["x", "x", "x", "y"], c=[1, 2, 3, 4])
    assert all_different(path, ["a", "b"], held_rows=held_rows)
    assert all_different(path, ["c"], held_rows=held_rows)
    assert not all_different(path, ["a"], held_rows=held_rows)
    assert not all_different(path, ["b"], held_rows=held_rows)


def test_two_nulls_are_no_different_keys(tmp_path: Path) -> None:
    assert not all_different(write(tmp_path / "rows.parquet", a=[1, None, None]), ["a"])


@pytest.mark.parametrize(
    ("a", "b", "ordered"),
    [
        (["x", "x", "y"], [1, 2, 0], True),
        (["x", "x", "y"], [2, 1, 3], False),
        (["x", "y", "x"], [1, 2, 3], False),
        (["x", "x"], [1, 1], True),
        (["x"], [1], True),
        ([], [], True),
    ],
)
def test_rows_are_in_order_when_no_row_is_before_the_one_above(
    tmp_path: Path, a: list[str], b: list[int], ordered: bool
) -> None:
    schema = {"a": pl.String, "b": pl.Int64}
    pl.DataFrame({"a": a, "b": b}, schema=schema).write_parquet(tmp_path / "rows.parquet")
    assert in_order(tmp_path / "rows.parquet", ["a", "b"]) is ordered
