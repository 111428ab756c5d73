"""What a check found, as a line for people and as JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from airflow_ml_provider.contract.errors import MLError

Status = Literal["ok", "FAIL", "skip"]
_HIDDEN = "***"
_SHORTEST_SECRET = 3


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    :param check: what was checked, the same in every run.
    :param what: what was found.
    :param todo: what to do about it.
    :param object: the object that a failure is about, with its kind: ``secret ml-store``.
    :param namespace: where it is, for objects of Kubernetes.
    :param verb: what was asked for, as RBAC spells it, or as the store does.
    :param seconds: how long what took.
    """

    status: Status
    check: str
    what: str
    todo: str = ""
    object: str = ""
    namespace: str = ""
    verb: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """For people; the fix of a failure is below it."""
        said = f"{self.status:4}  {self.check}: {self.what}"
        return f"{said}\n      fix: {self.todo}" if self.todo and self.status == "FAIL" else said

    def document(self) -> dict[str, Any]:
        """For machines, without what is empty."""
        return {name: value for name, value in asdict(self).items() if value}

    def without(self, secrets: Collection[str]) -> Finding:
        """With every secret replaced, wherever its text came from; on one line."""

        def clean(text: str) -> str:
            for secret in sorted(secrets, key=len, reverse=True):
                if len(secret) >= _SHORTEST_SECRET:
                    text = text.replace(secret, _HIDDEN)
            return " ".join(text.split())

        return replace(self, what=clean(self.what), todo=clean(self.todo), object=clean(self.object))


def ok(check: str, what: str, **more: Any) -> Finding:
    """All is well."""
    return Finding("ok", check, what, **more)


def skip(check: str, why: str) -> Finding:
    """It was not, or could not be, checked."""
    return Finding("skip", check, why)


def fail(check: str, error: MLError | str, todo: str = "", **more: Any) -> Finding:
    """It will not work like this."""
    if isinstance(error, MLError):
        return Finding("FAIL", check, error.what, error.todo or todo, **more)
    return Finding("FAIL", check, error, todo, **more)


def took(seconds: Mapping[str, float]) -> str:
    """Durations for people: ``write 2 ms, read 1 ms``."""
    return ", ".join(f"{what} {duration * 1000:.0f} ms" for what, duration in seconds.items())
