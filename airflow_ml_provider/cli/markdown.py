"""A run as Markdown, fit for a comment on a pull request: the answer first, then the numbers behind it.

Names and values come from elsewhere: none can become a heading, a link, HTML, or a call to somebody ("@team").
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from airflow_ml_provider.cli.conditions import shown
from airflow_ml_provider.cli.trigger_story import Story, lasting

# A comment on GitHub holds 65,536 characters.
MOST_CHARACTERS = 60_000
MOST_ROWS = 25
MOST_OF_A_LOG = 6_000
_MARKS = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>])")


def document(story: Story) -> str:
    """The report."""
    parts = [
        f"### {_sign(story)} {code(story.dag_id)}: {_answer(story)}",
        _links(story),
        *_gates(story),
        *(part for name, output in _judged(story) for part in _verdict(name, output)),
        *_metrics(story),
        *_tasks(story),
        *_logs(story),
    ]
    whole = "\n\n".join(part for part in parts if part) + "\n"
    while len(whole) > MOST_CHARACTERS and len(parts) > 2:
        parts.pop()
        whole = (
            "\n\n".join([*(part for part in parts if part), "_shortened; all of it is in Airflow_"]) + "\n"
        )
    return whole


def text(value: Any) -> str:
    """Anything as plain text in Markdown, on one line."""
    plain = _MARKS.sub(r"\\\1", " ".join(str(value).split()))
    return html.escape(plain, quote=False).replace("\\&gt;", "&gt;").replace("@", "@\u200b")


def code(value: Any) -> str:
    """Anything as code in a line or in a cell of a table."""
    plain = " ".join(str(value).split()).replace("|", "\\|")
    if not plain:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    return f"{fence} {plain} {fence}" if "`" in plain else f"{fence}{plain}{fence}"


def link(name: str, url: str) -> str:
    """A link, where the address is one of the web; else the name and the address as text."""
    if urlsplit(url).scheme not in ("http", "https") or re.search(r"[\s<>]", url):
        return f"{text(name)} {code(url)}"
    return f"[{text(name)}]({url.replace('(', '%28').replace(')', '%29').replace('|', '%7C')})"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; what is beyond :data:`MOST_ROWS` is counted."""
    rows = list(rows)
    lines = [_row(heads), _row("---" for _ in heads), *map(_row, rows[:MOST_ROWS])]
    more = len(rows) - MOST_ROWS
    return "\n".join(lines) + (f"\n\nand {more} more" if more > 0 else "")


def _answer(story: Story) -> str:
    if story.trouble:
        return text(story.trouble)
    if story.state != "success":
        return f"the run {text(story.state)}"
    decisions = [output["verdict"]["decision"] for _, output in _judged(story)]
    decided = f"decision {', '.join(map(code, decisions))}" if decisions else "the run succeeded"
    missed = len(story.failed_gates)
    return f"{decided}, {missed} of {len(story.gates)} gates not met" if missed else decided


def _sign(story: Story) -> str:
    if story.trouble:
        return "⚠️"
    return "✅" if story.state == "success" and not story.failed_gates else "❌"


def _links(story: Story) -> str:
    found = {"Airflow run": story.url}
    for task, output in story.outputs.items():
        named = output.get("links") if isinstance(output, dict) else None
        for name, url in (named or {}).items() if isinstance(named, dict) else ():
            found.setdefault(name if name not in found else f"{name} of {task}", str(url))
    took = f"{lasting(story.seconds)} · " if story.seconds else ""
    return took + " · ".join(link(name, url) for name, url in list(found.items())[:12])


def _gates(story: Story) -> list[str]:
    if not story.gates:
        return []
    rows = [(_mark(gate.passed), code(gate.condition), text(gate.reason)) for gate in story.gates]
    return ["**Gates of this job**", table(("", "gate", "why"), rows)]


def _judged(story: Story) -> list[tuple[str, dict[str, Any]]]:
    """The tasks whose output carries a decision over a model."""
    return [
        (task, output)
        for task, output in story.outputs.items()
        if isinstance(output, dict)
        and isinstance(output.get("verdict"), dict)
        and isinstance(output["verdict"].get("decision"), str)
    ]


