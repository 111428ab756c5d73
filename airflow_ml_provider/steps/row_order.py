"""What is known of a file's rows by looking once: that keys are all different, that they are in order.

Both are the usual case, and far cheaper to see than to bring about.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.steps.laid_files import scan

if TYPE_CHECKING:
    from numpy.typing import NDArray

# So many hashes are held and sorted at a time.
HELD_ROWS = 50_000_000


def all_different(path: Path, key: Sequence[str], *, held_rows: int = HELD_ROWS) -> bool:
    """Whether it is certain that no two rows of a file have the same key.

    Equal keys have equal hashes. False may be wrong, with two different keys of one hash.

    :param held_rows: how many keys to look at at a time, all with hashes of one range.
    """
    frame = scan(path)
    kinds = frame.collect_schema()
    whole = len(key) == 1 and kinds[key[0]].is_integer()
    marks = pl.col(key[0]) if whole else pl.struct(key).hash()
    count = frame.select(pl.len()).collect().item()
    parts = math.ceil(count / held_rows)
    for part in range(parts):
        some = frame.select(mark=marks)
        if parts > 1:
            some = some.filter(pl.col("mark").hash() % parts == part)
        found = some.collect(engine="streaming")["mark"]
        if found.null_count() or not _differ(found.to_numpy()):
            return False
    return True


def in_order(path: Path, by: Sequence[str]) -> bool:
    """Whether the rows of a file come in the order of some columns without nulls."""
    before = [(pl.col(column), pl.col(column).shift(1)) for column in by]
    # From the last column on: smaller, or as small and in order by the rest.
    rises = functools.reduce(
        lambda rest, pair: (pair[1] < pair[0]) | ((pair[1] == pair[0]) & rest), reversed(before), pl.lit(True)
    )
    found = scan(path).select(rises.fill_null(True).all())
    return bool(found.collect(engine="streaming").item())


def _differ(marks: NDArray[Any]) -> bool:
    marks = np.sort(marks)
    return not bool((marks[1:] == marks[:-1]).any())
