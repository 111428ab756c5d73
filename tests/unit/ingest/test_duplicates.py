"""Rows with the key of an earlier row, against a dictionary, and under a limit of memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from limited import run_limited

from airflow_ml_provider.steps import duplicates
from airflow_ml_provider.steps.duplicates import Keys, Marks, find_duplicates

NAN = float("nan")


def keys_of(folder: Path, frames: Sequence[pl.DataFrame]) -> Keys:
    key = [name for name in frames[0].columns if name != "row"]
    keys = Keys(folder, key, "row")
    for frame in frames:
        keys.add(frame)
    return keys


def repeated(frames: Sequence[pl.DataFrame]) -> list[tuple[int, int]]:
    """Row and first row, by looking each key up; equal ones have the same text."""
    firsts: dict[str, int] = {}
    found = []
    for frame in frames:
        for *key, row in frame.select(pl.exclude("row"), "row").iter_rows():
            first = firsts.setdefault(repr([0.0 if value == 0 else value for value in key]), row)
            if first != row:
                found.append((row, first))
    return found


@pytest.mark.parametrize(("at_once", "rows"), [(200_000, 500_000), (3, 40)])
def test_duplicates_are_those_that_a_dictionary_finds_however_many_are_compared_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, rows: int
) -> None:
    monkeypatch.setattr(duplicates, "_KEYS_AT_ONCE", at_once)
    monkeypatch.setattr(duplicates, "_ROWS_AT_ONCE", rows)
    values = [None, 0.0, -0.0, NAN, -NAN, 1.5, 2.5]
    frames = [
        pl.DataFrame(
            {
                "n": [number * number % 97 for number in range(start, start + 50)],
                "x": [values[number % 7] for number in range(start, start + 50)],
                "text": ["" if number % 3 else None for number in range(start, start + 50)],
                "row": [10 * number for number in range(start, start + 50)],
            },
            schema_overrides={"x": pl.Float64},
        )
        for start in range(0, 1_000, 50)
    ]
    expected = repeated(frames)
    found = find_duplicates(keys_of(tmp_path / "keys", frames))
    assert list(zip(found.rows.tolist(), found.firsts.tolist(), strict=True)) == expected
    assert 0 < len(expected) < 1_000


def test_one_key_that_every_row_has_is_found_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_ROWS_AT_ONCE", 7)
    frames = [pl.DataFrame({"n": [None] * 5, "row": range(start, start + 5)}) for start in range(0, 50, 5)]
    found = find_duplicates(keys_of(tmp_path / "keys", frames))
    assert found.rows.tolist() == list(range(1, 50))
    assert set(found.firsts.tolist()) == {0}


def test_keys_of_which_none_is_repeated_have_no_duplicates(tmp_path: Path) -> None:
    frames = [
        pl.DataFrame({"n": range(start, start + 9), "row": range(start, start + 9)}) for start in (0, 9)
    ]
    assert not len(find_duplicates(keys_of(tmp_path / "keys", frames)).rows)


class FewMarks(Keys):
    """Keys of which many have the same mark."""

    def marks(self, frame: pl.DataFrame) -> Marks:
        return super().marks(frame) % np.uint64(4)


def test_other_keys_with_the_same_mark_are_no_duplicates(tmp_path: Path) -> None:
    keys = FewMarks(tmp_path / "keys", ["n"], "row")
    keys.add(pl.DataFrame({"n": [1, 2, 3, 4, 5, 6, 7, 8, 3], "row": range(9)}))
    found = find_duplicates(keys)
    assert (found.rows.tolist(), found.firsts.tolist()) == ([8], [2])


ALLOWED, ROWS = 320, 6_000_000
WHOLE = """
import sys
import numpy as np, polars as pl
a = pl.DataFrame({"a": np.arange(int(sys.argv[2]))})
assert a.with_columns(b=pl.format("a customer with a long name {}", pl.col("a")), row="a").height
"""
MANY = """
import pathlib, sys
import numpy as np, polars as pl
from airflow_ml_provider.steps.duplicates import Keys, find_duplicates
folder, rows = pathlib.Path(sys.argv[1]), int(sys.argv[2])
keys = Keys(folder / "keys", ["a", "b"], "row")
for start in range(0, rows, 50_000):
    n = pl.Series(np.arange(start, start + 50_000))
    # The last rows have the keys of the first.
    a = n % (rows - 1_000)
    text = pl.format("a customer with a long name {}", pl.col("a"))
    keys.add(pl.DataFrame({"a": a, "row": n}).with_columns(b=text))
found = find_duplicates(keys)
assert found.rows.tolist() == list(range(rows - 1_000, rows)), len(found.rows)
assert found.firsts.tolist() == list(range(1_000))
print("found")
"""


@pytest.mark.slow
def test_keys_that_are_larger_than_the_memory_allowed_are_compared_within_it(tmp_path: Path) -> None:
    modules = "numpy polars pyarrow airflow_ml_provider.steps.duplicates"
    whole = run_limited(ALLOWED, modules, WHOLE, tmp_path, ROWS)
    assert whole.returncode != 0, "the limit is one"
    done = run_limited(ALLOWED, modules, MANY, tmp_path, ROWS)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "found" in done.stdout
