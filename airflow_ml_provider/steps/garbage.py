"""Python's garbage collector, in a process that begins with imports.

Its looking through what imports make, which lives to the end, takes a fifth of the time that they take, and half
of the time that a process takes to end.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_RARE = 100_000


def while_importing() -> None:
    """Look for garbage rarely, until :func:`from_now_on`."""
    gc.set_threshold(_RARE, *_USUAL[1:])


def from_now_on() -> None:
    """Look for it as usual, but not among what is there already; after :func:`while_importing` only.

    In a process that runs one step after the other, garbage of the last would be among it.
    """
    if gc.get_threshold()[0] == _RARE:
        gc.freeze()
        gc.set_threshold(*_USUAL)


def at_the_end() -> None:
    """Leave all that is there to the operating system.

    Unless a library was made with nanobind, as DuckDB: these complain of what is left when a process ends. A file
    that is open still is written to its end as ever, unless objects that refer to each other in a circle hold it.
    """
    if any(getattr(kind, "__module__", "") == "nanobind" for kind in type.__subclasses__(type)):
        gc.unfreeze()
    else:
        gc.freeze()
