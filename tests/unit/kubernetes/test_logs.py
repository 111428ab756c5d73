"""A pod's output in the task's log: while it runs, every line, each once."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from typing import Any

import pytest
from on_cluster import World

from airflow_ml_provider.compute.pod_logs import LogCursor

TALKS = """
    import time
    import polars as pl

    def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
        for number in range({lines}):
            print("line", number, flush=True)
            time.sleep({pause})
        return rows
    """


class Lines(logging.Handler):
    """What a task's log got, and when."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.got: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.got.append((time.monotonic(), record.getMessage()))

    @property
    def numbers(self) -> list[int]:
        return [int(found[1]) for _, text in self.got if (found := re.fullmatch(r"line (\d+)", text))]


@pytest.fixture
def lines() -> Any:
    found, log = Lines(), logging.getLogger("airflow_ml_provider.compute")
    log.addHandler(found)
    log.setLevel(logging.INFO)
    yield found
    log.removeHandler(found)


@pytest.mark.parametrize("deferrable", [True, False])
def test_every_line_is_told_once_in_order_and_while_the_pod_runs(
    world: World, lines: Lines, deferrable: bool
) -> None:
    task = world.task(TALKS.format(lines=120, pause=0.12), compute={"deferrable": deferrable})
    world.run(task)
    assert lines.numbers == list(range(120))
    at = [moment for moment, text in lines.got if text.startswith("line ")]
    assert at[-1] - at[0] > 4, "it was told all at the end"


@pytest.mark.parametrize("deferrable", [True, False])
def test_lost_connections_lose_and_repeat_nothing(world: World, lines: Lines, deferrable: bool) -> None:
    world.cluster.faults.add(verb="GET", path=r"/log$", after_bytes=700, times=3)
    world.cluster.faults.add(verb="GET", path=r"/log$", status=500, times=2, skip=1)
    task = world.task(TALKS.format(lines=80, pause=0.1), compute={"deferrable": deferrable})
    world.run(task)
    assert lines.numbers == list(range(80))


def test_a_flood_is_read_in_pieces_and_told_once(
    world: World, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_ml_provider.compute import pod_logs

    monkeypatch.setattr(pod_logs, "_PIECE", 4096)
    flood = """
        import time
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            print(chr(10).join(f"line {number}" for number in range(5000)), flush=True)
            time.sleep(9)
            return rows
        """
    world.run(world.task(flood))
    assert lines.numbers == list(range(5000))


def test_levels_are_kept(world: World) -> None:
    log, records = logging.getLogger("airflow_ml_provider.compute"), []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    log.addHandler(handler)
    warns = """
        import logging
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            logging.getLogger("mine").warning("look out")
            return rows
        """
    try:
        world.run(world.task(warns))
    finally:
        log.removeHandler(handler)
    assert [record.levelname for record in records if record.getMessage() == "look out"] == ["WARNING"]


def test_a_cursor_tells_lines_of_one_moment_once_each() -> None:
    lines = [
        b"2026-01-01T00:00:00.5Z a\n",
        b"2026-01-01T00:00:00.500000000Z b\n",
        b"2026-01-01T00:00:01Z c\n",
    ]
    cursor = LogCursor()
    assert list(cursor.new(lines[:1])) == ["a"]
    assert list(cursor.new(lines[:2])) == ["b"]
    cursor = LogCursor(str(cursor))
    assert list(cursor.new(lines)) == ["c"]
    assert list(cursor.new(lines)) == []


def test_a_cursor_understands_other_time_zones_and_no_times() -> None:
    told = list(
        LogCursor().new([b"2026-01-01T01:00:00.25+01:00 a", b"Internal error", b"2026-01-01T00:00:01Z b"])
    )
    assert Counter(told) == Counter(["a", "b"])
