"""Timestamps as text, typed all at once where each has what the thorough way asks for."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_SHORTEST = len("2013-06-01T00:00:00Z")
# Of these lengths are also times without seconds.
_DOUBTFUL = (len("2013-06-01T00:00+0000"), len("2013-06-01T00:00+00:00"))


def whole_timestamps(text: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray | None:
    """All values, ten times as fast as one by one, if each has a date, a time with seconds and an offset."""
    length = pc.binary_length(text)
    bounds = pc.min_max(length)
    shortest, longest = bounds["min"].as_py(), bounds["max"].as_py()
    if shortest is None or shortest < _SHORTEST:
        return None
    if longest > _SHORTEST and pc.any(pc.is_in(length, pa.array(_DOUBTFUL, length.type))).as_py():
        return None
    try:
        return pc.cast(text, pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid:
        return None
