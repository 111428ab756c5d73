"""When a table or a partition was published last, from the table's log alone: no Delta library, no data."""

from __future__ import annotations

import json
from typing import Any

from airflow_ml_provider.contract.errors import TransientError
from airflow_ml_provider.contract.store import Store


class TableLog:
    """Reads a table's log, newest commit first, and remembers how far: a second look reads only what is new.

    :param table: the table's name.
    :param partition: only commits that touched this partition count.
    """

    def __init__(self, store: Store, table: str, partition: str | None = None) -> None:
        self._store = store
        self._table = table
        self._partition = partition
        self._read_up_to = -1
        self._newest: int | None = None

    def newest(self) -> int | None:
        """The version that published last, None if nothing has.

        :raises TransientError: the log cannot be read; unknown is not absent.
        """
        last = self._store.latest_version(self._table)
        if last is None or self._partition is None:
            return last
        for version in range(last, self._read_up_to, -1):
            content = self._store.read(self._path(version))
            if content is None:
                # Cleaned up after a checkpoint: older commits tell no more, the table's state still does.
                self._newest = self._newest if self._newest is not None else self._from_checkpoint(version)
                break
            if self._touches(content):
                self._newest = version
                break
        self._read_up_to = last
        return self._newest

    def _touches(self, commit: bytes) -> bool:
        try:
            actions = [json.loads(line) for line in commit.splitlines() if line.strip()]
        except ValueError as error:
            raise TransientError(f"a commit of table {self._table!r} cannot be read: {error}") from error
        return any(self._is_ours(action) for action in actions)

    def _is_ours(self, action: dict[str, Any]) -> bool:
        # Our publications name their partitions, also those that became empty; a foreign writer adds files.
        if "txn" in action:
            return bool(action["txn"].get("appId") == f"partition:{self._partition}")
        values = action.get("add", {}).get("partitionValues") or {}
        return self._partition in values.values() and bool(action["add"].get("dataChange", True))

    def _from_checkpoint(self, version: int) -> int | None:
        """The newest version that may have published it, if the table holds the partition."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            held = DeltaTable(self._store.table_uri(self._table)).partitions()
        except (DeltaError, OSError) as error:
            raise TransientError(f"table {self._table!r} cannot be read: {error}") from error
        return version if any(self._partition in values.values() for values in held) else None

    def _path(self, version: int) -> str:
        return f"tables/{self._table}/_delta_log/{version:020}.json"
