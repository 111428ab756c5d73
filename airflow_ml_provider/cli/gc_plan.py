"""What of a store nothing refers to any more, and what is kept and why.

A run's folder is kept while a model version, the ledger, a live partition, or a folder that is kept refers to it,
or anything in it is younger than the age asked for. A memo is kept as long as a folder of its fingerprint, or a
model version. Packed code is kept as long as a folder whose spec names it. Tables and ledgers are never touched
here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from airflow_ml_provider.cli.backfill_tables import table_now
from airflow_ml_provider.cli.gc_models import Version
from airflow_ml_provider.contract.store import Store

_RUN = re.compile(rb'(?:runs/|aside/[a-z0-9_]+/|"step_key": ?")([a-z0-9-]+)')
_AT_ONCE = 16
# What goes first, so that a collection that is cut short leaves no claim to something that is half gone.
_FIRST = ("claim-", "result.json", "result-")


@dataclass
class Group:
    """Documents that are kept or removed together.

    :param newest: when one of them was written last.
    :param why: what refers to it; empty if nothing does.
    """

    name: str
    paths: list[str] = field(default_factory=list)
    size: int = 0
    newest: datetime | None = None
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    :param remove: the groups that go, each in the order of its paths.
    :param kept: old groups that something refers to.
    :param young: how many are not old enough to be looked at.
    :param versions: table to the versions that models and kept runs have read.
    """

    remove: list[Group]
    kept: list[Group]
    young: int
    versions: dict[str, set[int]]


