"""What the documentation shows is what the files say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
_SPEC = importlib.util.spec_from_file_location("snippets", REPOSITORY / "tools" / "snippets.py")
assert _SPEC is not None
assert _SPEC.loader is not None
snippets = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(snippets)

PAGES = [page.relative_to(REPOSITORY) for page in snippets.pages()]
VERBS = ("ingest", "validate", "features", "train", "evaluate", "promote", "predict", "monitor")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_snippet_is_cut_from_its_file(page: Path) -> None:
    text = (REPOSITORY / page).read_text()
    assert snippets.rewrite(text) == text, "run `python tools/snippets.py`"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    text = (REPOSITORY / page).read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert ((REPOSITORY / page).parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_of_python_is_a_snippet(page: Path) -> None:
    text = (REPOSITORY / page).read_text()
    marked = len(re.findall(r"<!-- snippet: \S+ -->\n```python\n", text))
    assert len(re.findall(r"^```python$", text, re.MULTILINE)) == marked


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_page(verb: str) -> None:
    text = (REPOSITORY / "docs" / f"{verb}.md").read_text()
    assert f"{verb.capitalize()}Operator" in text
    assert "<!-- snippet: " in text


def test_the_readme_is_one_screen() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 90
