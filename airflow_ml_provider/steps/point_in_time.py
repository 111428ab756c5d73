"""The point-in-time join on two clocks, of files that may be larger than memory.

What a row may use is said in :mod:`.newest_facts`, which finds it among facts that fit in memory. Facts that
do not are cut by a hash of their entity into buckets that do, and the rows with them; each bucket is joined
by itself, and the parts are put together in the rows' order.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.steps import memory
from airflow_ml_provider.steps.laid_files import scan, slices
from airflow_ml_provider.steps.newest_facts import NONE, NewestFacts, comparable, newest_facts
from airflow_ml_provider.steps.threads import in_order

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.newest_facts import Integers

CHUNK_ROWS = 200_000
_FEWEST_CHUNK_ROWS = 1_000
# A chunk of rows with their facts takes this part of what may be held; a few are under way at a time.
_CHUNKS = 8
# Facts of one bucket may take this part of the memory; sorting them takes as much again, Polars the rest.
_PART_OF_MEMORY = 6
# Each has an open file and a part of every batch: more would be small parts of large files. Fits in a byte.
_MOST_BUCKETS = 256


@dataclass(frozen=True)
class Facts:
    """One view's facts: ``b0..`` (entity), ``event``, ``known``, ``f0..`` (features).

    :param path: the file that they are in.
    :param by: the rows' columns that ``b0..`` must equal.
    :param features: how many features there are.
    :param max_age_seconds: an older fact is not used.
    :param held: they are in memory, and not in the file.
    """

    path: Path
    by: tuple[str, ...]
    features: int
    max_age_seconds: int | None = None
    held: pl.DataFrame | None = None

    def frame(self) -> pl.LazyFrame:
        """The facts."""
        return scan(self.path) if self.held is None else self.held.lazy()

    def slices(self, rows: int) -> Iterator[pl.DataFrame]:
        """The facts, so many at a time."""
        return slices(self.path, rows) if self.held is None else self.held.iter_slices(rows)

    @property
    def bytes(self) -> int:
        """About how much memory they take."""
        return memory.held_bytes(self.path) if self.held is None else int(self.held.estimated_size())

    @property
    def entity(self) -> list[str]:
        """The columns of the entity."""
        return [f"b{number}" for number in range(len(self.by))]

    @property
    def values(self) -> list[str]:
        """The columns of the features."""
        return [f"f{number}" for number in range(self.features)]


def may_be_held() -> int:
    """How many bytes facts and the rows' part that is joined with them may take."""
    return memory.available() // _PART_OF_MEMORY


def join(
    connection: DuckDBPyConnection,
    rows: Path,
    time: str,
    facts: Iterable[Facts],
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

    :param rows: a file.
    :param facts: taken one by one, when the view before has been joined.
    :param time: column of the rows: the prediction time.
    :param bucket_bytes: how much of a view's facts and rows to hold in memory; None for a part of what there is.
    :param chunk_rows: for how many rows at a time to take their facts, at most: fewer where facts are wide.
    :param advance: told, again and again, how many more rows have been joined with a view.
    """
    size = may_be_held() if bucket_bytes is None else bucket_bytes
    count = scan(rows).select(pl.len()).collect().item()
    paths = []
    for index, view in enumerate(facts):
        path = folder / f"view-{index}.arrow"
        held, total = view.bytes, view.frame().select(pl.len()).collect().item()
        at_a_time = min(chunk_rows, max(size * total // (held * _CHUNKS + 1), _FEWEST_CHUNK_ROWS))
        joining = _Joining(connection, index, view, at_a_time, advance)
        held += memory.held_bytes(rows, [*view.by, time])
        entity = (pl.col(column).alias(f"b{number}") for number, column in enumerate(view.by))
        asked = scan(rows).select(pl.col(time).alias("t"), *entity).with_row_index("n")
        if held <= size:
            joining.write(asked.collect(), view.frame().collect(), path, at_a_time)
        else:
            buckets = min(math.ceil(held / size), _MOST_BUCKETS)
            joining.in_buckets(asked, buckets, count, folder / f"view-{index}", path)
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
        taken = _in_one_chunk(facts, names)
        work = (partial(self._part, newest, taken, part) for part in rows.iter_slices(self.chunk_rows))
        schema = self._part(newest, taken, rows.clear()).schema
        self._keep(in_order(work), schema, to, group_rows, self.advance)

    def in_buckets(self, rows: pl.LazyFrame, buckets: int, count: int, folder: Path, to: Path) -> None:
        """Join facts that do not fit in memory, bucket by bucket.

        :param rows: as :meth:`write` takes them.
        :param count: of rows.
        :param folder: to be made, and removed again.
        """
        ordered = rows.collect_batches(chunk_size=self.chunk_rows, maintain_order=True)
        asked = self._cut(ordered, buckets, folder / "rows")
        facts = self._cut(self.view.slices(self.chunk_rows), buckets, folder / "facts")
        nothing = self.view.frame().head(0).collect()
        # As many as a chunk of all rows takes from one bucket.
        group_rows = max(self.chunk_rows // buckets, 1)
        parts = []
        for bucket in range(buckets):
            mine = asked(bucket)
            if mine is None:
                continue
            known = facts(bucket)
            parts.append(folder / f"joined-{bucket}.arrow")
            self.write(mine, nothing if known is None else known, parts[-1], group_rows)
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
            columns = ", ".join(self.view.values)
            hashed = cursor.execute(f"SELECT hash({columns}) AS h FROM content")  # noqa: S608 - our names
            return np.asarray(hashed.fetchnumpy()["h"], np.uint64)

    def _cut(
        self, frames: Iterable[pl.DataFrame], buckets: int, folder: Path
    ) -> Callable[[int], pl.DataFrame | None]:
        """Write rows or facts into buckets by the hash of their entity; gives those of a bucket, in order."""
        folder.mkdir(parents=True)
        writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        with contextlib.ExitStack() as files:
            # Cutting one batch takes as long as writing another.
            for parts in in_order(partial(self._parts, batch, buckets) for batch in frames):
                for bucket, table in parts:
                    if bucket not in writers:
                        path = str(folder / f"{bucket}.arrow")
                        writers[bucket] = files.enter_context(pa.ipc.new_file(path, table.schema))
                    writers[bucket].write_table(table)

        def of(bucket: int) -> pl.DataFrame | None:
            return pl.read_ipc(folder / f"{bucket}.arrow") if bucket in writers else None

        return of

    def _parts(self, batch: pl.DataFrame, buckets: int) -> list[tuple[int, pa.Table]]:
        """The buckets of a batch and what of it, in order, belongs there."""
        entity = comparable([batch[name] for name in self.view.entity]).to_struct()
        # Small numbers are put in order by counting them.
        marks = (entity.hash() % buckets).to_numpy().astype(np.uint8)
        ends = np.bincount(marks, minlength=buckets).cumsum().tolist()
        ordered = _table(batch[np.argsort(marks, kind="stable")])
        return [
            (bucket, ordered.slice(begin, end - begin))
            for bucket, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
            if end > begin
        ]

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


def _in_one_chunk(frame: pl.DataFrame, names: dict[str, str]) -> pa.Table:
    """Some columns, renamed; rows are taken fastest of one chunk."""
    return _table(pl.DataFrame([frame[name].rechunk().alias(called) for name, called in names.items()]))


def _table(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
