"""Python's garbage collector in the process of a step."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from airflow_ml_provider.steps import garbage


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_after_the_imports_garbage_is_looked_for_as_usual_but_not_among_them() -> None:
    usual = gc.get_threshold()
    garbage.while_importing()
    assert gc.get_threshold()[0] > 10 * usual[0]
    garbage.from_now_on()
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count()


def test_in_a_process_that_runs_many_steps_nothing_is_left_out() -> None:
    garbage.from_now_on()
    assert not gc.get_freeze_count()


@pytest.mark.parametrize("library", ["polars", "duckdb"])
def test_a_process_ends_without_complaints_of_what_is_left(library: str) -> None:
    program = (
        "from airflow_ml_provider.steps import garbage\n"
        f"garbage.while_importing()\nimport {library}\ngarbage.from_now_on()\ngarbage.at_the_end()\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
