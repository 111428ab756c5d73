"""Long loops say how far they are: in the log, and in a record of the run."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airflow_ml_provider.contract.documents import Code, StepSpec
from airflow_ml_provider.contract.store import Store, local_path
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.progress import Progress, Standing, record


class Clock:
    """Shows the time that a test says."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "airflow_ml_provider.steps")
    return lambda: [entry.getMessage() for entry in caplog.records]


@pytest.mark.parametrize(
    ("standing", "text"),
    [
        (
            Standing("rows", 12_300_000, 50_000_000, 10.25),
            "12,300,000 of 50,000,000 rows (24 %), 1.2 M rows/s, 31 s left",
        ),
        (Standing("rows", 2_000, None, 1.0), "2,000 rows, 2.0 k rows/s"),
        (Standing("items", 7, 10, 100.0, before=5), "7 of 10 items (70 %), 0.02 items/s, 2 min left"),
        (Standing("files", 1, 3_601, 2.0), "1 of 3,601 files (0 %), 0.5 files/s, 2 h 0 min left"),
        (Standing("rows", 10, 10, 4.0), "10 of 10 rows (100 %), 2.5 rows/s, in 4 s"),
        (Standing("rows", 0, 10, 9.0), "0 of 10 rows (0 %)"),
        (Standing("rows", 0, 0, 0.0), "0 of 0 rows, in 0 s"),
    ],
)
def test_a_line_says_count_rate_and_time_left_where_they_are_known(standing: Standing, text: str) -> None:
    assert str(standing) == text


def test_a_loop_speaks_at_most_every_five_seconds_and_once_more_at_its_end(clock: Clock, said: Any) -> None:
    kept: list[dict[str, Any]] = []
    with Progress("rows", 100, keep=kept.append, clock=clock) as progress:
        for _ in range(100):
            clock.now += 0.25
            progress.advance()
    assert [line.split(" rows")[0] for line in said()] == [
        "20 of 100", "40 of 100", "60 of 100", "80 of 100", "100 of 100", "100 of 100",
    ]  # fmt: skip
    assert [document["done"] for document in kept] == [20, 40, 60, 80, 100, 100]
    assert kept[1].items() >= {"what": "rows", "total": 100, "rate": 4.0, "seconds_left": 15.0}.items()


def test_a_short_loop_says_nothing_and_leaves_no_record(clock: Clock, said: Any) -> None:
    kept: list[dict[str, Any]] = []
    with Progress("rows", 100, keep=kept.append, clock=clock) as progress:
        clock.now += 4.9
        progress.advance(100)
    clock.now += 60
    assert (said(), kept) == ([], [])


def test_how_far_a_failed_loop_came_is_said_at_its_end(clock: Clock, said: Any) -> None:
    def fail_later() -> None:
        with Progress("rows", clock=clock) as progress:
            clock.now += 5
            progress.advance(10)
            progress.advance(7)
            raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        fail_later()
    assert said() == ["10 rows, 2 rows/s", "17 rows, 3.4 rows/s"]


def test_nothing_is_lost_when_many_threads_count(clock: Clock) -> None:
    progress = Progress("rows", clock=clock)

    def count() -> None:
        for _ in range(2_000):
            progress.advance(3)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.standing.done == 24_000


def test_a_record_that_cannot_be_written_does_not_fail_the_step(
    tmp_path: Path, clock: Clock, said: Any
) -> None:
    step = StepContext(StepSpec("ingest", tmp_path.as_uri(), {}, step_key="a-step"), tmp_path)
    # A document where the run's folder would have to be.
    (tmp_path / "runs").write_text("in the way")
    with Progress("rows", keep=partial(record, step), clock=clock) as progress:
        clock.now += 5
        progress.advance(10)
    assert any("could not be recorded" in line for line in said())


def test_a_step_in_its_own_process_tells_its_log_and_its_record_while_it_runs(tmp_path: Path) -> None:
    # Its last item ends only when the record of its progress, made by the same step, has appeared.
    (tmp_path / "watching.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "def look(item):\n"
        "    end = time.monotonic() + 120\n"
        "    while item['wait'] and not Path(item['wait']).exists() and time.monotonic() < end:\n"
        "        time.sleep(0.05)\n"
        "    return {'seen': Path(item['wait']).exists() if item['wait'] else False}\n"
    )
    store = Store((tmp_path / "store").as_uri())
    kept = local_path(store.run_uri("watched", "progress.json"))
    spec = StepSpec(
        verb="fleet",
        store=store.uri,
        arguments={"function": "watching:look", "items": [{"wait": ""}, {"wait": str(kept)}], "parallelism": 1},
        step_key="watched",
        code=Code(roots=(str(tmp_path),)),
    )  # fmt: skip
    path = tmp_path / "spec.json"
    path.write_bytes(spec.encode())
    ran = subprocess.run(
        [sys.executable, "-m", "airflow_ml_provider.steps", "fleet", "--spec", str(path)],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    assert "1 of 2 items (50 %)" in ran.stdout
    assert json.loads(kept.read_bytes()).items() >= {"what": "items", "total": 2, "running": 1}.items()
