"""Where two documents of JSON values differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

# When rows were scored, and how long scoring took, is another time each time.
TIMES = ("predicted_at", "milliseconds", "seconds", "version", "data_docs", "report", "url")


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Each place where they differ, with both values; times and addresses do not count.

    :param where: what to say before a place.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}, key=str):
            if not any(word in str(name).lower() for word in TIMES):
                yield from differences(before.get(name), after.get(name), f"{where}{name} ")
        return
    if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{where}{number} ")
        return
    if isinstance(before, float) and isinstance(after, float) and math.isnan(before) and math.isnan(after):
        return
    if before != after:
        yield f"{where.strip()}: {before} -> {after}".lstrip(": ")
