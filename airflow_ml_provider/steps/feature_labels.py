"""Labels: given by the user's function, matched with the rows where they have matured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.contract.errors import DataError, UserCodeError
from airflow_ml_provider.contract.features import Label
from airflow_ml_provider.steps import functions, maturity
from airflow_ml_provider.steps.feature_inputs import Inputs, Rows, same_kind
from airflow_ml_provider.steps.laid_files import lay, scan
from airflow_ml_provider.steps.out_of_core import Repeats, fits, join_matured_labels, repeats
from airflow_ml_provider.steps.row_order import in_order

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def with_labels(
    connection: DuckDBPyConnection,
    label: Label,
    key: Sequence[str],
    inputs: Inputs,
    rows: Rows,
    *,
    predicted: str,
    until: datetime | None,
    folder: Path,
) -> tuple[Path, int]:
    """The rows whose label has matured, as a file with ``label`` and ``label_known``, and how many they are.

    ``label_known`` is when the label matured.

    :param predicted: the prediction time's column in the rows' file.
    :param until: labels that matured later do not count.
    :raises UserCodeError: the label function raised, or does not give what is declared.
    :raises DataError: it gives two labels for a key, or not one that has matured.
    """
    labels = _write(label, key, inputs, rows, to=folder / "labels.arrow")
    inside, rows_key = [f"k{number}" for number in range(len(key))], rows.inside(key)
    path = folder / "labelled.arrow"
    if _in_step(rows.path, rows_key, labels, inside):
        matched = _side_by_side(label, rows.path, labels, predicted, until)
        if not fits(rows.path) or in_order(rows.path, rows.order):
            lay(matched, path)
        else:
            # They are to be sorted: here they need not be written and read again for it.
            matched.collect(engine="streaming").sort(rows.order).write_ipc(path, compression="uncompressed")
    else:
        found = repeats(connection, labels, inside, among=rows.path, among_key=rows_key)
        refuse_repeats(found, key, f"labels that {functions.name_of(label.function)} gives")
        path = path.with_suffix(".parquet")
        matured = maturity.as_sql(label, predicted=f"r.{predicted}", known="l.known")
        join_matured_labels(
            connection, rows.path, rows_key, labels, inside, matured=matured, until=until, to=path
        )
    count = scan(path).select(pl.len()).collect().item()
    if not count:
        mine = scan(rows.path).select(
            *(pl.col(column).alias(name) for column, name in zip(rows_key, inside, strict=True)),
            pl.col(predicted).alias("predicted"),
        )
        raise none_matured(label, scan(labels).join(mine, on=inside), until)
    return path, count


def _in_step(rows: Path, rows_key: Sequence[str], labels: Path, key: Sequence[str]) -> bool:
    """Whether rows and labels come in the same order, key by key, as when they are made from one table."""
    frames = scan(rows).select(rows_key), scan(labels).select(key)
    counts = [frame.select(pl.len()).collect().item() for frame in frames]
    if counts[0] != counts[1]:
        return False
    same = [pl.col(mine) == pl.col(other) for mine, other in zip(rows_key, key, strict=True)]
    both = pl.concat(frames, how="horizontal").select(pl.all_horizontal(same).fill_null(False).all())
    return bool(both.collect(engine="streaming").item())


def _side_by_side(
    label: Label, rows: Path, labels: Path, predicted: str, until: datetime | None
) -> pl.LazyFrame:
    """As :func:`.out_of_core.join_matured_labels`, of rows and labels in the same order."""
    values = scan(labels).select("label", *(["known"] if label.times else []))
    matured = maturity.as_expression(label, predicted=pl.col(predicted), known=pl.col("known"))
    both = pl.concat([scan(rows), values], how="horizontal").with_columns(label_known=matured)
    wanted = pl.col("label").is_not_null() & pl.col("label_known").is_not_null()
    if until is not None:
        wanted &= pl.col("label_known") <= pl.lit(until)
    return both.filter(wanted).drop("known", strict=False)


def refuse_repeats(found: Repeats | None, key: Sequence[str], what: str) -> None:
    """
    :raises DataError: there are keys that occur more than once; names the first.
    """
    if found is None:
        return
    first = ", ".join(f"{name}={value!r}" for name, value in zip(key, found.key, strict=True))
    more = f"; {found.keys:,} keys are repeated, in {found.rows:,} rows" if found.keys > 1 else ""
    raise DataError(
        f"{found.times:,} of the {what} have the key {first}{more}",
        todo="make the key unique: add the column that tells these rows apart, or leave out the repeats",
    )


def _write(label: Label, key: Sequence[str], inputs: Inputs, rows: Rows, *, to: Path) -> Path:
    given = inputs.call(label.function)
    given.check([*key, label.name, *label.times])
    kind = given.schema[label.name]
    if not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
        raise UserCodeError(
            f"the label {label.name!r} of {given.name} is of type {kind}, not a number or a boolean",
            todo="give 0/1 or a boolean for classification, a number for regression",
        )
    value = pl.col(label.name).cast(pl.Int8) if kind == pl.Boolean else given.stored(label.name)
    frame = given.frame.select(
        *(given.stored(column).alias(f"k{number}") for number, column in enumerate(key)),
        value.alias("label"),
        *(given.time(column, up=True).alias("known") for column in label.times),
    )
    with functions.blame(given.function):
        schema = dict(frame.collect_schema())
    for number, column in enumerate(key):
        same_kind(given, column, schema[f"k{number}"], rows.schema[rows.names[column]])
    return given.write(to, frame)


def none_matured(label: Label, labels: pl.LazyFrame, until: datetime | None) -> DataError:
    """Why there is no matured label, told from the labels of these rows.

    :param labels: ``label``, ``known`` and the rows' prediction time, ``predicted``.
    """
    valued = labels.filter(pl.col("label").is_not_null())
    found, with_value = (frame.select(pl.len()).collect().item() for frame in (labels, valued))
    matured = maturity.as_expression(label, predicted=pl.col("predicted"), known=pl.col("known"))
    first = valued.select(matured.min()).collect().item()
    who = functions.name_of(label.function)
    if not found:
        why = f"{who} gives no row with a key of theirs"
    elif not with_value:
        why = f"the label column {label.name!r} of {who} is null in all {found:,} of them"
    elif first is None:
        why = f"{label.known_at!r} of {who} is null wherever there is a label"
    elif label.matures_after is not None:
        # Without the fraction of a second that a clock has.
        limit = until.replace(microsecond=0) if until else None
        why = f"the first matures at {first} UTC ({label.matures_after} after its prediction), after {limit} UTC"
    else:
        why = f"the first became known at {first} UTC, after known_at={until} UTC"
    return DataError(
        f"not one of the rows asked for has a known label: {why}",
        todo="ask for partitions whose labels have arrived, or for rows to predict (labels=False)",
    )
