"""Cuts the code in README.md and docs/ from files that tests run.

A fenced block right below `<!-- snippet: FILE#PART -->` is that part of the file. PART is `task:NAME` (the
operator with this task_id), `def:NAME` (a function or class), `assign:NAME` (an assignment) or `dag` (all of
a DAG file but its docstring); without PART, the whole file.

    python tools/snippets.py          rewrite the blocks
    python tools/snippets.py --check  fail where a block differs from its file
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"(<!-- snippet: (?P<source>\S+) -->\n```\w+\n)(?P<code>(?:(?!```).*\n)*)```")


def cut(source: str) -> str:
    """The text of a snippet.

    :raises LookupError: the file has no such part.
    """
    path, _, part = source.partition("#")
    text = (REPOSITORY / path).read_text()
    if not part:
        return text.rstrip()
    if part == "dag":
        return _without_docstring(text)
    kind, _, name = part.partition(":")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt) and _is(node, kind, name):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            lines = text.splitlines()[first - 1 : node.end_lineno]
            return textwrap.dedent("\n".join(lines)).rstrip()
    raise LookupError(f"{path} has no {part}")


def rewrite(page: str) -> str:
    """A page with all its snippets cut anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}{cut(found['source'])}\n```", page)


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def _without_docstring(text: str) -> str:
    tree = ast.parse(text)
    start = tree.body[0].end_lineno if ast.get_docstring(tree) else 0
    lines = text.splitlines()[start or 0 :]
    return "\n".join(line for line in lines if line != "from __future__ import annotations").strip()


def _is(node: ast.stmt, kind: str, name: str) -> bool:
    if kind == "def":
        return isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
    if kind == "assign":
        return isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in node.targets
        )
    if kind == "task" and isinstance(node, ast.Assign | ast.Expr) and isinstance(node.value, ast.Call):
        return any(
            k.arg == "task_id" and isinstance(k.value, ast.Constant) and k.value.value == name
            for k in node.value.keywords
        )
    return False


def main() -> int:
    """Rewrite or check; 1 when a check finds a difference."""
    stale = []
    for page in pages():
        text = page.read_text()
        fresh = rewrite(text)
        if fresh != text:
            stale.append(page.relative_to(REPOSITORY))
            if "--check" not in sys.argv:
                page.write_text(fresh)
    if stale and "--check" in sys.argv:
        print(f"stale snippets in {', '.join(map(str, stale))}: run `python tools/snippets.py`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
