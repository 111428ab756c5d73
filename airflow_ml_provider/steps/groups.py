"""The groups of a table's rows, for a model each: the values of some columns, and those that get no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, DataError, did_you_mean
from airflow_ml_provider.contract.fleets import Item
from airflow_ml_provider.steps.labelled_rows import LabelledRows

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.steps.context import StepContext

# The key of the item whose model is trained on all rows.
ALL_ROWS = "all_rows"
# Rows to score hold numbers as 64-bit floats, which are exact up to here.
_MOST_NUMBER = 2**53
_TOLD = 20


@dataclass(frozen=True)
class LeftOut:
    """A group that gets no model.

    :param rows: with a label.
    :param why: in words.
    """

    group: Item
    rows: int
    why: str

    def __str__(self) -> str:
        return f"{named(self.group.values())} ({self.why})"


@dataclass(frozen=True)
class Groups:
    """The groups of some labelled rows.

    :param items: the groups to train a model for, in order; with a fallback to all rows, those first.
    :param left_out: groups of too few rows, or of one class only.
    :param ungrouped: rows without a value in one of the columns; they belong to no group.
    """

    columns: tuple[str, ...]
    items: list[Item]
    left_out: list[LeftOut]
    ungrouped: int

    def facts(self) -> dict[str, Any]:
        """For people, if there is anything to tell."""
        found: dict[str, Any] = {}
        if self.left_out:
            more = len(self.left_out) - _TOLD
            told = ", ".join(str(each) for each in self.left_out[:_TOLD])
            found["groups left out"] = f"{len(self.left_out):,}: {told}" + (
                f" and {more:,} more" if more > 0 else ""
            )
        if self.ungrouped:
            found["rows of no group"] = self.ungrouped
        return found


def of_rows(step: StepContext, arguments: FleetArguments) -> Groups:
    """The groups of a fleet's rows.

    :raises ConfigError: the columns are none to group by.
    :raises DataError: no group gets a model.
    """
    assert arguments.table is not None
    rows = LabelledRows(step, step.read(arguments.table), arguments.partitions, purpose="train on")
    columns = arguments.groups
    schema = rows.rows.lazy().collect_schema()
    _check(rows, schema, arguments)
    label = pl.col(rows.label)
    texts = [pl.col(name).cast(pl.String) for name in columns if _is_text(schema[name])]
    counted = (
        rows.rows.lazy()
        .filter(label.is_not_null())
        .with_columns(texts)
        .group_by(columns)
        .agg(pl.len().alias(" rows"), label.cast(pl.Int64).sum().alias(" positives"))
        .sort(columns)
        .collect(engine="streaming")
    )
    known = pl.all_horizontal(pl.col(name).is_not_null() for name in columns)
    ungrouped = int(counted.filter(~known)[" rows"].sum())
    items: list[Item] = [{ALL_ROWS: True}] if arguments.fallback == "all" else []
    left_out: list[LeftOut] = []
    trained = 0
    for *values, count, positives in counted.filter(known).iter_rows():
        group = dict(zip(columns, values, strict=True))
        _check_numbers(group)
        if count < arguments.minimum_rows:
            left_out.append(LeftOut(group, count, f"{count:,} row{'s' * (count != 1)}"))
        elif positives in (0, count):
            left_out.append(LeftOut(group, count, f"the label is {int(positives > 0)} in all {count:,} rows"))
        else:
            items.append(group)
            trained += 1
    if not trained:
        raise DataError(
            f"none of the {len(left_out):,} groups by {', '.join(columns)} in {rows.where} has "
            f"{arguments.minimum_rows:,} labelled rows of both classes",
            kept="nothing was run",
            todo="train on more partitions, lower minimum_rows=, or group by a coarser column",
        )
    return Groups(columns, items, left_out, ungrouped)


def named(values: Any) -> str:
    """A group for people: "EWR", or "EWR, LAX"."""
    return ", ".join(str(value) for value in values)


def _check(rows: LabelledRows, schema: pl.Schema, arguments: FleetArguments) -> None:
    there = [*rows.others, *rows.rows.features]
    for name in arguments.groups:
        if name not in there:
            raise ConfigError(
                f"over={name!r} is no column that the rows of {rows.where} are known by when they are scored",
                kept="nothing was run",
                todo=f"{did_you_mean(name, there)} A FeatureSet's keep= adds columns",
            )
        dtype = schema[name]
        if not (_is_text(dtype) or dtype.is_integer() or dtype == pl.Boolean):
            raise ConfigError(
                f"over={name!r} is a column of {dtype}, and groups are told apart by texts, whole numbers or "
                "booleans",
                kept="nothing was run",
                todo="keep such a column in the FeatureSet: a text or a whole number made of this one",
            )
    if arguments.fallback == "all" and ALL_ROWS in rows.table.columns:
        raise ConfigError(
            f'fallback="all" has an item that is called {ALL_ROWS!r}, and so is a column of {rows.where}',
            todo="build the table with another name for the column",
        )


def _check_numbers(group: Item) -> None:
    for name, value in group.items():
        if isinstance(value, int) and abs(value) > _MOST_NUMBER:
            raise DataError(
                f"the column {name!r} has the value {value}, which is too large to tell groups apart by",
                todo="keep it as a text",
            )


def _is_text(dtype: pl.DataType) -> bool:
    return dtype in (pl.String, pl.Categorical, pl.Enum)
