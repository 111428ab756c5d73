"""Delta tables read at a version: which files a partition has, and their rows as a lazy frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from airflow_ml_provider.contract.documents import Publication
from airflow_ml_provider.contract.errors import ConfigError, DataError, TransientError
from airflow_ml_provider.contract.partitions import Partitions
from airflow_ml_provider.contract.store import Store, is_local, local_path, storage_failure
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import delta


@dataclass(frozen=True)
class PinnedTable:
    """A table at one version.

    :param only: paths below the table of the files to read, where a shard has a part of them; None for all.
    """

    table: Table
    uri: str
    delta: DeltaTable
    only: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def version(self) -> int:
        return self.delta.version()

    @property
    def partition_by(self) -> str | None:
        columns = self.delta.metadata().partition_columns
        return columns[0] if columns else None

    @property
    def columns(self) -> list[str]:
        return [field.name for field in self.delta.schema().fields]

    def lazy(self, partitions: Partitions | None = None) -> pl.LazyFrame:
        """The rows, read when collected; only the files of the partitions are opened."""
        frame = pl.scan_delta(self.delta) if self.only is None else self._scan(self.only)
        if partitions is None:
            return frame
        column = pl.col(self.partition_column(partitions))
        if partitions.is_range:
            return frame.filter(
                column.is_between(pl.lit(partitions.values[0]), pl.lit(partitions.values[-1]))
            )
        return frame.filter(column.is_in(list(partitions.values)))

    def files(self, partitions: Partitions | None = None) -> list[str]:
        """URIs of the Parquet files of the partitions."""
        filters = None if partitions is None else partitions.filters(self.partition_column(partitions))
        found = self.delta.file_uris(partition_filters=filters)
        if self.only is None:
            return found
        wanted = set(self.only)
        return [uri for uri in found if self._below(uri) in wanted]

    def sizes(self, partitions: Partitions | None = None) -> dict[str, int]:
        """The files of the partitions: path below the table to size in bytes, by path."""
        return self._of_files("size_bytes", partitions)

    def values(self, partitions: Partitions | None = None) -> dict[str, Any]:
        """The files of the partitions: path below the table to value of the partition column, by path.

        Of a table without partitions, the values are None.
        """
        by = self.partition_by
        if by is None:
            return dict.fromkeys(self.sizes(partitions))
        return self._of_files(f"partition.{by}", partitions)

    def _of_files(self, fact: str, partitions: Partitions | None) -> dict[str, Any]:
        """What the log says of each of the files, by path."""
        files = pa.table(self.delta.get_add_actions(flatten=True))
        if not files.num_rows:
            return {}
        paths, facts = (files.column(name).to_pylist() for name in ("path", fact))
        # The log has paths escaped.
        known = {unquote(path): value for path, value in zip(paths, facts, strict=True)}
        wanted = sorted(self._below(uri) for uri in self.files(partitions))
        return {path: known[path] for path in wanted}

    def _below(self, uri: str) -> str:
        """A file's path below the table."""
        root = str(local_path(self.uri)) if is_local(self.uri) else self.uri
        return uri[len(root) :].lstrip("/")

    def _scan(self, paths: Sequence[str]) -> pl.LazyFrame:
        """The rows of some of the files, with the columns of the table."""
        schema = pl.scan_delta(self.delta).collect_schema()
        by = self.delta.metadata().partition_columns
        wanted = set(paths)
        files = [uri for uri in self.delta.file_uris() if self._below(uri) in wanted]
        if not files:
            return pl.LazyFrame(schema=schema)
        if pa.table(self.delta.deletion_vectors()).num_rows:
            raise ConfigError(
                f"table {self.name!r}, version {self.version}, has deletion vectors, which shards do not read",
                kept="nothing was read or written",
                todo="leave shards= out, or have the engine that deleted rows purge them (REORG TABLE ... PURGE)",
            )
        return pl.scan_parquet(
            files,
            schema={name: kind for name, kind in schema.items() if name not in by},
            hive_partitioning=bool(by),
            hive_schema={name: schema[name] for name in by} if by else None,
            missing_columns="insert",
            storage_options=delta.storage_options(self.uri) or None,
        ).select(schema.names())

    def published(self, partitions: Partitions | None = None) -> Publication:
        """This version as a reference for downstream steps."""
        rows = self.lazy(partitions).select(pl.len()).collect().item()
        label = partitions.label if partitions else ""
        return Publication(self.name, self.version, self.uri, self.partition_by, label, rows, changed=False)

    def partition_column(self, partitions: Partitions) -> str:
        """The column that partitions are of.

        :raises ConfigError: the table has none.
        """
        column = self.partition_by
        if column is None:
            raise ConfigError(
                f"partitions {partitions.label!r} of {self.name!r} were asked for; it is not partitioned",
                todo="leave partitions= out, or publish the table with a partition column",
            )
        return column


def open_table(store: Store, table: Table) -> PinnedTable:
    """Open a table at its pinned version, or the newest.

    :raises DataError: there is no such table, or the version is gone (vacuumed) or not there yet.
    """
    uri = store.table_uri(table.name)
    try:
        opened = DeltaTable(uri, version=table.version, storage_options=delta.storage_options(uri))
    except TableNotFoundError:
        raise DataError(
            f"there is no table {table.name!r} at {uri}",
            kept="nothing was read or written",
            todo="run the step that publishes it first",
        ) from None
    except DeltaError as error:
        if table.version is not None:
            raise DataError(
                f"table {table.name!r} has no readable version {table.version}: {error}"
            ) from error
        raise TransientError(f"table {table.name!r} at {uri} could not be opened: {error}") from error
    except (OSError, PermissionError) as error:
        raise storage_failure(f"open table {table.name!r} at", uri, error) from error
    return PinnedTable(table, uri, opened)
