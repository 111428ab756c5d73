"""What partitions of a table hold and what files a source has, told without reading them.

A table's files never change, so their names and the columns tell what is in its partitions. A publication of
other partitions leaves them as they were, and with them the fingerprint of whoever reads only these.
"""

from __future__ import annotations

import glob
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.contract.store import Store, is_local
from airflow_ml_provider.contract.tables import Table

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import Publication

# The verbs that read of ``table`` only the rows of ``partitions``.
_READ_BY_PARTITION = ("validate", "train", "evaluate", "predict")
# A file that is changed within the tick of its file system's clock looks as before.
_SETTLED_AFTER = 2.0
_MOST_FILES = 100_000


def contents_read(store: Store, verb: str, arguments: Any) -> dict[str, str]:
    """Digests of what a step reads, by table: of its partitions where it reads no others, else of the whole.

    A table is left out where it cannot be told: then its version stands for its content.
    """
    partitions = str(getattr(arguments, "partitions", ""))
    found: dict[str, list[str | None]] = {}
    for name in arguments.__struct_fields__:
        value = getattr(arguments, name)
        own = partitions if verb in _READ_BY_PARTITION and name == "table" else ""
        for table in value if isinstance(value, tuple) else (value,):
            if name != "publish" and isinstance(table, Table) and table.version is not None:
                read = content_of(store, table.name, table.version, own)
                found.setdefault(table.name, []).append(read)
    return {name: digest(*map(str, read)) for name, read in found.items() if None not in read}


def content_of(store: Store, table: str, version: int | None, partitions: str) -> str | None:
    """Digest of the columns, and of the files in some partitions, of a table; None if it cannot be told.

    :param version: the newest when None.
    :param partitions: the whole table when empty.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        opened = DeltaTable(store.table_uri(table), version=version)
        columns = opened.metadata().partition_columns
        predicate = None
        if partitions.strip():
            if not columns:
                return None
            predicate = parse_partitions(partitions).predicate(columns[0])
        root = opened.table_uri.rstrip("/")
        files = sorted(uri.removeprefix(root) for uri in opened.file_uris(file_pruning_predicate=predicate))
        return digest(opened.schema().to_json(), *columns, "files", *files)
    except (DeltaError, OSError, ValueError, MLError):
        return None


def no_longer_published(store: Store, published: Publication) -> str:
    """Why a publication is not what its partitions hold now; empty if it still is."""
    then = content_of(store, published.name, published.version, published.partitions)
    now = content_of(store, published.name, None, published.partitions)
    if then is not None and then == now:
        return ""
    newest = store.latest_version(published.name)
    where = f", partitions {published.partitions}" if published.partitions else ""
    if newest is None:
        return f"the table {published.name} is gone"
    if then is None or now is None:
        return f"the table {published.name}@{published.version}{where} cannot be looked up any more"
    return f"the table {published.name}{where} was published again since version {published.version}"


def files_of(source: str) -> str | None:
    """Digest of names, sizes and times of all files that a source may mean; None if it cannot be told.

    It may cover files that are not read; one of them that changes has the step look for itself.
    """
    try:
        found = sorted(_local(source) if is_local(source) else _remote(source))
    except Exception:
        # Whatever it is, the step looks for itself and says it better.
        return None
    return digest(*found) if found else None


def _local(source: str) -> Iterator[str]:
    plain = unquote(source.removeprefix("file://")) if source.startswith("file:") else source
    path = Path(plain).expanduser()
    if path.is_dir():
        paths = list(path.iterdir())
    elif path.is_file():
        paths = [path]
    else:
        paths = [Path(name) for name in glob.glob(str(path), recursive=True)]
    if len(paths) > _MOST_FILES:
        raise ValueError("too many files to look at in the task's own process")
    now = time.time()
    for one in paths:
        if not one.is_file():
            continue
        facts = one.stat()
        if now - max(facts.st_mtime, facts.st_ctime) < _SETTLED_AFTER:
            raise ValueError("a file may still be changing")
        yield f"{one} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_ino}"


def _remote(source: str) -> Iterator[str]:
    import obstore
    from obstore.store import from_url

    scheme, _, rest = source.partition("://")
    bucket, _, path = rest.partition("/")
    store = from_url(f"{scheme}://{bucket}")
    fixed = _before_wildcards(path.rstrip("/"))
    entries: list[Mapping[str, Any]] = []
    try:
        if fixed == path.rstrip("/"):
            entries = list(obstore.list_with_delimiter(store, fixed)["objects"])
            if not entries:
                entries = [obstore.head(store, fixed)]
        else:
            for chunk in obstore.list(store, fixed):
                entries += chunk
                if len(entries) > _MOST_FILES:
                    raise ValueError("too many files to look at in the task's own process")
    except FileNotFoundError:
        return
    for entry in entries:
        yield f"{entry['path']} {entry['size']} {entry['e_tag'] or entry['last_modified']}"


def _before_wildcards(path: str) -> str:
    parts = path.split("/")
    first = next((n for n, part in enumerate(parts) if any(c in part for c in "*?[")), len(parts))
    return "/".join(parts[:first])