def _verdict(task: str, output: Mapping[str, Any]) -> list[str]:
    verdict = output["verdict"]
    champion = _of(verdict, "champion")
    against = f"champion version {champion['version']}" if champion.get("version") else "no champion"
    model = _of(verdict, "model")
    named = f"{text(model['name'])} version {text(model.get('version'))} " if model.get("name") else ""
    facts = [f"{named}against {text(against)}"]
    if isinstance(verdict.get("rows"), int):
        facts.append(f"{verdict['rows']:,} rows")
    old, differences = _of(verdict, "champion_metrics"), _of(verdict, "differences")
    numbers = [
        (code(name), _estimate(found), _estimate(old.get(name)), _estimate(differences.get(name), sign=True))
        for name, found in _of(verdict, "metrics").items()
    ]
    parts = [f"**{text(task)}: {text(verdict['decision'])}** ({', '.join(facts)})"]
    if numbers:
        parts.append(table(("metric", "candidate", "champion", "difference"), numbers))
    rules = [
        (_mark(bool(gate.get("passed"))), code(gate.get("gate", "")), text(gate.get("reason", "")))
        for gate in _items(verdict.get("gates"))
    ]
    if rules:
        parts.append(table(("", "rule of the DAG", "why"), rules))
    if slices := [_slice(found) for found in _items(verdict.get("slices"))]:
        heads = ("slice", "rows", "roc_auc", "difference")
        parts.append(
            f"<details><summary>{len(slices)} slices</summary>\n\n{table(heads, slices)}\n\n</details>"
        )
    return parts


def _slice(found: Mapping[str, Any]) -> tuple[str, ...]:
    name = f"{found.get('column', '')} = {found.get('value', '')}"
    auc, difference = _estimate(found.get("roc_auc")), _estimate(found.get("difference"), sign=True)
    return (code(name), text(found.get("rows", "")), auc, difference)


def _metrics(story: Story) -> list[str]:
    """The metrics of the other tasks."""
    judged = {task for task, _ in _judged(story)}
    rows = [
        (text(task), code(name), text(shown(value)))
        for task, output in story.outputs.items()
        if task not in judged and isinstance(output, dict) and "verb" in output
        for name, value in _of(output, "metrics").items()
    ]
    if not rows:
        return []
    return [
        f"<details><summary>Metrics of other tasks</summary>\n\n"
        f"{table(('task', 'metric', 'value'), rows)}\n\n</details>"
    ]


def _tasks(story: Story) -> list[str]:
    if not story.tasks:
        return []
    # What went wrong first, should there be too many to show.
    tasks = sorted(story.tasks, key=lambda task: task.state in ("success", "skipped"))
    rows = [
        (code(task.name), text(task.state), lasting(task.seconds) if task.seconds else "") for task in tasks
    ]
    done = f"{sum(task.state == 'success' for task in tasks)} of {len(tasks)} tasks succeeded"
    body = table(("task", "state", "took"), rows)
    return [f"<details><summary>{done}</summary>\n\n{body}\n\n</details>"]


def _logs(story: Story) -> list[str]:
    return [
        f"<details><summary>The last lines of {html.escape(task)}</summary>\n\n"
        f"<pre>{html.escape(chr(10).join(lines)[-MOST_OF_A_LOG:])}</pre>\n\n</details>"
        for task, lines in story.logs.items()
    ]


def _estimate(found: Any, *, sign: bool = False) -> str:
    """A value with its 95 % interval."""
    if not isinstance(found, dict) or not isinstance(value := found.get("value"), int | float):
        return ""
    form = "+.4f" if sign else ".4f"
    low, high = found.get("low"), found.get("high")
    if isinstance(low, int | float) and isinstance(high, int | float):
        return f"{value:{form}} ({low:{form}} to {high:{form}})"
    return f"{value:{form}}"


def _of(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _items(found: Any) -> list[Mapping[str, Any]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list | tuple) else []


def _mark(passed: bool) -> str:
    return "✅" if passed else "❌"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
