"""What a model version has predicted: the partitions to look at, and to predict again, after a rollback."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.partitions import label_of

if TYPE_CHECKING:
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.steps.context import StepContext

_COLUMNS = ("model_name", "model_version")


def check_predictions(step: StepContext, tables: Iterable[Table]) -> list[Table]:
    """The tables that exist.

    :raises DataError: one of them is not a table of predictions.
    """
    found = []
    for table in tables:
        if table.version is None and step.store.latest_version(table.name) is None:
            step.warn(f"there is no table {table.name!r}, so nothing in it is affected")
            continue
        columns = step.read(table).columns
        if missing := [name for name in _COLUMNS if name not in columns]:
            raise DataError(
                f"table {table.name!r} is not a table of predictions: it has no column {' and no '.join(missing)}",
                kept="the alias and the ledger are as they were",
                todo="name tables that a predict step publishes: predictions=[Table(...)]",
            )
        found.append(table)
    return found


def affected_partitions(
    step: StepContext, tables: Iterable[Table], model: str, version: int | None
) -> tuple[list[dict[str, Any]], str]:
    """Which partitions of tables of predictions hold rows that a version predicted, and how many rows.

    :return: a document a table (``table``, ``version``, ``partitions`` in the notation of
        :mod:`airflow_ml_provider.contract.partitions`, ``rows``), and the partitions of all of them together.
    """
    import polars as pl

    found, together = [], set[str]()
    for table in tables:
        pinned = step.read(table)
        by = pinned.partition_by
        mine = (pl.col("model_name") == model) & (pl.col("model_version") == version)
        counted = (
            pinned.lazy().filter(mine).group_by(by or pl.lit("").alias("whole")).len()
            .collect(engine="streaming").sort(pl.first())
        )  # fmt: skip
        partitions = [str(value) for value in counted.to_series(0)] if by else []
        together.update(partitions)
        rows = int(counted["len"].sum())
        label = label_of(partitions) if partitions else ""
        found.append({"table": table.name, "version": pinned.version, "partitions": label, "rows": rows})
    return found, label_of(sorted(together)) if together else ""
