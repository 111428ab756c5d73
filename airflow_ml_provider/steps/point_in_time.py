# ruff: noqa: S608 - what becomes SQL is paths of scratch files and column names from this package, never a user's
"""The point-in-time join on two clocks, of files that may be larger than memory.

What a row may use is said in :mod:`.newest_facts`, which finds it among facts that fit in memory. Facts that
do not are cut by a hash of their entity into buckets that do, and the rows with them; each bucket is joined
by itself, and the parts are put together in the rows' order.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.steps import memory
from airflow_ml_provider.steps.newest_facts import NONE, NewestFacts, newest_facts
from airflow_ml_provider.steps.out_of_core import parquet, scan, text
from airflow_ml_provider.steps.threads import in_order

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.newest_facts import Integers

CHUNK_ROWS = 500_000
# Facts of one bucket may take this part of the memory; sorting them takes as much again, Polars the rest.
_PART_OF_MEMORY = 16
# Numbers that are equal have the same hash when they are of the same type.
_WIDE = {"TINYINT": "BIGINT", "SMALLINT": "BIGINT", "INTEGER": "BIGINT", "FLOAT": "DOUBLE"}


@dataclass(frozen=True)
class Facts:
    """A Parquet file of one view's facts: ``b0..`` (entity), ``event``, ``known``, ``f0..`` (features).

    :param by: the rows' columns that ``b0..`` must equal.
    :param features: how many features there are.
    :param max_age_seconds: an older fact is not used.
    """

    path: Path
    by: tuple[str, ...]
    features: int
    max_age_seconds: int | None = None

    @property
    def entity(self) -> list[str]:
        """The columns of the entity."""
        return [f"b{number}" for number in range(len(self.by))]

    @property
    def values(self) -> list[str]:
        """The columns of the features."""
        return [f"f{number}" for number in range(self.features)]


def join(
    connection: DuckDBPyConnection,
    rows: Path,
    time: str,
    facts: Sequence[Facts],
    folder: Path,
    *,
    bucket_bytes: int | None = None,
    chunk_rows: int = CHUNK_ROWS,
    advance: Callable[[int], object] = lambda _: None,
) -> tuple[Path, ...]:
    """Write the facts that each row may use: an Arrow file a view, with a line for each row in their order.

    View ``i`` has its features as ``v{i}_0..`` and the used fact's times as ``e{i}`` and ``k{i}``, all null
    where no fact may be used; and ``n{i}``, the row's number in the file of rows. The views are joined one
    after another: memory is that of one bucket of one view.

    :param rows: a Parquet file.
    :param time: column of the rows: the prediction time.
    :param bucket_bytes: how much of a view's facts and rows to hold in memory; None for a part of what there is.
    :param chunk_rows: for how many rows at a time to take their facts.
    :param advance: told, again and again, how many more rows have been joined with a view.
    """
    size = memory.available() // _PART_OF_MEMORY if bucket_bytes is None else bucket_bytes
    count = pl.scan_parquet(rows).select(pl.len()).collect().item()
    paths = []
    for index, view in enumerate(facts):
        path = folder / f"view-{index}.arrow"
        joining = _Joining(connection, index, view, chunk_rows, advance)
        held = memory.held_bytes(view.path) + memory.held_bytes(rows, [*view.by, time])
        if held <= size:
            entity = (pl.col(column).alias(f"b{number}") for number, column in enumerate(view.by))
            asked = pl.scan_parquet(rows).select(pl.col(time).alias("t"), *entity).with_row_index("n")
            joining.write(asked.collect(), pl.read_parquet(view.path).rechunk(), path, chunk_rows)
        else:
            joining.in_buckets(rows, time, math.ceil(held / size), count, folder / f"view-{index}", path)
        check_order(path, f"n{index}", count)
        paths.append(path)
    return tuple(paths)


def check_order(path: Path, number: str, count: int) -> None:
    """Whether a view's file has a line for each row, in the rows' order: they are put side by side.

    :raises InfrastructureError: it has not.
    """
    in_order = (pl.col(number) == pl.int_range(pl.len())).all()
    found = scan(path).select(pl.len().alias("count"), in_order.alias("in order"))
    if found.collect(engine="streaming").row(0) != (count, True):
        raise InfrastructureError(
            f"{path.name} does not have one line for each of {count:,} rows in their order"
        )


@dataclass(frozen=True)
class _Joining:
    """The join of one view.

    :param index: which view: names its columns.
    """

    connection: DuckDBPyConnection
    index: int
    view: Facts
    chunk_rows: int
    advance: Callable[[int], object]

    def write(self, rows: pl.DataFrame, facts: pl.DataFrame, to: Path, group_rows: int) -> None:
        """Join rows with facts that fit in memory, and write what they use in the rows' order.

        :param rows: columns ``n`` (the row's number), ``t`` and the entity ``b0..``.
        :param facts: in one chunk, of which rows are taken fastest.
        :param group_rows: of the batches of the file.
        """
        newest = newest_facts(
            [facts[name] for name in self.view.entity],
            facts["event"],
            facts["known"],
            max_age_seconds=self.view.max_age_seconds,
            tie=lambda those: self._hashes(facts, those),
        )
        names = {name: f"v{self.index}_{number}" for number, name in enumerate(self.view.values)}
        names |= {"event": f"e{self.index}", "known": f"k{self.index}"}
        taken = _table(facts.select(pl.col(name).alias(called) for name, called in names.items()))
        work = (partial(self._part, newest, taken, part) for part in rows.iter_slices(self.chunk_rows))
        schema = self._part(newest, taken, rows.clear()).schema
        self._keep(in_order(work), schema, to, group_rows, self.advance)

    def in_buckets(self, rows: Path, time: str, buckets: int, count: int, folder: Path, to: Path) -> None:
        """Join facts that do not fit in memory, bucket by bucket.

        :param count: of rows.
        :param folder: to be made, and removed again.
        """
        entity = ", ".join(f"{column} AS b{number}" for number, column in enumerate(self.view.by))
        numbered = f"SELECT file_row_number AS n, {time} AS t, {entity} FROM {parquet(rows, numbered=True)}"
        asked = self._cut(numbered, buckets, folder / "rows")
        facts = self._cut(f"SELECT * FROM {parquet(self.view.path)}", buckets, folder / "facts")
        parts = []
        for bucket in range(buckets):
            mine, known = asked(bucket), facts(bucket)
            if mine is None:
                continue
            if known is None:
                known = pl.scan_parquet(self.view.path).head(0).collect()
            parts.append(folder / f"joined-{bucket}.arrow")
            # As many as a chunk of all rows takes from one bucket.
            self.write(
                mine.sort("n"),
                known.rechunk(),
                parts[-1],
                max(self.chunk_rows // buckets, 1),
            )
        self._put_together(parts, count, to)
        shutil.rmtree(folder)

    def _part(self, newest: NewestFacts, taken: pa.Table, rows: pl.DataFrame) -> pa.Table:
        """What some rows use."""
        facts = newest.of([rows[name] for name in self.view.entity], rows["t"])
        used = taken.take(pa.array(facts, mask=facts == NONE))
        return used.add_column(0, f"n{self.index}", pa.array(rows["n"].to_numpy(), pa.int64()))

    def _hashes(self, facts: pl.DataFrame, those: Integers) -> NDArray[np.uint64]:
        """A number of some facts' features, the same on every run and in any order of the file."""
        content = facts.select(pl.col(self.view.values).gather(pl.Series(those))).to_arrow()
        with self.connection.cursor() as cursor:
            cursor.register("content", content)
            hashed = cursor.execute(f"SELECT hash({', '.join(self.view.values)}) AS h FROM content")
            return np.asarray(hashed.fetchnumpy()["h"], np.uint64)

    def _cut(self, query: str, buckets: int, folder: Path) -> Callable[[int], pl.DataFrame | None]:
        """Write the rows of a query into buckets by the hash of their entity; gives those of a bucket."""
        # Rows and facts may have numbers of different width, which hash differently.
        kinds = self.connection.execute(f"SELECT {', '.join(self.view.entity)} FROM ({query}) LIMIT 0")
        entity = [
            f"{name}::{_WIDE.get(str(kind[1]), str(kind[1]))}"
            for name, kind in zip(self.view.entity, kinds.description, strict=True)
        ]
        folder.mkdir(parents=True)
        bucket = f"(hash({', '.join(entity)}) % {buckets})::INTEGER AS bucket"
        # Keeping the order of a file takes memory, and buckets have none.
        self.connection.execute("SET preserve_insertion_order = false")
        try:
            self.connection.execute(
                f"COPY (SELECT *, {bucket} FROM ({query})) TO {text(folder)} "
                f"(FORMAT parquet, COMPRESSION lz4_raw, PARTITION_BY (bucket), OVERWRITE_OR_IGNORE)"
            )
        finally:
            self.connection.execute("SET preserve_insertion_order = true")

        def of(bucket: int) -> pl.DataFrame | None:
            files = sorted((folder / f"bucket={bucket}").glob("*.parquet"))
            return pl.read_parquet(files, hive_partitioning=False) if files else None

        return of

    def _put_together(self, parts: Sequence[Path], count: int, to: Path) -> None:
        """Write parts, each in the rows' order, as one file in the rows' order."""
        number = f"n{self.index}"
        starts = np.arange(0, count + self.chunk_rows, self.chunk_rows)
        frames = [pl.scan_ipc(path) for path in parts]
        edges = [
            frame.select(number).collect()[number].search_sorted(starts, side="left").to_list()
            for frame in frames
        ]

        def chunk(at: int) -> pa.Table:
            pieces = [
                frame.slice(edge[at], edge[at + 1] - edge[at])
                for frame, edge in zip(frames, edges, strict=True)
            ]
            return _table(pl.concat(pieces).collect().sort(number))

        work = (partial(chunk, at) for at in range(len(starts) - 1))
        with pa.ipc.open_file(str(parts[0])) as first:
            self._keep(in_order(work), first.schema, to, self.chunk_rows)

    def _keep(
        self,
        tables: Iterator[pa.Table],
        schema: pa.Schema,
        to: Path,
        group_rows: int,
        advance: Callable[[int], object] = lambda _: None,
    ) -> None:
        with pa.OSFile(str(to), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
            for table in tables:
                file.write_table(table, max_chunksize=group_rows)
                advance(table.num_rows)


def _table(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
