"""The evidence that a person sees who is asked to approve a promotion, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MOST_SLICES = 12
_MOST_CHANGES = 20
_SPECIAL = str.maketrans({each: f"\\{each}" for each in "\\|`*_[]<>#"})


def evidence(verdict: Mapping[str, Any], links: Mapping[str, str], alias: str, effective: str = "") -> str:
    """What the verdict says of a candidate against the champion.

    :param verdict: the document of an evaluate step.
    :param links: of the evaluate step: name to URL.
    :param effective: from when the candidate is to count, if not from when the alias moves.
    """
    sections = (
        _opening(verdict, alias, effective),
        _rules(verdict),
        _metrics(verdict),
        _slices(verdict),
        _changes(verdict),
        _links(links),
    )
    return "\n\n".join("\n".join(lines) for section in sections if (lines := list(section)))


def _opening(verdict: Mapping[str, Any], alias: str, effective: str) -> Iterator[str]:
    champion = verdict.get("champion")
    against = f"version {champion['version']}, the champion" if champion else "no champion yet"
    model = verdict["model"]
    yield (
        f"**{_plain(model['name'])} version {model['version']}** is to become `{_code(alias)}`; it was compared "
        f"with {against} on {verdict.get('rows', 0):,} rows of {_plain(verdict.get('table', '?'))}"
        f" ({_plain(verdict.get('partitions') or 'all')})."
    )
    if effective.strip():
        yield ""
        yield f"**It is to count from {_plain(effective)} on**, in predictions as of a moment before today, too."


def _rules(verdict: Mapping[str, Any]) -> Iterator[str]:
    gates = verdict.get("gates") or ()
    behaviour = verdict.get("behaviour") or ()
    if not gates and not behaviour:
        yield "**No gate was given**: any candidate passes."
        return
    yield "### Rules"
    yield ""
    for gate in gates:
        yield f"* {_mark(gate)} {_plain(gate['gate'])} - {_plain(gate.get('reason', ''))}"
    if behaviour:
        failed = [line for line in behaviour if not line.get("passed")]
        passed = len(behaviour) - len(failed)
        yield f"* {_mark({'passed': not failed})} {passed} of {len(behaviour)} behavioural tests"


def _metrics(verdict: Mapping[str, Any]) -> Iterator[str]:
    found = verdict.get("metrics") or {}
    champion, differences = verdict.get("champion_metrics") or {}, verdict.get("differences") or {}
    if not found:
        return
    yield "### Metrics, with 95 % intervals"
    yield ""
    yield "| metric | candidate | champion | difference |"
    yield "| --- | --- | --- | --- |"
    for name, estimate in found.items():
        cells = (estimate, champion.get(name), differences.get(name))
        shown = [_interval(cell, signed=number == 2) for number, cell in enumerate(cells)]
        yield f"| {_plain(name)} | {' | '.join(shown)} |"


def _slices(verdict: Mapping[str, Any]) -> Iterator[str]:
    compared = [
        each
        for each in verdict.get("slices") or ()
        if (each.get("difference") or {}).get("value") is not None
    ]
    if not compared:
        return
    worst: Sequence[Any] = sorted(compared, key=lambda each: float(each["difference"]["value"]))[
        :_MOST_SLICES
    ]
    yield "### Slices where the candidate gains least (ROC AUC)"
    yield ""
    yield "| slice | rows | candidate | difference |"
    yield "| --- | --- | --- | --- |"
    for each in worst:
        value = "(missing)" if each["value"] is None else each["value"]
        difference = _interval(each["difference"], signed=True)
        yield (
            f"| {_plain(each['column'])} = {_plain(value)} | {each['rows']:,} | "
            f"{_interval(each['roc_auc'])} | {difference} |"
        )


def _changes(verdict: Mapping[str, Any]) -> Iterator[str]:
    changes = verdict.get("changes") or ()
    if not verdict.get("champion"):
        return
    yield "### What changed since the champion"
    yield ""
    if not changes:
        yield "Nothing that is recorded: data, code, parameters and features are the same."
        return
    yield "| what | champion | candidate |"
    yield "| --- | --- | --- |"
    for change in changes[:_MOST_CHANGES]:
        yield f"| {_plain(change['what'])} | {_plain(change['champion'])} | {_plain(change['candidate'])} |"
    if (more := len(changes) - _MOST_CHANGES + verdict.get("changes_left_out", 0)) > 0:
        yield f"\n{more} more are in the report."


def _links(links: Mapping[str, str]) -> Iterator[str]:
    shown = [
        f"[{_plain(name)}]({url})" for name, url in links.items() if url.startswith(("http://", "https://"))
    ]
    if shown:
        yield " · ".join(shown)


def _interval(estimate: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    if not estimate or estimate.get("value") is None:
        return "-"
    sign = "+" if signed else ""
    said = f"{estimate['value']:{sign}.4f}"
    low, high = estimate.get("low"), estimate.get("high")
    return said if low is None or high is None else f"{said} [{low:{sign}.4f}, {high:{sign}.4f}]"


def _mark(line: Mapping[str, Any]) -> str:
    return "passed:" if line.get("passed") else "**FAILED:**"


def _plain(text: Any) -> str:
    """Text from outside, with nothing in it that Markdown would act on."""
    return " ".join(str(text).split()).translate(_SPECIAL)


def _code(text: str) -> str:
    return text.replace("`", "'")
