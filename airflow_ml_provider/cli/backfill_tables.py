"""What a table's log says: which version changed which partition last, and whose step it was. Reads no data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow_ml_provider.contract.errors import TransientError
from airflow_ml_provider.contract.staleness import UNPARTITIONED, TableNow
from airflow_ml_provider.contract.store import Store

_AT_ONCE = 16
_TXN = "partition:"


def table_now(store: Store, name: str) -> TableNow | None:
    """The table's log in short, None if there is no such table.

    Commits that only move rows (compaction) or change the table's description do not count as changes. Where
    older commits were cleaned up, ``known_since`` says from which version on the log is whole.

    :raises TransientError: a commit cannot be read; unknown is not unchanged.
    """
    folder = f"tables/{name}/_delta_log"
    versions = sorted(
        int(file[:-5])
        for file in (path.rsplit("/", 1)[-1] for path in store.paths(folder))
        if file.endswith(".json") and file[:-5].isdigit()
    )
    if not versions:
        return None
    changes: dict[str, int] = {}
    writers: dict[str, str] = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        commits = pool.map(lambda version: store.read(f"{folder}/{version:020}.json"), versions)
        for version, content in zip(versions, commits, strict=True):
            if content is None:
                continue  # cleaned up between the listing and now
            writer = ""
            for action in _actions(content, name, version):
                writer = str(action.get("commitInfo", {}).get("step_key", "")) or writer
                for partition in _changed(action):
                    changes[partition] = version
            for partition, last in changes.items():
                if last == version:
                    writers[partition] = writer
    return TableNow(versions[-1], changes, writers, versions[0])


def _actions(content: bytes, table: str, version: int) -> Iterator[dict[str, Any]]:
    try:
        for line in content.splitlines():
            if line.strip():
                yield json.loads(line)
    except ValueError as error:
        raise TransientError(f"commit {version} of table {table!r} cannot be read: {error}") from error


def _changed(action: dict[str, Any]) -> Iterator[str]:
    # Our publications name their partitions, also those that became empty.
    if "txn" in action:
        application = str(action["txn"].get("appId", ""))
        if application.startswith(_TXN):
            yield application.removeprefix(_TXN)
        return
    for kind in ("add", "remove"):
        file = action.get(kind)
        if file is not None and file.get("dataChange", True):
            values = (file.get("partitionValues") or {}).values()
            yield from (str(value) for value in values)
            if not values and (kind == "add" or "partitionValues" in file):
                yield UNPARTITIONED
