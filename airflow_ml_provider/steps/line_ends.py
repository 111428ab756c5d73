"""Where the lines of a text end: counted at once, found only where somebody asks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_NEWLINE = b"\n"[0]
# What one look for a line goes through: small enough that a few bad rows cost next to nothing.
_PIECE = 1 << 16


class LineEnds:
    """The line feeds of a text that ends with one.

    :param data: the text.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        text = np.frombuffer(data, np.uint8)
        self._pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
        counts = [np.count_nonzero(piece == _NEWLINE) for piece in self._pieces]
        # How many there are before each piece, and in all.
        self._before = np.cumsum([0, *counts])
        self._found: dict[int, npt.NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return int(self._before[-1])

    def line(self, number: int) -> bytes:
        """A line, counted from 0, with its line feed."""
        return self._data[self._behind(number) : self._behind(number + 1)]

    def _behind(self, count: int) -> int:
        """The offset behind so many line feeds."""
        if not count:
            return 0
        piece = int(np.searchsorted(self._before, count)) - 1
        if piece not in self._found:
            self._found[piece] = np.flatnonzero(self._pieces[piece] == _NEWLINE)
        return piece * _PIECE + int(self._found[piece][count - int(self._before[piece]) - 1]) + 1
