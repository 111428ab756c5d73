"""Tables on Spark: the Parquet files of a pinned Delta version are read, and data files written, by executors.

No library for Delta is needed in Spark: which files a version has, and with which partition values, delta-rs
knows, and a publication is one commit of the files that the executors' tasks report. A task that is tried again or
runs twice leaves files behind that no commit names, as a killed step does.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from deltalake.transaction import AddAction

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.store import Store, is_local, join, local_path
from airflow_ml_provider.steps.table_files import PartitionFiles

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.pinned_tables import PinnedTable

# What a reader of a table must know of to read it; of these, files and partition values tell all.
_READABLE = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"})
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def read(spark: SparkSession, table: PinnedTable, partitions: Partitions | None = None) -> DataFrame:
    """The rows of a pinned table; only the files of the partitions are opened.

    :raises ConfigError: the table is of a kind that cannot be read from its files alone.
    """
    _refuse_unreadable(table)
    from pyspark.sql import functions as F
    from pyspark.sql.types import StructType

    schema = StructType.fromJson(json.loads(table.delta.schema().to_json()))
    column = table.partition_by
    found = _files(table, partitions)
    if not found:
        return spark.createDataFrame([], schema)
    if column is None:
        return of_files(spark, (place for place, _, _ in found), schema)
    if all(_in_folder_of(column, path, value) for _, path, value in found):
        reader = spark.read.schema(schema).option("basePath", hadoop(_place(table.uri)))
        return reader.parquet(*(hadoop(place) for place, _, _ in found)).select(schema.names)
    # Written by somebody whose folders do not say which partition a file is of; the log does.
    rest = StructType([field for field in schema if field.name != column])
    by_value: dict[str | None, list[str]] = {}
    for place, _, value in found:
        by_value.setdefault(value, []).append(place)
    frames = [
        of_files(spark, places, rest).withColumn(column, F.lit(value).cast(schema[column].dataType))
        for value, places in by_value.items()
    ]
    return reduce(lambda one, other: one.unionByName(other), frames).select(schema.names)


def of_files(spark: SparkSession, places: Iterable[str], schema: StructType) -> DataFrame:
    """The rows of Parquet files; a column that a file has not is null."""
    return spark.read.schema(schema).option("recursiveFileLookup", "true").parquet(*map(hadoop, places))


def hadoop(place: str) -> str:
    """A place as Spark's file systems spell it; nothing in it is decoded."""
    if place.startswith("/"):
        return f"file://{place}"
    # Hadoop calls this scheme otherwise than everybody else.
    return "s3a://" + place.removeprefix("s3://") if place.startswith("s3://") else place


@dataclass(frozen=True)
class Written:
    """Data files that no commit names yet.

    :param folder: their folder below the store.
    :param files: in the order of the rows.
    """

    store: str
    folder: str
    files: tuple[AddAction, ...]

    @property
    def rows(self) -> int:
        """How many there are in them."""
        return sum(json.loads(file.stats)["numRecords"] for file in self.files)

    @property
    def places(self) -> list[str]:
        """Where they are: paths of this machine, or addresses."""
        return [_place(join(self.store, self.folder), file.path) for file in self.files]

    def lazy(self) -> pl.LazyFrame:
        """The rows on this machine, in their order."""
        return pl.scan_parquet(self.places, glob=False)

    def remove(self) -> None:
        """Delete them."""
        store = Store(self.store)
        for file in self.files:
            store.delete(f"{self.folder}/{file.path}")


def write(frame: DataFrame, store: Store, folder: str, *, column: str | None, schema: pa.Schema) -> Written:
    """Let the executors write a frame's rows to data files below the store.

    :param column: the partition column.
    :param schema: the types to write, all columns.
    """
    tasks = frame.mapInArrow(_Writer(store.uri, folder, column, schema), "task int, number int, file string")
    done = sorted(tasks.collect(), key=lambda row: (row["task"], row["number"]))
    return Written(store.uri, folder, tuple(AddAction(**json.loads(row["file"])) for row in done))


def arrow_schema(frame: DataFrame) -> pa.Schema:
    """A frame's columns as Arrow has them; times with a zone are in UTC."""
    from pyspark.sql.pandas.types import to_arrow_schema

    found = to_arrow_schema(frame.schema, timezone="UTC")
    # That a value is never null is Spark's conclusion, and no promise of the table's.
    return pa.schema([field.with_nullable(True) for field in found])


@dataclass(frozen=True)
class _Writer:
    """Runs in an executor: the rows of one task to files, as the single-machine engine writes them."""

    store: str
    folder: str
    column: str | None
    schema: pa.Schema

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        store = Store(self.store)

        def put(path: str, content: bytes) -> None:
            store.write(f"{self.folder}/{path}", content)

        rows = (self._cast(batch) for batch in batches if batch.num_rows)
        files = PartitionFiles(put, self.column).write(pa.RecordBatchReader.from_batches(self.schema, rows))
        context = TaskContext.get()
        task = context.partitionId() if context else 0
        if files:
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([task] * len(files), pa.int32()),
                    pa.array(range(len(files)), pa.int32()),
                    pa.array([json.dumps(_document(file)) for file in files]),
                ],
                names=["task", "number", "file"],
            )

    def _cast(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.select(self.schema.names).cast(self.schema)


def _document(file: AddAction) -> dict[str, Any]:
    return {field.name: getattr(file, field.name) for field in dataclasses.fields(file)}


def _files(table: PinnedTable, partitions: Partitions | None) -> list[tuple[str, str, str | None]]:
    """The files of a version: place, path as the log has it, partition value."""
    found = pa.table(table.delta.get_add_actions(flatten=True))
    paths = found.column("path").to_pylist()
    column = table.partition_column(partitions) if partitions else table.partition_by
    values = found.column(f"partition.{column}").to_pylist() if column else [None] * len(paths)
    wanted = set(partitions.values) if partitions else None
    files = zip(paths, (None if value is None else str(value) for value in values), strict=True)
    return [
        (_place(table.uri, unquote(path)), path, value)
        for path, value in files
        if wanted is None or value in wanted
    ]


def _place(folder: str, path: str = "") -> str:
    if is_local(folder):
        return str(local_path(folder) / path)
    return join(folder, path) if path else folder


def _in_folder_of(column: str, path: str, value: str | None) -> bool:
    """Whether Spark finds a file's partition value in the name of its folder."""
    folder = unquote(path).rpartition("/")[0]
    # Spark reads each escaped byte as a character of its own.
    return (
        folder.isascii() and (value or "").isascii() and unquote(folder) == f"{column}={value or _NO_VALUE}"
    )


def _refuse_unreadable(table: PinnedTable) -> None:
    settings = table.delta.metadata().configuration
    features = set(table.delta.protocol().reader_features or ())
    strange = sorted(features - _READABLE)
    if settings.get("delta.columnMapping.mode", "none") != "none":
        strange = sorted({*strange, "columnMapping"})
    if strange:
        raise ConfigError(
            f"table {table.name!r} uses {', '.join(strange)} of Delta Lake, and Spark reads tables here by their "
            f"Parquet files, which do not tell that",
            todo="rewrite the table without it (for deletion vectors: REORG TABLE ... APPLY (PURGE), then drop the "
            "table feature), or build the rows with the single-machine engine",
        )
