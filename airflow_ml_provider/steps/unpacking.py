"""The bytes of raw files: plain, gzipped, or members of a zip archive, unpacked while they are read."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, cast

from airflow_ml_provider.contract.errors import ConfigError, DataError, TransientError

if TYPE_CHECKING:
    from airflow_ml_provider.steps.sources import SourceFile

FORMATS = {
    ".csv": "csv",
    ".txt": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
UNPUBLISHED = "everything published before; nothing of this source was published"


@dataclass(frozen=True)
class Member:
    """What is read as one table: a file, unpacked, or a member of a zip archive.

    :param path: where its bytes are as they come from the stream, on local disk; None where they are nowhere.
    :param seen: to be told of bytes that were read past the stream.
    """

    name: str
    format: str
    stream: IO[bytes] = field(repr=False, compare=False)
    path: Path | None = field(default=None, compare=False)
    seen: Callable[[int], None] = field(default=lambda _: None, repr=False, compare=False)


def members(file: SourceFile, format: str, seen: Callable[[int], None]) -> Iterator[Member]:
    """What a file holds: one member, or those of a zip archive by name.

    :param seen: told the number of bytes whenever some were read of the file itself.
    :raises DataError: the file or the archive is empty, damaged or encrypted.
    """
    if not file.size:
        raise empty(file.name)
    with reading(file.name), file.open(seen) as packed:
        if file.name.lower().endswith(".zip"):
            yield from _zip_members(file.name, packed, format)
        elif file.name.lower().endswith(".gz"):
            with gzip.open(packed) as plain:
                yield Member(file.name, _format(file.name, format), cast(IO[bytes], plain))
        else:
            yield Member(file.name, _format(file.name, format), packed, file.path, seen)


def count_members(file: SourceFile, format: str) -> int:
    """How many members a file has: one, or those of a zip archive.

    :raises DataError: the archive is damaged, or holds none.
    """
    if not file.name.lower().endswith(".zip") or not file.size:
        return 1
    with reading(file.name), file.open(lambda _: None) as packed, zipfile.ZipFile(packed) as unpacked:
        return len(_usable(file.name, unpacked, format))


def format_of(name: str) -> str | None:
    """The format that a file's name tells; None when it tells none."""
    path = PurePosixPath(name.lower())
    if path.suffix == ".zip":
        return "zip"
    return FORMATS.get(PurePosixPath(path.stem).suffix if path.suffix == ".gz" else path.suffix)


def visible(name: str) -> bool:
    """Whether no part of the path is hidden or, as ``_SUCCESS`` is, beside the data."""
    return not any(part.startswith((".", "_")) for part in name.split("/") if part)


def empty(name: str) -> DataError:
    """The error for a file of no bytes."""
    return DataError(
        f"{name} is empty: it has not even a header",
        kept=UNPUBLISHED,
        todo="fetch the file again, or take it away; a file with a header and no rows is fine",
    )


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Names the file whose bytes turn out to be damaged or out of reach."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(
            f"{name} is truncated or damaged: {error}",
            kept=UNPUBLISHED,
            todo="fetch the file again from where it came",
        ) from error
    except PermissionError as error:
        raise ConfigError(
            f"{name} may not be read: {error.strerror}", todo="give the step read access to it"
        ) from error
    except OSError as error:
        raise TransientError(f"{name} could not be read: {error}", kept=UNPUBLISHED) from error


class Counted(io.RawIOBase):
    """A readable file, whatever its own interface, that tells how much of it was read."""

    def __init__(self, inner: Any, seen: Callable[[int], None]) -> None:
        self._inner = inner
        self._seen = seen

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if isinstance(self._inner, io.RawIOBase):
            count = self._inner.readinto(buffer) or 0
        else:
            chunk = memoryview(self._inner.read(len(buffer)))
            count = len(chunk)
            buffer[:count] = chunk
        self._seen(count)
        return count

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self._inner.tell())

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


def _usable(archive: str, unpacked: zipfile.ZipFile, format: str) -> list[zipfile.ZipInfo]:
    usable = [
        info
        for info in unpacked.infolist()
        if not info.is_dir() and visible(info.filename)
        if format != "auto" or FORMATS.get(PurePosixPath(info.filename.lower()).suffix)
    ]
    if not usable:
        raise DataError(
            f"{archive} holds no file that can be read; it holds: "
            f"{', '.join(unpacked.namelist()[:10]) or 'nothing'}",
            kept=UNPUBLISHED,
            todo=f"members are recognised by their names: {', '.join(FORMATS)}",
        )
    return sorted(usable, key=lambda info: info.filename)


def _zip_members(archive: str, packed: IO[bytes], format: str) -> Iterator[Member]:
    with zipfile.ZipFile(packed) as unpacked:
        for info in _usable(archive, unpacked, format):
            name = f"{archive}/{info.filename}"
            if not info.file_size:
                raise empty(name)
            if info.flag_bits & 1:
                raise DataError(f"{name} is encrypted", kept=UNPUBLISHED)
            with unpacked.open(info) as plain:
                yield Member(name, _format(info.filename, format), plain)


def _format(name: str, format: str) -> str:
    return format if format != "auto" else str(format_of(name))
