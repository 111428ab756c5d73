"""Great Expectations' Data Docs of a validation, as one page that needs nothing else.

The sections are rendered by GX. Its frame around them loads styles and scripts from five places in the
internet, so they are put into a report of ours; the scripts only folded and filtered.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.steps.reports import Report

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

# The page's name among the step's documents.
DATA_DOCS = "data_docs.html"


def render(result: ExpectationSuiteValidationResult, title: str, facts: Mapping[str, Any]) -> bytes:
    """The page as HTML.

    :param title: what was validated.
    :param facts: more about it, shown at the top.
    """
    statistics = result.statistics
    count, failed = statistics["evaluated_expectations"], statistics["unsuccessful_expectations"]
    said = f"{failed} of {count} expectations failed" if failed else f"All {count} expectations passed"
    report = Report(title, "Data Docs of Great Expectations")
    report.verdict(said, good=not failed)
    report.facts(facts)
    head, footer = report.html().decode().rsplit("<footer>", 1)
    style = Path(__file__).with_name("data_docs.css").read_text(encoding="utf-8")
    head = head.replace("</style>", f"{style}</style>", 1)
    return f"{head}{_sections(result)}<footer>{footer}".encode()


def _sections(result: ExpectationSuiteValidationResult) -> str:
    import great_expectations.render.renderer as renderers
    import great_expectations.render.view as views

    result = copy.deepcopy(result)
    for one in result.results:
        # GX shows unexpected values only with their percentage, which some expectations do not give.
        if "unexpected_percent" not in one.result:
            one.result = {name: value for name, value in one.result.items() if "unexpected" not in name}
        one.result = {name: _shown(value) for name, value in one.result.items()}
    document: Any = renderers.ValidationResultsPageRenderer().render(result)  # type: ignore[attr-defined]
    view: Any = views.DefaultJinjaSectionView()  # type: ignore[attr-defined]
    links, bodies = [], []
    # The first section is an overview, of which the head of the report tells more.
    for number, section in enumerate(document.to_json_dict()["sections"][1:], 1):
        body = view.render({"section": section, "section_loop": {"index": number}})
        # The report's policy lets nothing run; better that nothing tries.
        bodies.append(re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL | re.IGNORECASE))
        links.append(f'<a href="#section-{number}">{escape(str(section["section_name"]))}</a>')
    return f"<nav>{''.join(links)}</nav>{''.join(bodies)}"


def _shown(value: Any) -> Any:
    """Values of the data as text, which GX's templates neither escape nor part from each other."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return [_one(part) for part in value]
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in value.items()}
    return value


def _one(value: Any) -> Any:
    """An unexpected value, a value with its count, or the values of several columns of a row."""
    if isinstance(value, dict) and value.keys() == {"value", "count"}:
        return {"value": _one(value["value"]), "count": value["count"]}
    if isinstance(value, dict):
        return escape(", ".join(f"{name}={part}" for name, part in value.items()))
    if isinstance(value, list):
        return escape(", ".join(map(str, value)))
    return _shown(value)
