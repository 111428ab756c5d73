"""Raw files to a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow_ml_provider.assets import table_asset
from airflow_ml_provider.contract.arguments import IngestArguments
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.schema import Schema
from airflow_ml_provider.contract.store import is_local
from airflow_ml_provider.operators import contents
from airflow_ml_provider.operators.references import publishable
from airflow_ml_provider.operators.sharding import ShardedStep

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.operators.pins import Pins

FORMATS = ("auto", "csv", "jsonl", "parquet")


class IngestOperator(ShardedStep):
    """Reads raw files into partitions of a table; bad rows go to ``{table}_quarantine``.

    A retry, a clear and a second run replace exactly the same partitions, and change nothing when the files
    hold the same bytes. Killed at any point it leaves the table whole, as it was or as it will be.

    :param source: a file, folder, glob or URI. (templated)
    :param schema: the declared columns: a Schema, or ``"package.module:NAME"`` of one.
    :param publish: the table.
    :param partitions: which partitions to replace, such as ``"2013-06-01"`` or ``"2013-01-01..2013-06-30"``;
        empty for a table that is replaced whole. (templated)
    :param format: ``csv``, ``jsonl``, ``parquet``, or ``auto`` by the files' names.
    :param transform: ``"package.module:function"`` that gets the typed rows and gives those to publish.
    :param suite: a Great Expectations suite that the rows must pass before anybody sees them. (templated)
    :param max_bad_rows: with more bad rows than this the step fails.
    :param delimiter: between the fields of a CSV line.

    ``shards`` and ``parallelism`` are those of :class:`~airflow_ml_provider.operators.sharding.ShardedStep`; a file
    is never cut.
    """

    verb = "ingest"
    # Files that look as before are taken for the same; of others the step compares what they hold with what
    # was published.
    reusable = False
    plans_each_try = True
    template_fields: Sequence[str] = ("source", "schema", "publish", "partitions", "transform", "suite")
    ui_color = "#e3f2fd"

    def __init__(
        self,
        *,
        source: str,
        schema: Schema | str,
        publish: Table | str,
        partitions: str = "",
        format: Literal["auto", "csv", "jsonl", "parquet"] = "auto",
        transform: str | None = None,
        suite: str | None = None,
        max_bad_rows: int = 0,
        delimiter: str = ",",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if format not in FORMATS:
            raise ConfigError(f"unknown format {format!r}", todo=f"use one of {', '.join(FORMATS)}")
        if max_bad_rows < 0:
            raise ConfigError(f"max_bad_rows is {max_bad_rows}", todo="use 0 to accept no bad row")
        if self.shards > 1 and suite:
            raise ConfigError(
                f"task {self.task_id!r} has shards={self.shards} and suite=: what shards write is not audited "
                "before it is published",
                todo="leave one of them out; a ValidateOperator can check the table afterwards",
            )
        self.source = source
        self.schema = schema
        self.publish = publishable(publish, wanted_by=f"task {self.task_id!r}")
        self.partitions = partitions
        self.format = format
        self.transform = transform
        self.suite = suite
        self.max_bad_rows = max_bad_rows
        self.delimiter = delimiter
        self.add_outlet(table_asset(self.publish))

    def arguments(self, pins: Pins, context: Context) -> IngestArguments:
        """The step's arguments."""
        return IngestArguments(
            source=str(self.source),
            schema=self.schema,
            publish=self.publish,
            partitions=str(self.partitions),
            format=self.format,
            transform=self.transform,
            suite=self.suite,
            max_bad_rows=self.max_bad_rows,
            delimiter=self.delimiter,
            shards=self.shards,
            parallelism=self.parallelism,
        )

    def source_identity(self) -> str | None:
        """Names, sizes and times of the source's files, where the task sees those that the step sees."""
        source = str(self.source)
        elsewhere = self._compute().ships_code and is_local(source)
        return None if elsewhere else contents.files_of(source)

    def entry_points(self) -> Iterable[str | None]:
        """The transformation, the suite, and the schema where it is named."""
        return (self.transform, self.suite, self.schema if isinstance(self.schema, str) else None)
