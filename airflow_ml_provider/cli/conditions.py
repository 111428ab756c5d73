"""Conditions on what a run's tasks report: ``roc_auc>=0.74``, ``verdict==promote``, ``evaluate.rows>1000``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ml_provider.contract.errors import ConfigError, did_you_mean

Value = bool | int | float | str

_FORM = re.compile(r"\s*([^\s<>=!]+)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*")
_ORDER: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_WORDS: dict[str, Value] = {"true": True, "false": False}
_TODO = 'write it as "roc_auc>=0.74", "verdict==promote" or "task.metric<=1"; operators: >= <= > < == !='


@dataclass(frozen=True)
class Condition:
    """A name, an operator and what the value is held against."""

    name: str
    sign: str
    bound: Value

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {shown(self.bound)}"


@dataclass(frozen=True)
class Judged:
    """A condition with its answer, where the value came from, and why."""

    condition: Condition
    passed: bool
    reason: str
    value: Value | None = None


@dataclass(frozen=True)
class Outputs:
    """What the tasks of a run returned, by task id; of ours, the manifests of their results."""

    documents: Mapping[str, Any]

    def values(self) -> dict[str, dict[str, Value]]:
        """Each name to its value by task: short names of metrics and the verdict, and dotted paths of all."""
        found: dict[str, dict[str, Value]] = {}
        for task, document in self.documents.items():
            for name, value in _named(document).items():
                found.setdefault(name, {})[task] = value
        return found

    def find(self, name: str) -> dict[str, Value]:
        """The tasks that report a name, with their values; ``task.name`` asks for one task's.

        A metric that an evaluate step and others report is the evaluate step's: its rows were held out.
        """
        values = self.values()
        if reported := values.get(name):
            judges = {task: value for task, value in reported.items() if self._evaluates(task)}
            return judges or reported
        # The longest task id first: a task's id holds dots when it is in a group.
        for task in sorted(self.documents, key=len, reverse=True):
            if name.startswith(f"{task}.") and task in (at := values.get(name[len(task) + 1 :], {})):
                return {task: at[task]}
        return {}

    def names(self) -> list[str]:
        """The names worth suggesting: metrics and verdicts, and of several tasks, each with its task."""
        short = {name: tasks for name, tasks in self.values().items() if "." not in name}
        return sorted(
            [*short, *(f"{task}.{name}" for name, tasks in short.items() if len(tasks) > 1 for task in tasks)]
        )

    def _evaluates(self, task: str) -> bool:
        document = self.documents[task]
        return isinstance(document, dict) and document.get("verb") == "evaluate"


def parse_condition(text: str) -> Condition:
    """A condition from its text; nothing in it is run.

    :raises ConfigError: it is none.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is not a gate", todo=_TODO)
    name, sign, bound = found[1], found[2], _literal(found[3])
    if bound == "" or (isinstance(bound, str) and bound.startswith(("=", ">", "<"))):
        raise ConfigError(f"{text!r} is not a gate", todo=_TODO)
    if sign in _ORDER and (isinstance(bound, str | bool) or math.isnan(bound)):
        raise ConfigError(f"{text!r}: {sign} needs a number on its right", todo=_TODO)
    return Condition(name, sign, bound)


def judge(condition: Condition, outputs: Outputs) -> Judged:
    """Whether the run's tasks meet a condition; what nobody reports does not."""
    reported = outputs.find(condition.name)
    if not reported:
        known = outputs.names()
        hint = did_you_mean(condition.name, known) if known else "no task reports a metric or a verdict"
        return Judged(condition, False, f"no task reports {condition.name}; {hint}")
    if len({(type(value) is str, value) for value in reported.values()}) > 1:
        said = ", ".join(f"{task}.{condition.name} = {shown(value)}" for task, value in reported.items())
        return Judged(condition, False, f"several tasks report it: {said}; name one of them")
    task, value = next(iter(reported.items()))
    if condition.sign in _ORDER:
        if isinstance(value, str | bool):
            return Judged(condition, False, f"{task} reports {shown(value)}, which is not a number", value)
        passed = _ORDER[condition.sign](float(value), float(condition.bound))
    else:
        passed = _equal(value, condition.bound) is (condition.sign == "==")
    return Judged(condition, passed, f"{task} reports {shown(value)}", value)


def shown(value: Value | None) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _equal(value: Value, bound: Value) -> bool:
    # A text that looks like a number ("5") is compared as it was written.
    if isinstance(value, str) or isinstance(bound, str):
        return (
            str(value).lower() == str(bound).lower()
            if isinstance(value, bool)
            else str(value) == shown(bound)
        )
    return isinstance(value, bool) == isinstance(bound, bool) and value == bound


def _literal(text: str) -> Value:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _named(document: Any) -> dict[str, Value]:
    if not isinstance(document, dict):
        return {"value": document} if isinstance(document, Value) else {}
    paths = _flat(document, "")
    if "verb" not in document:
        return paths
    short: dict[str, Value] = {
        name: value for name, value in _scalars(document.get("metrics")) if isinstance(value, int | float)
    }
    verdict = document.get("verdict")
    decision = verdict.get("decision") if isinstance(verdict, dict) else None
    if isinstance(decision, str):
        short["verdict"] = decision
    return {**paths, **short}


def _flat(document: Mapping[str, Any], prefix: str) -> dict[str, Value]:
    found: dict[str, Value] = {prefix + name: value for name, value in _scalars(document)}
    for name, value in document.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
    return found


def _scalars(document: Any) -> list[tuple[str, Value]]:
    items = document.items() if isinstance(document, dict) else ()
    return [(str(name), value) for name, value in items if isinstance(value, Value)]
