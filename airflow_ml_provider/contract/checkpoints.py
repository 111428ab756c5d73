"""Checkpoints: what a training function keeps while it runs, so that a try after it need not begin again.

A function that wants to survive takes a parameter annotated :class:`Checkpoint`::

    def train(rows: pl.DataFrame, label: str, checkpoint: Checkpoint):
        model, done = SGDClassifier(loss="log_loss"), 0
        if saved := checkpoint.latest():
            model, done = skops.io.load(saved.folder / "model.skops"), saved.step
        for batch in range(done, 1000):
            model.partial_fit(...)
            if checkpoint.due(every=60):
                with checkpoint.save(step=batch + 1) as folder:
                    skops.io.dump(model, folder / "model.skops")
        return model

In a step these lie in the deployment's store; in a test, in any folder: ``Checkpoint.in_folder(tmp_path)``.

::

    {step:08d}/{save}/0000    the files of a save, numbered; each save has a folder of its own
    {step:08d}/complete.json  written last, whole: their names, sizes and digests; without it there is nothing
"""

from __future__ import annotations

import hashlib
import logging
import operator
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from airflow_ml_provider.contract.errors import MLError, TransientError, UserCodeError
from airflow_ml_provider.contract.scratch import new_folder
from airflow_ml_provider.contract.store import Store, is_local, join, local_path

