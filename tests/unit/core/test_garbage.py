"""Python's garbage collector in the process of a step."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_ml_provider.contract.documents import Code, StepSpec
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


def test_the_users_code_in_a_steps_process_has_its_garbage_looked_for_as_usual(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import gc, pathlib\nimport polars as pl\n"
        "def threshold(rows: pl.DataFrame):\n"
        f"    pathlib.Path({str(tmp_path / 'found')!r}).write_text(str(gc.get_threshold()))\n"
        "    return rows\n"
    )
    (tmp_path / "rows.csv").write_text("ds,n\nd1,1\n")
    arguments = {
        "source": str(tmp_path / "rows.csv"),
        "schema": {"columns": [{"name": "ds"}, {"name": "n", "type": "int64"}]},
        "transform": "mine:threshold",
        "publish": {"name": "rows"},
    }
    spec = StepSpec("ingest", tmp_path.as_uri(), arguments, code=Code((str(tmp_path),)), step_key="a-step")
    (tmp_path / "spec.json").write_bytes(spec.encode())
    command = ["-m", "airflow_ml_provider.steps", "ingest", "--spec", str(tmp_path / "spec.json")]
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "found").read_text() == str(gc.get_threshold())


def test_in_a_process_that_runs_many_steps_nothing_is_left_out() -> None:
    before = gc.get_freeze_count()
    garbage.from_now_on()
    assert gc.get_freeze_count() == before


@pytest.mark.parametrize("library", ["polars", "duckdb"])
def test_a_process_ends_without_complaints_of_what_is_left(library: str) -> None:
    program = (
        "from airflow_ml_provider.steps import garbage\n"
        f"garbage.while_importing()\nimport {library}\ngarbage.from_now_on()\ngarbage.at_the_end()\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