class Survey:
    """A look at the whole store, before anything is removed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.groups: dict[str, Group] = {}
        self.tables: set[str] = set()
        self.others: list[str] = []
        for path, written, size in store.ages():
            name = _group_of(path)
            if path.startswith("tables/"):
                self.tables.add(path.split("/")[1])
            elif name:
                group = self.groups.setdefault(name, Group(name))
                group.paths.append(path)
                group.size += size
                group.newest = max(group.newest or written, written)
            elif path.startswith(("registry/", "backfills/", "announcements/")):
                self.others.append(path)
        keys = self.keys()
        # A document is a request, and a deployment has thousands of them.
        with ThreadPoolExecutor(_AT_ONCE) as readers:
            specs = readers.map(self._json, (f"runs/{key}/spec.json" for key in keys))
            results = readers.map(self._json, (f"runs/{key}/result.json" for key in keys))
            self.specs, self.results = (
                dict(zip(keys, specs, strict=True)),
                dict(zip(keys, results, strict=True)),
            )

    def keys(self) -> list[str]:
        """The step keys that have a folder."""
        return [name.removeprefix("runs/") for name in self.groups if name.startswith("runs/")]

    def servers(self) -> list[str]:
        """The tracking servers that steps have used."""
        used = {str((spec.get("tracking") or {}).get("uri") or "") for spec in self.specs.values()}
        return sorted(used - {""})

    def plan(self, models: Collection[Version], older_than: datetime) -> Plan:
        """What is kept and what goes."""
        self._mark(models, older_than)
        old = [group for group in self.groups.values() if group.newest and group.newest < older_than]
        remove = [group for group in old if not group.why]
        for group in remove:
            group.paths.sort(key=lambda path: (not path.rsplit("/", 1)[-1].startswith(_FIRST), path))
        versions: dict[str, set[int]] = defaultdict(set)
        for model in models:
            for name, version in model.tables:
                versions[name].add(version)
        gone = {group.name for group in remove}
        for key in self.keys():
            if f"runs/{key}" not in gone:
                for document in (self.specs[key].get("arguments"), self.results[key]):
                    _add_versions(document, versions)
        order = ("memo/", "runs/", "aside/", "code/")
        remove.sort(key=lambda group: (order.index(group.name.split("/")[0] + "/"), group.name))
        kept = sorted((group for group in old if group.why), key=lambda group: group.name)
        return Plan(remove, kept, len(self.groups) - len(old), dict(versions))

    def _mark(self, models: Collection[Version], older_than: datetime) -> None:
        waiting: list[tuple[str, str]] = [
            (name, "young") for name, group in self.groups.items()
            if group.newest is not None and group.newest >= older_than
        ]  # fmt: skip
        marks: dict[str, str] = {}
        for model in models:
            waiting.append((f"runs/{model.step_key}", f"model {model.name} was made by it"))
            marks[model.fingerprint] = f"model {model.name} has this fingerprint"
        for path in self.others:
            waiting += [(name, f"{path} names it") for name in self._named(path)]
        for table in sorted(self.tables):
            waiting += self._of_table(table)
        while waiting:
            while waiting:
                name, why = waiting.pop()
                group = self.groups.get(name)
                if group is not None and not group.why:
                    group.why = why
                    waiting += self._referred_by(group, marks)
            waiting = [
                (name, why)
                for mark, why in marks.items()
                if (memo := self.groups.get(name := f"memo/steps/{mark}")) is not None and not memo.why
            ]

    def _referred_by(self, group: Group, marks: dict[str, str]) -> Iterator[tuple[str, str]]:
        """What a group that is kept refers to; adds the fingerprints that it is of."""
        said = f"{group.name} refers to it"
        if group.name.startswith("runs/"):
            key = group.name.removeprefix("runs/")
            for document in ("spec.json", "result.json"):
                yield from ((one, said) for one in self._named(f"runs/{key}/{document}"))
            yield str((self.specs[key].get("code") or {}).get("archive") or ""), said
            for found in (self.specs[key], self.results[key]):
                marks.setdefault(str(found.get("fingerprint", "")), f"{group.name} has this fingerprint")
        elif group.name.startswith("memo/steps/"):
            for path in group.paths:
                yield from ((one, said) for one in self._named(path, claims=True))

    def _of_table(self, table: str) -> Iterable[tuple[str, str]]:
        """The steps that wrote what the table holds; where its log does not tell any more, all that may have."""
        now = table_now(self.store, table)
        if now is None:
            return
        for partition, key in now.writers.items():
            if key:
                where = f", partition {partition}" if partition else ""
                yield f"runs/{key}", f"table {table}{where} was published by it"
        if now.known_since:
            for key, result in self.results.items():
                published = [result.get("table"), *(result.get("tables") or {}).values()]
                if any(one and one.get("name") == table for one in published):
                    yield f"runs/{key}", f"table {table} may have been published by it"

    def _named(self, path: str, *, claims: bool = False) -> list[str]:
        content = self.store.read(path) or b""
        found = {key.decode() for key in _RUN.findall(content)}
        if claims and "/claim-" in path:
            found.add(str(self._decoded(content).get("step_key", "")))
        return [name for key in found for name in (f"runs/{key}", *self._asides(key)) if name in self.groups]

    def _asides(self, key: str) -> list[str]:
        return [name for name in self.groups if name.startswith("aside/") and name.endswith(f"/{key}")]

    def _json(self, path: str) -> dict[str, Any]:
        return self._decoded(self.store.read(path) or b"{}")

    @staticmethod
    def _decoded(content: bytes) -> dict[str, Any]:
        try:
            found = msgspec.json.decode(content)
        except msgspec.DecodeError:
            return {}
        return found if isinstance(found, dict) else {}


def _group_of(path: str) -> str:
    parts = path.split("/")
    if parts[0] == "runs" and len(parts) > 2:
        return "/".join(parts[:2])
    if parts[0] in ("memo", "aside") and len(parts) > 3:
        # A task's notes explain its next miss: each is on its own.
        return path if parts[1] == "tasks" else "/".join(parts[:3])
    return path if parts[0] == "code" and len(parts) == 2 else ""


def _add_versions(document: Any, versions: dict[str, set[int]]) -> None:
    if isinstance(document, dict):
        name, version = document.get("name"), document.get("version")
        if (
            isinstance(name, str)
            and isinstance(version, int)
            and ("partition_by" in document or "uri" in document)
        ):
            versions[name].add(version)
        for inner in document.values():
            _add_versions(inner, versions)
    elif isinstance(document, list):
        for inner in document:
            _add_versions(inner, versions)
