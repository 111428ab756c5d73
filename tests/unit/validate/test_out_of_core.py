"""Validate and monitor work under a memory limit that the table itself does not fit in."""

from __future__ import annotations

from pathlib import Path

import out_of_core
import pytest

pytestmark = pytest.mark.slow

ROWS = 6_000_000
# The table takes 1.1 GB in memory.
MEGABYTES = 900


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "table"
    out_of_core.make(folder, ROWS)
    return folder


def test_the_limit_is_one_that_the_table_does_not_fit_in(table: Path) -> None:
    assert out_of_core.run(table, MEGABYTES, "load").returncode != 0


@pytest.mark.parametrize("work", ["validate", "monitor"])
def test_a_table_larger_than_memory_is_validated_and_monitored(table: Path, work: str) -> None:
    done = out_of_core.run(table, MEGABYTES, work)
    assert done.returncode == 0, done.stderr[-2000:]
