"""Work in a few threads, in order: the libraries that do it let go of Python's lock meanwhile."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

# More would only hold more in memory.
_MOST_THREADS = 4

_Done = TypeVar("_Done")
_LOOK_EVERY = 0.5
_END = object()


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available() -> int:
    """How many threads to work with: the processors that this process may use, but a few at most."""
    return min(processors(), _MOST_THREADS)


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


def ahead(items: Generator[_Done, None, None], most: int = 2) -> Iterator[_Done]:
    """The items of an iterator, which a thread of its own takes some ahead of what is asked for.

    An exception of the iterator is raised where its item would have come. The iterator is closed in its thread,
    also when nobody asks for the rest.

    :param most: that wait; one more is being made.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(most)
    given_up = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not given_up.is_set():
            try:
                waiting.put((item, error), timeout=_LOOK_EVERY)
                return
            except queue.Full:
                continue

    def take() -> None:
        try:
            with closing(items):
                for item in items:
                    put(item)
                    if given_up.is_set():
                        return
        except BaseException as error:
            put(_END, error)
        else:
            put(_END)

    thread = threading.Thread(target=take, daemon=True, name="ahead")
    thread.start()
    try:
        while (found := waiting.get())[0] is not _END:
            yield found[0]
        if found[1] is not None:
            raise found[1]
    finally:
        given_up.set()
        thread.join()
