"""The user's code as one archive: the same files give the same bytes, on every machine.

What a step's function can reach decides its digest (:mod:`airflow_ml_provider.contract.code`); what is packed is
more: the whole top-level packages that it reaches, with the data files in them, or whole folders where a DAG
author named them.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError

# Code, not data or wheels; a pod fetches it every time.
MOST_BYTES = 50 * 2**20
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "venv"})
_LEFT_OUT_ENDINGS = (".pyc", ".pyo")
# The oldest time that a ZIP can hold: when a file was last written is no part of the code.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def files_of(
    roots: Iterable[str], reached: Iterable[Path] | None = None, named: Iterable[str] = ()
) -> dict[str, Path]:
    """The files to pack: path in the archive to file; of the same path in two folders, the first one's.

    :param roots: the code folders.
    :param reached: files that the step's functions reach: their top-level packages are packed. None packs all.
    :param named: more files, relative to a code folder.
    """
    found: dict[str, Path] = {}
    wanted = None if reached is None else [path.resolve() for path in reached]
    for root in (Path(root).resolve() for root in roots):
        tops = (
            {root} if wanted is None else {_top(root, path) for path in wanted if path.is_relative_to(root)}
        )
        for top in sorted(tops):
            for path in [top] if top.is_file() else _walk(top):
                found.setdefault(path.relative_to(root).as_posix(), path)
        for name in named:
            if (root / name).is_file():
                found.setdefault(PurePosixPath(name).as_posix(), root / name)
    return found


def pack(files: dict[str, Path]) -> bytes:
    """An archive of files, without compression: compressors of two versions differ.

    :raises ConfigError: it is too large to be code.
    """
    total = sum(path.stat().st_size for path in files.values())
    if total > MOST_BYTES:
        largest = max(files.values(), key=lambda path: path.stat().st_size)
        raise ConfigError(
            f"the code of the step has {total / 2**20:,.0f} MiB in {len(files)} files, and at most "
            f"{MOST_BYTES // 2**20} MiB are packed; the largest is {largest}",
            todo="keep data out of the code's folders, name a smaller folder in code=, or put the code into the "
            "image: KubernetesCompute(code_in_image=True)",
        )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _NO_TIME)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name].read_bytes())
    return content.getvalue()


def unpack(content: bytes, digest: str, folder: Path) -> None:
    """Verify an archive and lay its files down.

    :raises InfrastructureError: it is not what was packed.
    """
    found = archive_digest(content)
    if found != digest:
        raise InfrastructureError(
            f"the packed code is not what was packed: its SHA-256 is {found[:12]}, and {digest[:12]} was sent",
            todo="delete it from the store; the next try packs it again",
        )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            target = (folder / entry.filename).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise InfrastructureError(
                    f"the packed code would write outside its folder: {entry.filename!r}"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(entry))


def archive_digest(content: bytes) -> str:
    """What names an archive."""
    return hashlib.sha256(content).hexdigest()


def _top(root: Path, path: Path) -> Path:
    return root / path.relative_to(root).parts[0]


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _LEFT_OUT:
            continue
        if path.is_dir():
            # A virtual environment has this file at its top.
            if not path.is_symlink() and not (path / "pyvenv.cfg").exists():
                yield from _walk(path)
        elif path.is_file() and not path.name.endswith(_LEFT_OUT_ENDINGS):
            yield path
