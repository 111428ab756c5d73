"""Work in a few threads, in order: the libraries that do it let go of Python's lock meanwhile."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

# More would only hold more in memory.
_MOST_THREADS = 4

_Done = TypeVar("_Done")


def available() -> int:
    """How many threads to work with: the processors that this process may use, but a few at most."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MOST_THREADS)


def in_order(work: Iterable[Callable[[], _Done]]) -> Iterator[_Done]:
    """Do work, some ahead of what is asked for; results come in the order of the work.

    Work is taken from the iterable by the calling thread. The first exception ends it all.
    """
    threads = available()
    waiting: deque[Future[_Done]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for one in work:
            waiting.append(pool.submit(one))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
