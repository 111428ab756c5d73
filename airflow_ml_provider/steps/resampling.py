"""Bootstrap resamples of rows: drawn once, and every group of rows and every model weighed by them.

A resample is given as how often each row was drawn when as many rows as there are, are drawn with
replacement (Efron 1979, Annals of Statistics 7(1)). A group of rows is weighed by the draws of its own rows,
so its size varies from resample to resample as it would from one set of rows to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from airflow_ml_provider.contract.gates import METRICS
from airflow_ml_provider.steps.threads import available

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.ranked import Ranked

    Counts = NDArray[np.uint8]
    Floats = NDArray[np.float64]

Advance = Callable[[int], object]

# Rows times resamples that are drawn from one seed: another number would make other draws.
_BATCH_CELLS = 4_000_000
# Rows times resamples held by a worker at once, in counts of one byte, if there are more than of one seed.
_WORK_CELLS = 16_000_000
# Resamples that are weighed side by side, and how many it takes to be worth it, whatever the number of rows.
_SIDE_BY_SIDE, _FEWEST = 64, 8
# As many different numbers as two bytes hold.
_BLOCK = 65_536


def nobody(resamples: int) -> None:
    """Whom to tell how many resamples are done, where nobody asks."""


def counts(rows: int, resamples: int, seed: int) -> Iterator[Counts]:
    """How often each row was drawn, in batches of resamples: ``(some, rows)`` each.

    Each batch has a seed of its own, so it is the same whoever draws it.
    """
    for random, count in _batches(rows, resamples, seed):
        yield _draw(random, rows, count)


def resampled(
    views: Sequence[Sequence[Ranked]],
    rows: int,
    resamples: int,
    seed: int,
    advance: Advance = nobody,
) -> list[NDArray[np.float64]]:
    """The metrics of each resample, on all threads: for each view ``(resamples, models, metrics)``.

    :param views: groups of rows, each ranked by every model; all index into the same ``rows``.
    :param advance: told, from any thread, of so many more resamples that are done.
    """
    if resamples < 1 or not rows:
        return [np.full((0, len(view), len(METRICS)), np.nan) for view in views]

    def work(batches: Sequence[tuple[np.random.Generator, int]]) -> list[Floats]:
        drawn = np.concatenate([_draw(random, rows, count) for random, count in batches])
        found: list[list[Floats]] = [[] for _ in views]
        for start in range(0, len(drawn), _SIDE_BY_SIDE):
            columns = np.ascontiguousarray(drawn[start : start + _SIDE_BY_SIDE].T)
            for view, of_view in zip(views, found, strict=True):
                of_view.append(np.stack([model.metrics(columns) for model in view], axis=1))
            advance(columns.shape[1])
        return [np.concatenate(of_view) for of_view in found]

    # NumPy works outside the interpreter's lock; matrices here are too small for threads of their own.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(available()) as workers:
        done = list(workers.map(work, _tasks(rows, resamples, seed)))
    return [np.concatenate([batch[view] for batch in done]) for view in range(len(views))]


def _tasks(rows: int, resamples: int, seed: int) -> Iterator[list[tuple[np.random.Generator, int]]]:
    """Batches that are worked on together."""
    batches = _batches(rows, resamples, seed)
    together = max(1, min(max(_WORK_CELLS // rows, _FEWEST), _SIDE_BY_SIDE) // batches[0][1])
    for start in range(0, len(batches), together):
        yield batches[start : start + together]


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
