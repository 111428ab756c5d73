"""Raw files: finding them, and telling whether they hold the same bytes as before.

A source is a path or URI of a file, of a folder (the files directly in it, hidden ones and those beginning
with ``_`` left out) or a glob (``*``, ``?``, ``[...]``, and ``**`` for any depth); on local disk or in
object storage, where the credentials come from the environment. Files are read in the order of their names.
"""

from __future__ import annotations

import glob
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_ml_provider.contract.errors import ConfigError, DataError, TransientError
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.store import is_local
from airflow_ml_provider.steps.context import Skipped
from airflow_ml_provider.steps.threads import in_order
from airflow_ml_provider.steps.unpacking import FORMATS, Counted, format_of, reading, visible

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_BUFFER = 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """A raw file.

    :param name: what people are told: the path below the source's folder.
    :param open: opens it anew; tells the function it is given how many bytes were read.
    :param mark: what identifies its bytes without reading them (object storage); empty on local disk.
    :param modified: when it was last written, in ns since 1970; 0 in object storage.
    :param path: where it is, on local disk.
    """

    name: str
    size: int
    open: Callable[[Callable[[int], None]], IO[bytes]] = field(repr=False, compare=False)
    mark: str = ""
    modified: int = 0
    path: Path | None = field(default=None, compare=False)


def find_files(source: str, format: str = "auto") -> list[SourceFile]:
    """The files of a source, by name.

    :raises Skipped: a folder or a glob has no file (yet), or the folder does not exist (yet).
    :raises DataError: a single file was named and is not there.
    :raises ConfigError: a single file was named and its format cannot be told.
    """
    found, single = _local_files(source) if is_local(source) else _remote_files(source)
    usable = [file for file in found if format != "auto" or format_of(file.name)]
    if usable:
        return sorted(usable, key=lambda file: file.name)
    if single and found:
        raise ConfigError(
            f"the format of {source} cannot be told from its name",
            todo='give format="csv", "jsonl" or "parquet"',
        )
    if single and format_of(source):
        raise DataError(
            f"there is no file {source}",
            todo="where a file may come later, give its folder or a glob: without input the step is skipped",
        )
    others = f" ({len(found)} others are not named like data: {', '.join(FORMATS)})" if found else ""
    raise Skipped(f"there is no file at {source}{others}")


def content_digest(files: Sequence[SourceFile]) -> str:
    """Digest of names and bytes; in object storage size and ETag stand for the bytes."""
    parts: list[str] = []
    marks = in_order(partial(_mark, file) for file in files)
    for file, mark in zip(files, marks, strict=True):
        parts += [file.name, str(file.size), mark]
    return digest(*parts)


def _local_files(source: str) -> tuple[list[SourceFile], bool]:
    # Not parsed as a URI, in which the "?" of a glob would begin a query.
    plain = unquote(source.removeprefix("file://")) if source.startswith("file:") else source
    path = Path(plain).expanduser()
    if path.is_dir():
        root, names = path, [entry.name for entry in path.iterdir()]
    elif _is_glob(str(path)):
        root = Path(*_fixed_part(path.parts))
        names = glob.glob(str(path.relative_to(root)), root_dir=root, recursive=True)
    else:
        return ([_local_file(path.parent, path.name)] if path.is_file() else []), True
    return [_local_file(root, name) for name in names if visible(name) and (root / name).is_file()], False


def _local_file(root: Path, name: str) -> SourceFile:
    path = root / name

    def opened(seen: Callable[[int], None]) -> IO[bytes]:
        return io.BufferedReader(Counted(path.open("rb", buffering=0), seen), _BUFFER)

    found = path.stat()
    return SourceFile(name, found.st_size, opened, modified=found.st_mtime_ns, path=path)


def _remote_files(source: str) -> tuple[list[SourceFile], bool]:
    import obstore
    from obstore.store import from_url

    scheme, _, rest = source.partition("://")
    bucket, _, path = rest.partition("/")
    path = path.rstrip("/")
    with _speaking(source):
        store = from_url(f"{scheme}://{bucket}")
        if _is_glob(path):
            root = "/".join(_fixed_part(path.split("/")))
            wanted = re.compile(_glob_pattern(path))
            entries = [e for chunk in obstore.list(store, root) for e in chunk if wanted.fullmatch(e["path"])]
        else:
            root = path
            entries = list(obstore.list_with_delimiter(store, path)["objects"])
            if not entries and path:
                try:
                    return [_remote_file(store, path.rpartition("/")[0], obstore.head(store, path))], True
                except FileNotFoundError:
                    return [], True
    files = [_remote_file(store, root, entry) for entry in entries]
    return [file for file in files if visible(file.name)], False


def _remote_file(store: ObjectStore, root: str, entry: Any) -> SourceFile:
    import obstore

    path = str(entry["path"])

    def opened(seen: Callable[[int], None]) -> IO[bytes]:
        with _speaking(path):
            return io.BufferedReader(Counted(obstore.open_reader(store, path), seen), _BUFFER)

    mark = str(entry["e_tag"] or entry["last_modified"])
    return SourceFile(path.removeprefix(root).lstrip("/"), int(entry["size"]), opened, mark)


@contextmanager
def _speaking(what: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:
        said = str(error)
        if "NoSuchBucket" in said or isinstance(error, FileNotFoundError):
            raise DataError(
                f"the bucket of {what}, or the object itself, does not exist", todo="check the URI"
            ) from error
        if isinstance(error, PermissionError) or "AccessDenied" in said:
            raise ConfigError(
                f"{what} may not be read", todo="give the identity this step runs as read access to it"
            ) from error
        raise TransientError(f"{what} could not be listed or opened: {said.splitlines()[0][:300]}") from error


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def _fixed_part(parts: Sequence[str]) -> Sequence[str]:
    for count, part in enumerate(parts):
        if _is_glob(part):
            return parts[:count]
    return parts


def _glob_pattern(path: str) -> str:
    """The regular expression of a glob, as the local file system understands it."""
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", path)
    return "".join(
        meaning.get(token) or (token.replace("[!", "[^") if token.startswith("[") else re.escape(token))
        for token in tokens
    )


def _mark(file: SourceFile) -> str:
    if file.mark:
        return file.mark
    sha = hashlib.sha256()
    with reading(file.name), file.open(lambda _: None) as stream:
        while chunk := stream.read(_BUFFER):
            sha.update(chunk)
    return sha.hexdigest()
