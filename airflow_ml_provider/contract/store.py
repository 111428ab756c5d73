"""The store: one URI under which everything lives, local or object storage.

::

    {store}/tables/{name}/          Delta tables
    {store}/aside/{name}/{step}/    partitions that failed their audit; no reader of the table sees them
    {store}/runs/{step key}/        spec.json, result.json, reports, checkpoints, a fleet's ledger
    {store}/code/{digest}.zip       the user's code, packed once a digest
    {store}/registry/{model}/       the ledger of its aliases, and requests for its retraining
    {store}/backfills/              plans of backfills, with their progress
    {store}/memo/                   what has been computed, by whom, and who is at it: see :mod:`.memo`

Small documents go through obstore; ``create`` is an atomic create-if-absent on local disk and on S3.
Credentials never travel in a URI or a spec: obstore and delta-rs read them from the environment or from
the machine's identity.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_ml_provider.contract.errors import ConfigError, MLError, TransientError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# As operating systems and object stores put it.
_NEEDS_A_PERSON = (
    "permission", "not permitted", "denied", "forbidden", "read-only file system", "not a directory",
)  # fmt: skip


def is_local(uri: str) -> bool:
    """Whether the URI names this machine's file system."""
    return urlsplit(uri).scheme in ("", "file")


def local_path(uri: str) -> Path:
    """The path behind a ``file://`` URI or a plain path."""
    parts = urlsplit(uri)
    return Path(unquote(parts.path) if parts.scheme == "file" else uri)


