"""Every way a step can fail, by name; each name says whether trying again helps.

A message has four parts, so that whoever is woken by it can act: what happened, what was kept, what a
retry will do, and what to do next.
"""

from __future__ import annotations

from typing import ClassVar, Literal

ErrorKind = Literal["config", "user", "data", "transient", "infrastructure", "preempted"]


class MLError(Exception):
    """Base of all errors of this package.

    :param what: what happened, naming the object (table, partition, file, line, column, model).
    :param kept: what is still there and valid.
    :param retry: what another try will do; the kind's own sentence when left out.
    :param todo: what to type or change next.
    """

    kind: ClassVar[ErrorKind] = "infrastructure"
    retryable: ClassVar[bool] = True
    exit_code: ClassVar[int] = 70
    default_retry: ClassVar[str] = "a retry runs the step again from its pinned inputs"

    def __init__(self, what: str, *, kept: str = "", retry: str = "", todo: str = "") -> None:
        self.what = what
        self.kept = kept or "everything published before; this step published nothing"
        self.retry = retry or self.default_retry
        self.todo = todo
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what, f"  kept: {self.kept}", f"  retry: {self.retry}"]
        if self.todo:
            lines.append(f"  next: {self.todo}")
        return "\n".join(lines)


class ConfigError(MLError):
    """The step was asked for something that cannot be: a setting, a name, a version. A retry cannot help."""

    kind = "config"
    retryable = False
    exit_code = 64
    default_retry = "not retried: the same settings would fail the same way"


class UserCodeError(MLError):
    """The user's function raised, or asks for something that does not exist. A retry cannot help."""

    kind = "user"
    retryable = False
    exit_code = 65
    default_retry = "not retried: the same code on the same data would fail the same way"


class DataError(MLError):
    """The data is not what was declared, or fails its gate. A retry cannot help until the data changes."""

    kind = "data"
    retryable = False
    exit_code = 66
    default_retry = "not retried: the same data would fail the same way"


class TransientError(MLError):
    """A service did not answer or answered that it is busy. A retry is likely to help."""

    kind = "transient"
    exit_code = 75


class InfrastructureError(MLError):
    """The place where the step runs failed it: killed, out of memory, disk full. A retry may help."""

    kind = "infrastructure"
    exit_code = 70


class PreemptedError(MLError):
    """The place was taken away (node drained, spot capacity reclaimed). A retry continues."""

    kind = "preempted"
    exit_code = 76


ERRORS_BY_KIND: dict[str, type[MLError]] = {
    error.kind: error
    for error in (ConfigError, UserCodeError, DataError, TransientError, InfrastructureError, PreemptedError)
}


def did_you_mean(name: str, known: list[str] | tuple[str, ...]) -> str:
    """A closing for "unknown name" messages: the nearest known names, or all of them."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=3)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"known: {', '.join(sorted(known))}" if known else "there are none"
