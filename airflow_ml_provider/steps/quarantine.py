"""Bad rows, kept in the table ``{table}_quarantine`` with their file, line and reason.

Its partition column ``partition`` names the partition of the main table that the row would have been in, or,
where that cannot be told, the partitions that were asked for. Ingesting partitions again replaces their bad
rows too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from airflow_ml_provider.contract.documents import Publication
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.partitions import Partitions
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import tables
from airflow_ml_provider.steps.pinned_tables import open_table
from airflow_ml_provider.steps.records import BadRow
from airflow_ml_provider.steps.spool import Spool

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext

# The partition of bad rows of a table that is always replaced whole.
WHOLE = "all"
_FIRST = 5
# Bad rows come a few at a time, from each batch of the source; on disk they are laid in batches of so many.
_BATCH = 1_000
_SCHEMA = pl.Schema(
    {
        "partition": pl.String(),
        "file": pl.String(),
        "line": pl.Int64(),
        "column": pl.String(),
        "reason": pl.String(),
        "raw": pl.String(),
        "source_digest": pl.String(),
    }
)


class Kept(NamedTuple):
    """A bad row and where it belongs; None where that cannot be told."""

    partition: str | None
    bad: BadRow


class Quarantine:
    """Collects the bad rows of one ingestion on local disk, then publishes them in one commit.

    :param partitions: the partitions being ingested; bad rows of others are none of its business.
    :param content: digest of the source.
    """

    def __init__(self, step: StepContext, target: Table, partitions: Partitions | None, content: str) -> None:
        self.table = quarantine_of(target)
        self.first: list[str] = []
        self._step = step
        self._target = target
        self._partitions = partitions
        self._values = frozenset(partitions.values) if partitions else None
        self._label = partitions.label if partitions else WHOLE
        self._content = content
        self._spool = Spool(step.scratch / "quarantine.arrow")
        self._spool.add(_SCHEMA.to_frame())
        self._waiting: list[tuple[str | int, ...]] = []

    @property
    def rows(self) -> int:
        """How many were kept."""
        return self._spool.rows + len(self._waiting)

    def add(self, file: str, rows: Iterable[Kept]) -> None:
        """Keep bad rows of a file, those of other partitions left out."""
        kept = [
            (partition or self._label, bad)
            for partition, bad in rows
            if self._values is None or partition is None or partition in self._values
        ]
        if not kept:
            return
        for _, bad in kept[: _FIRST - len(self.first)]:
            self.first.append(f"{file}:{bad.line}: {bad.reason}")
        self._waiting += [
            (partition, file, bad.line, bad.column, bad.reason, bad.raw, self._content)
            for partition, bad in kept
        ]
        if len(self._waiting) >= _BATCH:
            self._lay_down()

    @property
    def path(self) -> Path:
        """The bad rows on local disk; none can be added after this was asked for."""
        self._lay_down()
        self._spool.close()
        return self._spool.path

    def take(self, path: Path, first: Iterable[str]) -> None:
        """Keep the bad rows of a file that another process has kept them in, the first of them in words."""
        self._lay_down()
        self._spool.add_all(path)
        self.first = [*self.first, *first][:_FIRST]

    def publish(self) -> Publication | None:
        """Replace what the quarantine table holds of these partitions; None when there is nothing to."""
        held = kept_of(self._step, self._target, self._partitions)
        if not self.rows and not (held and held.rows):
            return None
        self._lay_down()
        content = digest(self._content, "quarantine", self._label)
        partitions = _replaced(self._partitions)
        return tables.publish(
            self._step, self.table, self._spool.reader(), partitions=partitions, content=content
        )

    def _lay_down(self) -> None:
        if self._waiting:
            self._spool.add(pl.DataFrame(self._waiting, schema=_SCHEMA, orient="row"))
            self._waiting = []


def quarantine_of(table: Table) -> Table:
    """The quarantine table of a table."""
    return Table(f"{table.name}_quarantine", partition_by="partition")


def kept_of(step: StepContext, target: Table, partitions: Partitions | None) -> Publication | None:
    """What the quarantine table holds now of partitions of its table; None if there is no such table."""
    table = quarantine_of(target)
    if step.store.latest_version(table.name) is None:
        return None
    return open_table(step.store, table).published(_replaced(partitions))


def _replaced(partitions: Partitions | None) -> Partitions | None:
    if partitions is None:
        return None
    # The notation of a range or a list is a partition of its own here: of rows whose day cannot be told.
    values = tuple(dict.fromkeys([*partitions.values, partitions.label]))
    return Partitions(partitions.label.replace("..", " to "), values)
