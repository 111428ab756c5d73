"""Bootstrap resamples of rows: drawn once, and every group of rows and every model weighed by them.

A resample is given as how often each row was drawn when as many rows as there are, are drawn with
replacement (Efron 1979, Annals of Statistics 7(1)). A group of rows is weighed by the draws of its own rows,
so its size varies from resample to resample as it would from one set of rows to the next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from airflow_ml_provider.contract.gates import METRICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.ranked import Ranked

    Counts = NDArray[np.uint8]
    Floats = NDArray[np.float64]

# Rows times resamples held by a worker at once, in counts of one byte.
_BATCH_CELLS = 4_000_000
# As many different numbers as two bytes hold.
_BLOCK = 65_536


def counts(rows: int, resamples: int, seed: int) -> Iterator[Counts]:
    """How often each row was drawn, in batches of resamples: ``(some, rows)`` each.

    Each batch has a seed of its own, so it is the same whoever draws it.
    """
    for random, count in _batches(rows, resamples, seed):
        yield _draw(random, rows, count)


def resampled(
    views: Sequence[Sequence[Ranked]], rows: int, resamples: int, seed: int
) -> list[NDArray[np.float64]]:
    """The metrics of each resample, on all threads: for each view ``(resamples, models, metrics)``.

    :param views: groups of rows, each ranked by every model; all index into the same ``rows``.
    """
    if resamples < 1 or not rows:
        return [np.full((0, len(view), len(METRICS)), np.nan) for view in views]

    def work(batch: tuple[np.random.Generator, int]) -> list[Floats]:
        drawn = _draw(batch[0], rows, batch[1])
        return [np.stack([model.metrics(drawn) for model in view], axis=1) for view in views]

    # NumPy works outside the interpreter's lock.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as workers:
        done = list(workers.map(work, _batches(rows, resamples, seed)))
    return [np.concatenate([batch[view] for batch in done]) for view in range(len(views))]


def _batches(rows: int, resamples: int, seed: int) -> list[tuple[np.random.Generator, int]]:
    size = max(1, _BATCH_CELLS // rows)
    sizes = [min(size, resamples - start) for start in range(0, resamples, size)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    return [(np.random.default_rng(own), count) for own, count in zip(seeds, sizes, strict=True)]


def _draw(random: np.random.Generator, rows: int, count: int) -> Counts:
    # A row is drawn more than 255 times with a chance below 1e-500, or where there are fewer rows, never.
    found = np.empty((count, rows), np.uint8)
    if rows > _BLOCK:
        for line in found:
            _draw_blocks(random, line)
        return found
    step = max(1, _BLOCK // rows)
    for start in range(0, count, step):
        lines = found[start : start + step]
        drawn = random.integers(0, rows, size=lines.shape)
        drawn += np.arange(len(lines))[:, None] * rows
        lines[:] = np.bincount(drawn.ravel(), minlength=lines.size).reshape(lines.shape)
    return found


def _draw_blocks(random: np.random.Generator, line: Counts) -> None:
    """One resample of many rows: first how many fall into each block of rows, then which of them.

    That is the same distribution, and a block's counts fit the processor's cache.
    """
    rows = len(line)
    starts = np.arange(0, rows, _BLOCK)
    sizes = np.minimum(_BLOCK, rows - starts)
    for start, size, drawn in zip(starts, sizes, random.multinomial(rows, sizes / rows), strict=True):
        own = random.integers(0, size, size=drawn, dtype=np.uint16)
        line[start : start + size] = np.bincount(own, minlength=size)
