"""Tables: Delta Lake tables under the deployment's store, named, versioned, partitioned by one column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_ml_provider.contract.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table by name; steps read a pinned version of it and publish a new one.

    :param name: lower case letters, digits and underscores; its place is ``{store}/tables/{name}``.
    :param partition_by: the column that a publication replaces by; None for a table that is always
        replaced whole. Matters where the table is published; a reader takes it from the table itself.
    :param version: a pinned Delta version; None means the newest when the step starts.
    """

    name: str
    partition_by: str | None = "ds"
    version: int | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} cannot be a table name",
                todo="use a lower case letter, then lower case letters, digits and underscores",
            )
        if self.partition_by is not None and not self.partition_by.isidentifier():
            raise ConfigError(f"{self.partition_by!r} cannot be the partition column of table {self.name!r}")

    def at(self, version: int | None) -> Table:
        """The same table, pinned."""
        return Table(self.name, self.partition_by, version)

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def as_table(value: Any, *, wanted_by: str = "a step") -> Table:
    """A table from what a DAG author passes: a Table, ``"name"``, ``"name@3"`` or an upstream step's output.

    :raises ConfigError: it is none of these, or the upstream step published no table.
    """
    if isinstance(value, Table):
        return value
    if isinstance(value, str) and value:
        name, _, version = value.partition("@")
        if version and not version.isdigit():
            raise ConfigError(f"{value!r} is not a table with a version", todo='write it as "flights@41"')
        return Table(name, version=int(version) if version else None)
    if isinstance(value, Mapping):
        published = value.get("table")
        if isinstance(published, Mapping) and "name" in published:
            return Table(
                str(published["name"]), published.get("partition_by", "ds"), published.get("version")
            )
        if "name" in value and "verb" not in value:
            return Table(str(value["name"]), value.get("partition_by", "ds"), value.get("version"))
        raise ConfigError(
            f"{wanted_by} was given the output of a {value.get('verb', 'foreign')} step, "
            "which published no table",
            todo="pass a Table, or the output of a step that publishes or validates one",
        )
    raise ConfigError(
        f"{wanted_by} needs a table, not {type(value).__name__}: {value!r}",
        todo='pass Table("name"), "name", "name@version" or an upstream step\'s .output',
    )