KEPT = 2
_MANIFEST = "complete.json"
_CHUNK = 8 * 1024 * 1024
# S3 takes at most 10,000 parts.
_PARTS = 9_000
_AT_ONCE = 4


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint, fetched.

    :param step: the number it was saved with.
    :param folder: a local copy of its files, each compared with the digest it was saved with.
    :param saved_at: when it was saved, in seconds since 1970.
    """

    step: int
    folder: Path
    saved_at: float


class Checkpoint:
    """Saves what a training needs to go on, and finds it again after a kill.

    Not for use from several threads or processes at once.

    :param store: where checkpoints are kept.
    :param path: the folder in it.
    :param scratch: a local folder for files on their way; a temporary one if left out.
    :param warn: told what a person should know.
    """

    def __init__(
        self,
        store: Store,
        path: str = "checkpoints",
        *,
        scratch: Path | None = None,
        log: logging.Logger | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._files = _Files(store.uri)
        self._path = path
        self._scratch = scratch
        self._log = log or logging.getLogger(__name__)
        self._warn = warn or self._log.warning
        self._last = time.monotonic()
        self._told = False

    @classmethod
    def in_folder(cls, folder: Path | str) -> Checkpoint:
        """Checkpoints in a local folder, as a test of a training function wants them."""
        return cls(Store(str(folder)))

    def latest(self) -> SavedCheckpoint | None:
        """The newest checkpoint that is complete and undamaged, fetched; None if there is none.

        A newer one that is incomplete or damaged is told as a warning and passed over.

        :raises TransientError: the store does not answer, so that it is not known whether there is one.
        """
        for step, paths in sorted(self._found().items(), reverse=True):
            where = join(self._files.uri, self._folder(step))
            if not _complete(paths):
                self._warn(f"checkpoint {step} at {where} was not saved completely; it is not used")
                continue
            try:
                saved = self._fetch(step)
            except _Unusable as reason:
                self._warn(f"checkpoint {step} at {where} is damaged ({reason}); it is not used")
                continue
            age = max(0.0, time.time() - saved.saved_at)
            self._log.info("resuming from checkpoint %d, saved %s ago", step, _duration(age))
            return saved
        self._log.info(self._beginning())
        return None

    def due(self, every: float = 60.0) -> bool:
        """Whether it is time to save: this many seconds have passed since the last save, or the start."""
        return time.monotonic() - self._last >= every

    @contextmanager
    def save(self, step: int) -> Iterator[Path]:
        """Gives an empty local folder; what is in it at the end of the ``with`` becomes checkpoint ``step``.

        Either the whole folder is saved or nothing is; nothing when the body raises. The two newest
        checkpoints are kept, and those above ``step``, which come from a training that was not resumed, are
        not. A store that does not answer costs a warning and this checkpoint, not the training.

        :param step: how far the training is: what it goes on with after :meth:`latest`.
        :raises UserCodeError: ``step`` is not a number from 0, or the folder was left empty.
        """
        try:
            number = operator.index(step)
        except TypeError:
            number = -1
        if number < 0:
            raise UserCodeError(f"a checkpoint's step is a whole number from 0, not {step!r}")
        folder = self._local("saving")
        try:
            yield folder
            try:
                self._publish(number, folder)
            except TransientError as error:
                self._warn(f"checkpoint {number} is not saved, training goes on: {error.what}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._last = time.monotonic()

    def _publish(self, step: int, folder: Path) -> None:
        started, save = time.monotonic(), uuid.uuid4().hex[:12]
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        if not found:
            raise UserCodeError(
                f"checkpoint {step} was saved without a file",
                todo="write into the folder that `with checkpoint.save(step=...) as folder` gives",
            )
        files: list[_File] = []
        for number, path in enumerate(found):
            size, sha256 = self._files.upload(f"{self._folder(step)}/{save}/{number:04d}", path)
            files.append(_File(path.relative_to(folder).as_posix(), size, sha256))
        manifest = _Manifest(step, save, time.time(), tuple(files))
        self._files.write(f"{self._folder(step)}/{_MANIFEST}", msgspec.json.encode(manifest))
        took, size = time.monotonic() - started, sum(file.size for file in files)
        level = logging.DEBUG if self._told else logging.INFO
        self._log.log(level, "checkpoint %d saved: %.1f MB in %.1f s", step, size / 1e6, took)
        self._told = True
        try:
            self._tidy(step, save)
        except MLError as error:
            self._log.info("older checkpoints are left for the next save to remove: %s", error.what)

    def _tidy(self, step: int, save: str) -> None:
        """Remove all but the checkpoint just saved and the complete ones before it that are kept."""
        found = self._found()
        before = sorted(each for each, paths in found.items() if each < step and _complete(paths))
        keep = {step, *before[len(before) - (KEPT - 1) :]}
        for other in found.keys() - keep:
            self._files.remove_folder(self._folder(other), first=_MANIFEST)
        for other_save in {path.split("/")[0] for path in found[step] if "/" in path} - {save}:
            self._files.remove_folder(f"{self._folder(step)}/{other_save}")

    def _fetch(self, step: int) -> SavedCheckpoint:
        try:
            content = self._files.read(f"{self._folder(step)}/{_MANIFEST}") or b""
            manifest = msgspec.json.decode(content, type=_Manifest)
        except msgspec.DecodeError as error:
            raise _Unusable(f"{_MANIFEST} is unreadable") from error
        folder = self._local("fetched")
        try:
            for number, file in enumerate(manifest.files):
                if not _stays_inside(file.name):
                    raise _Unusable(f"{file.name!r} is not a file's name")
                to = folder / file.name
                to.parent.mkdir(parents=True, exist_ok=True)
                got = self._files.download(f"{self._folder(step)}/{manifest.save}/{number:04d}", to)
                if got is None:
                    raise _Unusable(f"{file.name} is missing")
                if got != (file.size, file.sha256):
                    raise _Unusable(f"{file.name} is not as it was saved")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return SavedCheckpoint(step, folder, manifest.saved_at)

    def _found(self) -> dict[int, list[str]]:
        """Step to the paths that there are below its folder."""
        found: dict[int, list[str]] = {}
        for path in self._files.paths(self._path):
            name, _, rest = path[len(self._path) :].strip("/").partition("/")
            if name.isdigit() and rest:
                found.setdefault(int(name), []).append(rest)
        return found

    def _folder(self, step: int) -> str:
        return f"{self._path}/{step:08d}"

    def _local(self, purpose: str) -> Path:
        if self._scratch is None:
            self._scratch = new_folder("checkpoint-")
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=self._scratch))

    def _beginning(self) -> str:
        """What is told when there is no checkpoint."""
        return "no checkpoint: training starts at the beginning"


class _Unusable(Exception):
    """A checkpoint that is not what was saved; says why."""


class _File(msgspec.Struct, frozen=True):
    name: str
    size: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True):
    """What makes a checkpoint complete."""

    step: int
    save: str
    saved_at: float
    files: tuple[_File, ...]


class _Files(Store):
    """A store that also takes and gives whole files, in chunks, so that memory holds some of them only."""

    def upload(self, path: str, file: Path) -> tuple[int, str]:
        """Write a file; gives its size and digest."""
        import obstore

        sha, size, expected = hashlib.sha256(), 0, file.stat().st_size
        chunk = max(_CHUNK, -(-expected // _PARTS))

        def chunks() -> Iterator[bytes]:
            nonlocal size
            with file.open("rb") as stream:
                while content := stream.read(chunk):
                    sha.update(content)
                    size += len(content)
                    yield content

        try:
            if expected <= chunk:
                obstore.put(self._objects, path, b"".join(chunks()), use_multipart=False)
            else:
                obstore.put(self._objects, path, chunks(), chunk_size=chunk, max_concurrency=_AT_ONCE)
        except Exception as error:
            raise self._failure("write", path, error) from error
        return size, sha.hexdigest()

    def download(self, path: str, file: Path) -> tuple[int, str] | None:
        """Fetch a file; gives its size and digest, None if there is none."""
        import obstore

        sha, size = hashlib.sha256(), 0
        try:
            content = obstore.get(self._objects, path)
            with file.open("wb") as stream:
                for chunk in content.stream(min_chunk_size=_CHUNK):
                    sha.update(chunk)
                    size += len(chunk)
                    stream.write(chunk)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failure("read", path, error) from error
        return size, sha.hexdigest()

    def remove_folder(self, folder: str, *, first: str = "") -> None:
        """Remove all below a folder; ``first`` names the document in it that must not outlive the others."""
        if first:
            self.delete(f"{folder}/{first}")
        if is_local(self.uri):
            # With it goes what a killed upload left, which a listing does not show.
            shutil.rmtree(local_path(join(self.uri, folder)), ignore_errors=True)
            return
        for path in list(self.paths(folder)):
            self.delete(path)


def remove_all(store: Store, path: str) -> None:
    """Remove the checkpoints below a folder of a store."""
    _Files(store.uri).remove_folder(path)


def _complete(paths: list[str]) -> bool:
    return _MANIFEST in paths


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
