"""Memory: how much this process may use, and how much a file would take."""

from __future__ import annotations

import contextlib
import math
import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import polars as pl

from airflow_ml_provider.steps.laid_files import scan

# Control groups of version 2, and of version 1, which say a huge number for "no limit".
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
_SAMPLE = 10_000


def available(groups: Path = _GROUPS, own: Path = _OWN_GROUP) -> int:
    """Bytes that this process may use: of the machine, its control groups and its own limits, the least.

    :param groups: where control groups are mounted; in a container, this one's own is at the top.
    :param own: says which group this process is in, where all of the machine's are to be seen.
    """
    return min(_limits(groups, own))


def held_bytes(path: Path, columns: Sequence[str] | None = None) -> int:
    """About how much memory a file takes, by its first rows.

    :param columns: of these columns only.
    """
    frame = scan(path)
    frame = frame if columns is None else frame.select(*dict.fromkeys(columns))
    count: int = frame.select(pl.len()).collect().item()
    sample = frame.head(_SAMPLE).collect()
    return math.ceil(sample.estimated_size() / max(sample.height, 1) * count)


def _limits(groups: Path, own: Path) -> Iterator[int]:
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _limiting(groups, own):
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            yield int(path.read_text())
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft


def _limiting(groups: Path, own: Path) -> Iterator[Path]:
    """The files that may hold a limit of the process's group, and of those above it."""
    inside = {"": "/", "memory": "/"}
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, kinds, group = line.split(":", 2)
            inside |= dict.fromkeys(kinds.split(","), group)
    for top, name, group in (
        (groups, "memory.max", inside[""]),
        (groups / "memory", "memory.limit_in_bytes", inside["memory"]),
    ):
        here = PurePosixPath(group)
        for above in (here, *here.parents):
            yield top / str(above).lstrip("/") / name
