"""The table of the benchmarks: what a ratio is, when a target is met, and what a part of a run replaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.measuring import Cost, Row, in_turn
from bench.table import line, remember


def row(ours: list[float], theirs: list[float], **more: object) -> Row:
    return Row("work", "reference", "<= 1.5x", [Cost(s) for s in ours], [Cost(s) for s in theirs], **more)  # type: ignore[arg-type]


def test_the_ratio_is_the_median_over_pairs_of_runs_with_its_spread() -> None:
    assert "1.50 (1.00–4.00)x cost, n=3" in line(row([2, 3, 4], [2, 2, 1], limit=1.5))


def test_a_speed_is_the_reference_over_ours() -> None:
    assert "0.50 (0.50–0.50)x speed, n=1" in line(row([4], [2], as_speed=True, limit=0.7))


@pytest.mark.parametrize(
    ("ours", "as_speed", "limit", "said"),
    [
        ([3.0], False, 1.5, "<= 1.5x met |"),
        ([3.1], False, 1.5, "<= 1.5x **missed** |"),
        ([4.0], True, 0.5, "<= 1.5x met |"),
        ([4.1], True, 0.5, "<= 1.5x **missed** |"),
        ([9.0], False, None, "<= 1.5x  |"),
    ],
)
def test_a_missed_target_is_shown_as_missed(
    ours: list[float], as_speed: bool, limit: float | None, said: str
) -> None:
    assert line(row(ours, [2.0], as_speed=as_speed, limit=limit)).endswith(said)


def test_runs_take_turns_in_going_first() -> None:
    order: list[str] = []

    def once(who: str) -> Cost:
        order.append(who)
        return Cost(1)

    in_turn(lambda: once("ours"), lambda: once("theirs"), 3)
    assert order == ["theirs", "ours", "ours", "theirs", "theirs", "ours"]


def test_a_part_measured_again_replaces_its_own_lines_only(tmp_path: Path) -> None:
    remember(tmp_path, "predict", ["| old predict |"], 0.2)
    remember(tmp_path, "ingest", ["| ingest |"], 0.1)
    remember(tmp_path, "predict", ["| new predict |"], 7.04)
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.index("| ingest |") < text.index("| new predict |")
    assert "old predict" not in text
    assert "(0.1), predict" in text
    assert "(7.0)." in text
