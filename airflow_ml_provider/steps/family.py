"""A family: many models registered as one, each row scored by the model of its group.

An MLflow model folder with two files of its own::

    family.json     the groups, and what is common to their models: features, settings, fallback
    members.zip     the models' files, each in its library's own format, under the number of its group

Both depend on the models alone, so equal models are an equal family. A member is loaded when the first row of
its group comes, and the memory that loaded ones take is bounded.
"""

from __future__ import annotations

import threading
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.scratch import new_folder, removed
from airflow_ml_provider.steps import groups, members
from airflow_ml_provider.steps.flavors import FAMILY
from airflow_ml_provider.steps.flavors.base import Flavor
from airflow_ml_provider.steps.members import Described
from airflow_ml_provider.steps.models import Inputs

if TYPE_CHECKING:
    from airflow_ml_provider.steps.flavors.base import Scores
    from airflow_ml_provider.steps.models import ScoringModel

INDEX, ARCHIVE = "family.json", "members.zip"
_TOLD = 10
# Bytes of the files of models that are loaded at once; a loaded model takes about as much again.
_MOST_LOADED = 512 << 20
_MEMBER, _KEY = " member", " key"
# No text of a group has it.
_BETWEEN = "\x1f"
_UNKNOWN = -1

Fallback = Literal["refuse", "null", "all"]


class Index(msgspec.Struct, frozen=True):
    """What a family is, but for its members' files.

    :param columns: that tell the groups apart.
    :param groups: the values of each member's group; None for the one that was trained on all rows.
    :param kinds: each different description of a member, once.
    :param kind: of each member, its place in ``kinds``.
    :param sizes: bytes of each member's files.
    """

    columns: tuple[str, ...]
    fallback: Fallback
    groups: tuple[tuple[str | int | bool, ...] | None, ...]
    kinds: tuple[Described, ...]
    kind: tuple[int, ...]
    sizes: tuple[int, ...]

    def inputs(self, texts: frozenset[str], order: tuple[str, ...]) -> Inputs:
        """What the family takes of a row: all that a member does, and the columns of the groups.

        :param texts: which of the columns of the groups are text.
        :param order: of the features.
        """
        taken = {name for kind in self.kinds for name in kind.features}
        features = dict.fromkeys([*(name for name in order if name in taken), *self.columns])
        of_members = {name for kind in self.kinds for name in kind.texts}
        return Inputs(tuple(features), frozenset(of_members | texts))

    def encode(self) -> bytes:
        """As JSON; equal indexes are equal bytes."""
        return msgspec.json.encode(self, order="deterministic")


