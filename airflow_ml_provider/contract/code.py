"""Which user code a step runs: the files its function can reach, and their digest.

Found by reading, never by importing: the control plane calls this too. A file counts when the entry
module imports it, directly or not, and it lies below a code root; so editing another file of the DAG
repository changes nothing, and an installed library counts by its version, not here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from airflow_ml_provider.contract.errors import UserCodeError, did_you_mean
from airflow_ml_provider.contract.identity import digest


def split_entry_point(entry_point: str) -> tuple[str, str]:
    """``"package.module:function"`` in its two parts."""
    module, _, name = entry_point.partition(":")
    if not module or not name or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise UserCodeError(
            f"{entry_point!r} does not name a function", todo='write it as "package.module:function"'
        )
    return module, name


def find_module(module: str, roots: Iterable[str]) -> Path | None:
    """The source file of a module below one of the roots."""
    relative = Path(*module.split("."))
    for root in roots:
        for candidate in (Path(root) / relative.with_suffix(".py"), Path(root) / relative / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def reachable_files(modules: Iterable[str], roots: Iterable[str]) -> dict[str, Path]:
    """Module name to file, for the entry modules and all they import from below the roots.

    :raises UserCodeError: an entry module is not below any root.
    """
    roots = [*roots]
    found: dict[str, Path] = {}
    waiting = list(dict.fromkeys(modules))
    entries = set(waiting)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        path = find_module(module, roots)
        if path is None:
            if module in entries and (module.partition(".")[0] in found or not _installed(module)):
                raise UserCodeError(
                    f"there is no module {module!r} below {', '.join(roots) or 'any code folder'}",
                    todo=did_you_mean(module, _modules_below(roots)),
                )
            continue
        found[module] = path
        parent = module.rpartition(".")[0]
        if parent:
            waiting.append(parent)
        waiting.extend(_imports(module, path))
    return found


def code_digest(modules: Iterable[str], roots: Iterable[str]) -> str:
    """Digest over the reachable files, by module name and content; line ends do not count."""
    files = reachable_files(modules, roots)
    parts: list[str | bytes] = []
    for module in sorted(files):
        parts += [module, files[module].read_bytes().replace(b"\r\n", b"\n")]
    return digest(*parts)


def file_digests(modules: Iterable[str], roots: Iterable[str]) -> dict[str, str]:
    """Module name to the beginning of its file's digest, to tell later which file changed."""
    files = reachable_files(modules, roots)
    return {name: digest(files[name].read_bytes().replace(b"\r\n", b"\n"))[:16] for name in sorted(files)}


def _modules_below(roots: list[str]) -> list[str]:
    names: set[str] = set()
    for root in roots:
        names |= {path.stem for path in Path(root).glob("*.py")}
        for package in Path(root).glob("*/__init__.py"):
            names |= {f"{package.parent.name}.{path.stem}" for path in package.parent.glob("*.py")}
    return sorted(name.removesuffix(".__init__") for name in names)


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _imports(module: str, path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise UserCodeError(f"{path}, line {error.lineno}: {error.msg}") from error
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - (node.level - 1)] if package else []
                base = ".".join([*above, *([node.module] if node.module else [])])
            names.append(base)
            # `from package import module` names a module as often as an attribute.
            names += [f"{base}.{alias.name}" for alias in node.names if base and alias.name != "*"]
    return [name for name in names if name]
