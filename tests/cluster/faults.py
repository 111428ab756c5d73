"""Failures a test orders: of the network, of the API server, of its watches."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

from .objects import MODIFIED

REASONS = {
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", "forbidden"),
    409: ("Conflict", MODIFIED),
    429: ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
    500: ("InternalError", "Internal error occurred: etcdserver: request timed out"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "Timeout: request did not complete within requested timeout"),
}


@dataclass
class Fault:
    """What befalls the next ``times`` requests that match (all of them when None)."""

    verb: str | None = None
    path: str = ""
    query: str = ""
    times: int | None = 1
    status: int | None = None
    message: str = ""
    retry_after: int | None = None
    drop: bool = False
    after_bytes: int | None = None
    processed: bool = False
    delay: float = 0.0
    skip: int = 0
    hits: int = 0

    def matches(self, verb: str, path: str, query: str) -> bool:
        spent = self.times is not None and self.hits >= self.times
        called = self.verb is None or self.verb == verb
        return called and not spent and bool(re.search(self.path, path) and re.search(self.query, query))


class Faults:
    """``add(verb="GET", path=r"/log$", status=500, times=3)``; each request meets the first that matches.

    ``verb`` is the HTTP method, ``path`` and ``query`` are regular expressions, ``skip`` lets that many
    matching requests through first. ``status`` answers instead of the server (with ``processed``: after the
    server did the work). ``drop`` closes the connection before the work is done; ``after_bytes=N`` does the
    work and closes after N bytes of the answer's body (0: the work is done, its answer lost).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.active: list[Fault] = []

    def add(self, verb: str | None = None, path: str = "", **how: object) -> Fault:
        fault = Fault(verb, path, **how)  # type: ignore[arg-type]
        with self._lock:
            self.active.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        with self._lock:
            self.active.remove(fault)

    def clear(self) -> None:
        with self._lock:
            self.active.clear()

    def meet(self, verb: str, path: str, query: str) -> Fault | None:
        with self._lock:
            for fault in self.active:
                if fault.matches(verb, path, query):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.hits += 1
                    return fault
        return None
