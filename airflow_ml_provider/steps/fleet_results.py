"""The results of a fleet as a table: one row an item, typed by what there is, in memory by a batch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

# A fleet that neither publishes nor is tracked needs no table of its results.
if TYPE_CHECKING:
    import polars as pl

    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.contract.documents import Publication
    from airflow_ml_provider.contract.fleets import Item, ItemRecord
    from airflow_ml_provider.steps.context import StepContext

_OWN: dict[str, type] = {"state": str, "tries": int, "seconds": float, "error": str}
_BATCH_BYTES = 4_000_000
# What Parquet and Delta do not take in a column's name.
_UNFIT = re.compile(r"[ ,;{}()\n\t=]")


class Results:
    """Rows as they come, laid down on local disk, and a frame of them once their columns are known.

    An item's keys are columns of their names. The fleet's own are ``state``, ``tries``, ``seconds`` and
    ``error``; one that an item has, too, begins with ``fleet_``. Results are columns of their names, or begin
    with ``result_`` where there is such a column already.

    :param folder: an empty folder.
    :param items: of the fleet.
    """

    def __init__(self, folder: Path, items: Iterable[Item]) -> None:
        folder.mkdir()
        self._folder = folder
        self._lines = (folder / "rows.jsonl").open("wb+")
        keys = dict.fromkeys(_fit(name) for item in items for name in item)
        self._own = {name: f"fleet_{name}" if name in keys else name for name in _OWN}
        self._taken = {*keys, *self._own.values()}
        self._types: dict[str, type | None] = dict.fromkeys(keys)
        self._found: dict[str, type | None] = {}
        self._content = hashlib.sha256()

    @property
    def content(self) -> str:
        """A digest of the rows, but for how long they took and how often they were tried."""
        return self._content.hexdigest()

    def add(self, item: Item, record: ItemRecord) -> None:
        """Add an item's row."""
        row: dict[str, Any] = {_fit(name): value for name, value in item.items()}
        self._learn(self._types, row)
        results = {self._result(name): _flat(value) for name, value in record.result.items()}
        self._learn(self._found, results)
        error = f"{record.error.error}: {record.error.message}" if record.error else None
        own = (record.state, record.tries, record.seconds, error)
        row |= results | dict(zip(self._own.values(), own, strict=True))
        self._lines.write(msgspec.json.encode(row) + b"\n")
        self._content.update(msgspec.json.encode([item, record.state, record.result, error]))

    def frame(self) -> pl.LazyFrame:
        """All rows, in the order of the items."""
        import polars as pl

        types = {bool: pl.Boolean, int: pl.Int64, float: pl.Float64, str: pl.String}
        self._lines.flush()
        self._lines.seek(0)
        own = {self._own[name]: kind for name, kind in _OWN.items()}
        error = self._own["error"]
        kinds = {
            **{name: kind or str for name, kind in self._types.items()},
            **{name: kind for name, kind in own.items() if name != error},
            **{name: kind or str for name, kind in sorted(self._found.items())},
            error: str,
        }
        for number, rows in enumerate(_batches(self._lines)):
            columns = {
                name: pl.Series(name, [_as(row.get(name), kind) for row in rows], types[kind])
                for name, kind in kinds.items()
            }
            pl.DataFrame(columns).write_parquet(self._folder / f"{number:06d}.parquet")
        return pl.scan_parquet(self._folder / "*.parquet")

    def _result(self, name: str) -> str:
        fit = _fit(name)
        return f"result_{fit}" if fit in self._taken else fit

    @staticmethod
    def _learn(types: dict[str, type | None], row: Item) -> None:
        for name, value in row.items():
            known = types.setdefault(name, None)
            kind = known if value is None else type(value)
            if known is not None and kind is not known:
                kind = float if {kind, known} == {int, float} else str
            types[name] = kind


def publish(
    step: StepContext, arguments: FleetArguments, results: Results, frame: pl.LazyFrame
) -> Publication:
    """Publish the rows, once: by partition where the table has a partition column, and whole otherwise."""
    import polars as pl

    from airflow_ml_provider.contract.partitions import parse_partitions
    from airflow_ml_provider.steps import tables

    target = arguments.publish
    assert target is not None
    partitions = None
    if (column := target.partition_by) is not None:
        if column in frame.collect_schema():
            frame = frame.with_columns(pl.col(column).cast(pl.String))
            found = frame.select(pl.col(column).unique().sort()).collect()[column].to_list()
            partitions = parse_partitions([str(value) for value in found])
        else:
            partitions = parse_partitions(arguments.partitions)
            frame = frame.with_columns(pl.lit(partitions.values[0]).alias(column))
    batches = tables.batches_of(frame)
    return tables.publish(step, target, batches, partitions=partitions, content=results.content)


def _batches(lines: IO[bytes]) -> Iterator[list[dict[str, Any]]]:
    while some := lines.readlines(_BATCH_BYTES):
        yield [msgspec.json.decode(line) for line in some]


def _as(value: Any, kind: type) -> Any:
    if value is None or kind not in (float, str):
        return value
    if kind is float:
        return float(value)
    return value if isinstance(value, str) else json.dumps(value)


def _flat(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _fit(name: str) -> str:
    return _UNFIT.sub("_", name)