def join(uri: str, *parts: str) -> str:
    """The URI with path segments added."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


class Store:
    """Small documents under one URI.

    :param uri: ``file:///...`` or a path, ``s3://bucket/prefix``, ``gs://``, ``az://``.
    """

    def __init__(self, uri: str) -> None:
        if not uri:
            raise ConfigError(
                "no store is configured",
                todo="set [ml] store in the Airflow configuration (AIRFLOW__ML__STORE=s3://bucket/prefix)",
            )
        if "@" in urlsplit(uri).netloc:
            raise ConfigError(
                "the store's URI has credentials in it",
                todo="take them out; credentials come from the environment or the machine's identity",
            )
        self.uri = local_path(uri).absolute().as_uri() if is_local(uri) else uri.rstrip("/")
        self._store: ObjectStore | None = None

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def _objects(self) -> ObjectStore:
        if self._store is None:
            from obstore.store import LocalStore, from_url

            if is_local(self.uri):
                try:
                    self._store = LocalStore(local_path(self.uri), mkdir=True)
                except Exception as error:
                    raise self._failure("open", "", error) from error
            else:
                self._store = from_url(self.uri)
        return self._store

    def table_uri(self, name: str) -> str:
        """Where the table of this name lives."""
        return join(self.uri, "tables", name)

    def aside_uri(self, table: str, step_key: str) -> str:
        """Where a partition waits for its audit, and stays when it fails it."""
        return join(self.uri, "aside", table, step_key)

    def run_uri(self, step_key: str, name: str = "") -> str:
        """A document of a step's run."""
        return join(self.uri, "runs", step_key, name) if name else join(self.uri, "runs", step_key)

    def relative(self, uri: str) -> str:
        """The path under this store of a URI in it."""
        prefix = self.uri + "/"
        if not uri.startswith(prefix):
            raise ConfigError(f"{uri} is not in the store {self.uri}")
        return uri[len(prefix) :]

    def read(self, path: str) -> bytes | None:
        """A document's bytes, None if there is none. An unreadable document raises: unknown is not absent."""
        import obstore

        try:
            return bytes(obstore.get(self._objects, path).bytes())
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failure("read", path, error) from error

    def exists(self, path: str) -> bool:
        """Whether there is a document; one that cannot be asked for raises."""
        import obstore

        try:
            obstore.head(self._objects, path)
        except FileNotFoundError:
            return False
        except Exception as error:
            raise self._failure("look for", path, error) from error
        return True

    def write(self, path: str, content: bytes) -> str:
        """Write a document whole, replacing what was there; gives its URI."""
        import obstore

        try:
            obstore.put(self._objects, path, content)
        except Exception as error:
            raise self._failure("write", path, error) from error
        return join(self.uri, path)

    def write_file(self, path: str, file: Path) -> None:
        """Write a document from a local file, in parts where it is large."""
        import obstore

        try:
            obstore.put(self._objects, path, file)
        except Exception as error:
            raise self._failure("write", path, error) from error

    def read_file(self, path: str, file: Path) -> bool:
        """Read a document to a local file, part by part; False if there is none."""
        import obstore

        try:
            with file.open("wb") as to:
                for chunk in obstore.get(self._objects, path).stream():
                    to.write(chunk)
        except FileNotFoundError:
            return False
        except Exception as error:
            raise self._failure("read", path, error) from error
        return True

    def create(self, path: str, content: bytes) -> bool:
        """Write a document only if there is none; False when somebody was first."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            obstore.put(self._objects, path, content, mode="create")
        except AlreadyExistsError:
            return False
        except Exception as error:
            raise self._failure("create", path, error) from error
        return True

    def delete(self, path: str) -> None:
        """Remove a document; removing one that is not there is no error."""
        import obstore

        try:
            obstore.delete(self._objects, path)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failure("delete", path, error) from error

    def paths(self, prefix: str, *, after: str | None = None) -> Iterator[str]:
        """Paths of the documents below a prefix, in any order; ``after`` leaves out those up to it."""
        import obstore

        try:
            for chunk in obstore.list(self._objects, prefix, offset=after):
                for entry in chunk:
                    yield str(entry["path"])
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failure("list", prefix, error) from error

    def ages(self, prefix: str = "") -> Iterator[tuple[str, datetime, int]]:
        """Paths of the documents below a prefix, when each was written last, and its size in bytes."""
        import obstore

        try:
            for chunk in obstore.list(self._objects, prefix or None):
                for entry in chunk:
                    yield str(entry["path"]), entry["last_modified"], int(entry["size"])
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failure("list", prefix, error) from error

    def read_json(self, path: str) -> Any:
        """A JSON document, None if there is none."""
        content = self.read(path)
        return None if content is None else json.loads(content)

    def write_json(self, path: str, document: Any) -> str:
        """Write a JSON document, with sorted keys so that equal documents are equal bytes."""
        return self.write(path, json.dumps(document, indent=1, sort_keys=True).encode())

    def latest_version(self, table: str) -> int | None:
        """The newest version of a table, from its log's file names; None if there is no such table.

        Cheap enough for a sensor and needs no Delta library: a commit is one file named by its version.
        """
        newest = None
        log = f"tables/{table}/_delta_log"
        for path in self.paths(log):
            name = path.rsplit("/", 1)[-1]
            if name.endswith(".json") and name[:-5].isdigit():
                newest = max(newest or 0, int(name[:-5]))
        return newest

    def _failure(self, doing: str, path: str, error: Exception) -> MLError:
        if isinstance(error, MLError):
            return error
        return storage_failure(doing, join(self.uri, path) if path else self.uri, error)


def storage_failure(doing: str, where: str, error: BaseException) -> MLError:
    """What an error of a storage means: what needs a person, by what it says; all else is worth a retry."""
    whole = str(error).strip() or type(error).__name__
    said, low = whole.splitlines()[0], whole.lower()
    if "nosuchbucket" in low:
        return ConfigError(
            f"could not {doing} {where}: there is no such bucket",
            todo="create the bucket, or correct [ml] store",
        )
    if isinstance(error, PermissionError) or any(word in low for word in _NEEDS_A_PERSON):
        return ConfigError(
            f"the store refuses to {doing} {where}: {said}",
            todo="give the identity this step runs as read and write access to the store",
        )
    return TransientError(f"could not {doing} {where}: {type(error).__name__}: {said}")