class Members:
    """The models of a family's folder, as they are needed; threads may share them."""

    def __init__(self, folder: Path, most_loaded: int = _MOST_LOADED) -> None:
        self.folder = folder
        self.index = msgspec.json.decode((folder / INDEX).read_bytes(), type=Index)
        self._most = most_loaded
        self._loaded: OrderedDict[int, ScoringModel] = OrderedDict()
        self._lock = threading.Lock()

    def located(self, rows: pl.DataFrame) -> pl.Series:
        """Which member scores each row; -1 for rows of an unknown group, that of all rows where there is one.

        :param rows: in the form of :meth:`.models.Inputs.expressions`.
        """
        keys = rows.select(self._key(rows.schema))
        found = keys.join(self._groups, on=_KEY, how="left", maintain_order="left")[_MEMBER]
        return found.fill_null(_UNKNOWN if self.of_all is None else self.of_all)

    @cached_property
    def of_all(self) -> int | None:
        """The member that was trained on all rows."""
        return self.index.groups.index(None) if None in self.index.groups else None

    def known(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The rows that have a member."""
        return rows if self.of_all is not None else rows.filter(self._is_known(rows))

    def unknown(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The rows that have none."""
        return rows.head(0) if self.of_all is not None else rows.filter(~self._is_known(rows))

    def scores(self, rows: pl.DataFrame) -> Scores:
        """Each row's score by its member, in the rows' order; NaN where a row has none.

        :raises DataError: rows of unknown groups are refused.
        """
        located = self.located(rows).to_numpy()
        if self.index.fallback == "refuse" and (located == _UNKNOWN).any():
            lost = rows.filter(pl.Series(located == _UNKNOWN))
            raise DataError(self.refusal(lost.lazy()), kept="nothing was scored", todo=_TODO)
        order = np.argsort(located, kind="stable")
        together = rows[order]
        found = np.full(rows.height, np.nan)
        starts = np.flatnonzero(np.diff(located[order], prepend=_UNKNOWN - 1))
        for start, end in pairwise([*starts, rows.height]):
            number = int(located[order[start]])
            if number == _UNKNOWN:
                continue
            member = self.member(number)
            own = together.slice(start, end - start).select(member.inputs.features)
            found[order[start:end]] = member.scores(own)
        return found

    def member(self, number: int) -> ScoringModel:
        """A member, loaded now or before."""
        with self._lock:
            found = self._loaded.pop(number, None) or self._load(number)
            self._loaded[number] = found
            while len(self._loaded) > 1 and sum(each.size for each in self._loaded.values()) > self._most:
                self._loaded.popitem(last=False)
            return found

    def refusal(self, rows: pl.LazyFrame, name: str = "the family") -> str:
        """Which unknown groups some rows are of, and how many rows."""
        columns = list(self.index.columns)
        counted = rows.group_by(columns).len().collect(engine="streaming")
        counted = counted.sort(["len", *columns], descending=[True] + [False] * len(columns))
        told = ", ".join(
            f"{groups.named(_shown(value) for value in values)} ({count:,} row{'s' * (count != 1)})"
            for *values, count in counted.head(_TOLD).iter_rows()
        )
        more = f" and {counted.height - _TOLD:,} more groups" if counted.height > _TOLD else ""
        return (
            f"{name} has no model for {counted['len'].sum():,} rows of {counted.height:,} groups by "
            f"{', '.join(columns)}: {told}{more}"
        )

    @cached_property
    def _groups(self) -> pl.DataFrame:
        """The key of each group, as rows have it, and its member."""
        own = [(number, group) for number, group in enumerate(self.index.groups) if group is not None]
        values = pl.DataFrame(
            {name: [group[at] for _, group in own] for at, name in enumerate(self.index.columns)}
        )
        numbers = pl.Series(_MEMBER, [number for number, _ in own], pl.Int32)
        return values.select(self._key(values.schema), numbers)

    def _key(self, schema: Mapping[str, pl.DataType]) -> pl.Expr:
        """The columns of the groups as one text; null where one has no value. Numbers may come as floats."""
        texts = [
            pl.col(name) if schema[name] == pl.String else pl.col(name).cast(pl.Float64).cast(pl.Int64)
            for name in self.index.columns
        ]
        return pl.concat_str(texts, separator=_BETWEEN).alias(_KEY)

    def _is_known(self, rows: pl.LazyFrame) -> pl.Expr:
        key = self._key(rows.collect_schema())
        return key.is_in(self._groups[_KEY].to_list()).fill_null(False)

    def _load(self, number: int) -> ScoringModel:
        group = self.index.groups[number]
        name = "of all rows" if group is None else f"of {groups.named(group)}"
        with removed(new_folder("member-")) as folder:
            with zipfile.ZipFile(self.folder / ARCHIVE) as archive:
                for path in self._files.get(number, []):
                    target = folder / path.partition("/")[2]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(path))
            return members.loaded(folder, self.index.kinds[self.index.kind[number]], name)

    @cached_property
    def _files(self) -> Mapping[int, list[str]]:
        with zipfile.ZipFile(self.folder / ARCHIVE) as archive:
            found: dict[int, list[str]] = {}
            for path in archive.namelist():
                found.setdefault(int(path.partition("/")[0]), []).append(path)
            return found


class Family(Flavor):
    """Families, as the steps score with them."""

    name = FAMILY
    file = ARCHIVE

    def load(self, folder: Path, settings: Mapping[str, Any]) -> Members:
        return Members(folder)

    def probabilities(self, model: Members, rows: pl.DataFrame) -> Scores:
        return model.scores(rows)

    def nulls(self, model: Members) -> bool:
        return model.index.fallback == "null"

    def inexplicable(self, model: Any, features: int, *, background: bool = False) -> str:
        return "it is a family, whose models measure from rows of their own"


_TODO = 'train with rows of these groups, or with fallback="all" (a model of all rows) or fallback="null" (no score)'


def check(model: ScoringModel, rows: pl.LazyFrame) -> None:
    """Whether each row has a member to score it, where a family refuses others.

    Reads the columns of the groups once more, before anything is scored.

    :raises DataError: some have none; says which groups, and how many rows.
    """
    family = model.native
    if not isinstance(family, Members) or family.index.fallback != "refuse":
        return
    lost = family.unknown(rows.select(family.index.columns))
    if lost.select(pl.len()).collect(engine="streaming").item():
        raise DataError(family.refusal(lost, f"model {model.name}"), kept="nothing was scored", todo=_TODO)


def _shown(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
