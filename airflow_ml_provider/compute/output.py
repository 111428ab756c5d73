"""A step's output in the task's log: line by line, at the level that the step gave each line."""

from __future__ import annotations

import logging
import re
from collections import deque

_LEVELLED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)", re.S)
_KEPT_LINES = 15

log = logging.getLogger("airflow_ml_provider.compute")


class Output:
    """Tells lines, and keeps the last ones for the message of a failure."""

    def __init__(self) -> None:
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)

    def tell(self, line: str) -> None:
        """One line to the task's log."""
        self._last.append(line)
        levelled = _LEVELLED.fullmatch(line)
        if levelled:
            log.log(logging.getLevelNamesMapping()[levelled[1]], "%s", levelled[2])
        else:
            log.info("%s", line)

    @property
    def last_lines(self) -> str:
        """The end of it."""
        return "\n".join(self._last)
