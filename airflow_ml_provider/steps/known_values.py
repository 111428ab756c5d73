"""Values that a model has seen: rows with another one are refused instead of scored.

Encoders take a value that they do not know for a missing one, so a carrier in lower case would be scored like
a carrier without a name. A missing value itself is not refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, DataError, did_you_mean
from airflow_ml_provider.steps.flavors import FAMILY

if TYPE_CHECKING:
    from airflow_ml_provider.steps.labelled_rows import LabelledRows
    from airflow_ml_provider.steps.models import ScoringModel

# More are no names of things, and the model's description would not hold them.
_MOST = 5_000
_TOLD = 5


def values_of(rows: LabelledRows, columns: Sequence[str]) -> dict[str, list[str]]:
    """The values that occur in some columns of the training rows, as text, in order.

    :raises ConfigError: there is no such column, or it is none of names.
    """
    schema = rows.frame.collect_schema()
    there = [name for name in schema.names() if name != rows.label]
    found = {}
    for name in columns:
        if name not in there:
            raise ConfigError(
                f"known_values names the column {name!r}, and {rows.where} has none",
                todo=f"{did_you_mean(name, there)} A FeatureSet's keep= adds columns",
            )
        values = rows.frame.select(_text(name, schema[name])).drop_nulls().unique()
        texts = values.collect(engine="streaming").to_series().sort().to_list()
        if len(texts) > _MOST:
            raise ConfigError(
                f"known_values names {name!r}, which has {len(texts):,} different values; {_MOST:,} are possible",
                todo="name columns of a fixed set of values, such as carriers",
            )
        found[name] = texts
    return found


def check(model: ScoringModel, rows: pl.LazyFrame) -> None:
    """Whether rows have only values that the model has seen, where it was trained to ask for that, and groups.

    Reads those columns once more, before anything is scored.

    :raises DataError: they have others; says which, and in how many rows.
    """
    if model.flavor.name == FAMILY:
        from airflow_ml_provider.steps import family

        family.check(model, rows)
    if not model.known_values:
        return
    schema = rows.collect_schema()
    if missing := [name for name in model.known_values if name not in schema]:
        raise DataError(
            f"the rows lack {', '.join(missing)}, whose values model {model.name} was trained to check",
            todo="keep the column: a FeatureSet's keep= adds it",
        )
    said = [
        text
        for name, known in model.known_values.items()
        if (text := _unknown(rows.select(_text(name, schema[name])), name, known))
    ]
    if said:
        raise DataError(
            f"model {model.name} has not seen {' and '.join(said)}; nothing was scored",
            todo="correct the values where they come from, or train a version on rows that have them",
        )


def _unknown(column: pl.LazyFrame, name: str, known: Sequence[str]) -> str:
    value = pl.col(name)
    counted = column.filter(value.is_not_null() & ~value.is_in(list(known))).group_by(name).agg(n=pl.len())
    found = counted.collect(engine="streaming").sort(["n", name], descending=[True, False])
    if not found.height:
        return ""
    named = ", ".join(repr(each) for each in found[name].head(_TOLD).to_list())
    more = f" and {found.height - _TOLD} more" if found.height > _TOLD else ""
    return f"{name} {named}{more} ({found['n'].sum():,} rows)"


def as_read(described: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """As a model's description has them."""
    return {name: tuple(values) for name, values in (described or {}).items()}


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    """A value as text; features are kept as 64-bit floats, so a whole number is the same in both forms."""
    column = pl.col(name)
    if dtype.is_numeric() or dtype == pl.Boolean:
        column = column.cast(pl.Float64)
    return column.cast(pl.String)
