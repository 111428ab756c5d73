"""Looking up the newest fact, for entities and times of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from airflow_ml_provider.steps.newest_facts import newest_facts

START = datetime(2013, 6, 1)


def times(seconds: Sequence[int]) -> pl.Series:
    return pl.Series([START + timedelta(seconds=second) for second in seconds], dtype=pl.Datetime("us"))


def by_hand(
    rows: Sequence[tuple[Any, int]], facts: Sequence[tuple[Any, int, int]]
) -> list[tuple[int, int] | None]:
    """Event and knowledge time of the fact that each row uses."""
    found = []
    for entity, at in rows:
        usable = [fact[1:] for fact in facts if fact[0] == entity and fact[1] <= at and fact[2] <= at]
        found.append(max(usable) if usable and entity is not None else None)
    return found


def contradicted(those: np.ndarray) -> np.ndarray:
    raise AssertionError(f"facts {those} do not contradict each other")


@pytest.mark.parametrize("spread", [1, 10**9, 7 * 10**9], ids=["seconds", "decades", "centuries"])
@pytest.mark.parametrize(
    "entity",
    [
        lambda number: [number],
        lambda number: [number * 10**12 - 5 * 10**13],
        lambda number: [f"N{number}"],
        lambda number: [number // 10, f"{number % 10}"],
        lambda number: [number / 4],
        lambda number: [START.date() + timedelta(days=number), number % 2 == 0],
    ],
    ids=["small", "far apart", "text", "two columns", "floats", "dates and booleans"],
)
def test_rows_find_their_facts_whatever_identifies_them_and_however_far_apart_times_are(
    entity: Any, spread: int
) -> None:
    draw = np.random.default_rng(11)
    span = 30  # seconds apart, or so many times "spread"
    step = spread if spread > 1 else 1
    seconds = {int(second) for second in draw.integers(0, span, 4000)}
    scale = {second: second * (step // span) if step > 1 else second for second in seconds}
    facts = {
        (int(who), scale[int(event)], scale[min(int(event) + int(late), span - 1)])
        for who, event, late in zip(
            draw.integers(0, 100, 2000), draw.integers(0, span, 2000), draw.integers(0, 9, 2000), strict=True
        )
    }
    rows = [
        (int(who), scale[int(at)])
        for who, at in zip(draw.integers(0, 120, 500), draw.integers(0, span, 500), strict=True)
    ]
    ordered = sorted(facts, key=lambda fact: (fact[2], fact))
    fact_columns = [pl.Series(values) for values in zip(*(entity(fact[0]) for fact in ordered), strict=True)]
    row_columns = [pl.Series(values) for values in zip(*(entity(row[0]) for row in rows), strict=True)]
    newest = newest_facts(
        fact_columns,
        times([fact[1] for fact in ordered]),
        times([fact[2] for fact in ordered]),
        max_age_seconds=None,
        tie=contradicted,
    )
    found = newest.of(row_columns, times([row[1] for row in rows]))
    used = [None if number < 0 else ordered[number][1:] for number in found.tolist()]
    assert used == by_hand(rows, ordered)
    assert None in used


def test_a_number_identifies_the_same_in_any_width() -> None:
    facts = [pl.Series([1, 2], dtype=pl.Int64)]
    newest = newest_facts(facts, times([0, 0]), times([0, 0]), max_age_seconds=None, tie=contradicted)
    rows = [pl.Series([2, 3, None, 1], dtype=pl.Int16)]
    assert newest.of(rows, times([1] * 4)).tolist() == [1, -1, -1, 0]


def test_without_facts_no_row_finds_one() -> None:
    nothing = [pl.Series([], dtype=pl.String)]
    newest = newest_facts(nothing, times([]), times([]), max_age_seconds=60, tie=contradicted)
    assert newest.of([pl.Series(["ann"])], times([1])).tolist() == [-1]


def test_of_facts_that_contradict_each_other_the_last_by_content_is_used_in_any_order() -> None:
    contents = np.array([7, 2**63 + 5, 3], np.uint64)
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        newest = newest_facts(
            [pl.Series(["ann"] * 3)],
            times([1] * 3),
            times([2] * 3),
            max_age_seconds=None,
            tie=lambda those, order=order: contents[order][those],
        )
        (found,) = newest.of([pl.Series(["ann"])], times([5])).tolist()
        assert order[found] == 1
