"""The declared schema of raw data: which columns, of which type, within which bounds."""

from __future__ import annotations

from typing import Literal

import msgspec

from airflow_ml_provider.contract.errors import ConfigError

ColumnType = Literal["string", "int64", "float64", "boolean", "date", "timestamp"]


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column of a raw file.

    :param name: its name in the file and in the table.
    :param type: ``date`` is ISO 8601; ``timestamp`` is ISO 8601 and stored in UTC.
    :param nullable: whether a missing value is allowed.
    :param minimum: a row with a smaller value is bad.
    :param maximum: a row with a larger value is bad.
    """

    name: str
    type: ColumnType = "string"
    nullable: bool = True
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        if (self.minimum is not None or self.maximum is not None) and self.type not in ("int64", "float64"):
            raise ConfigError(f"column {self.name!r} has bounds but its type {self.type!r} has no order here")


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The declared schema of a source; columns of the file that are not declared are left out.

    :param columns: the columns to read.
    :param key: columns that together identify a row; a second row with the same key is a bad row.
    :param null_values: texts that mean "missing" (CSV only).
    """

    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    null_values: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if not names:
            raise ConfigError("the schema declares no column")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"the schema declares a column twice: {', '.join(twice)}")
        if missing := [name for name in self.key if name not in names]:
            raise ConfigError(f"the schema's key names columns it does not declare: {', '.join(missing)}")
