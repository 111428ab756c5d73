"""Memory: how much this process may use, and how much a file would take."""

from __future__ import annotations

import contextlib
import math
import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

# Of the container: cgroup version 2, then version 1, which says a huge number for "no limit".
_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_SAMPLE = 10_000


def available(container: tuple[str, ...] = _CONTAINER) -> int:
    """Bytes that this process may use: of the machine, its container and its own limits, the least.

    :param container: files that hold the limit of the container.
    """
    return min(_limits(container))


def held_bytes(path: Path, columns: Sequence[str] | None = None) -> int:
    """About how much memory a Parquet file takes, by its first rows.

    :param columns: of these columns only.
    """
    frame = pl.scan_parquet(path)
    frame = frame if columns is None else frame.select(*dict.fromkeys(columns))
    count: int = frame.select(pl.len()).collect().item()
    sample = frame.head(_SAMPLE).collect()
    return math.ceil(sample.estimated_size() / max(sample.height, 1) * count)


def _limits(container: tuple[str, ...]) -> Iterator[int]:
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in container:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            yield int(Path(path).read_text())
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft
