"""Fleets: one function over many items, in indexes of a few items each, with a ledger of what came of them.

An item is a flat JSON mapping and is identified by its content. An index is a chunk of items, identified by
theirs. So a fleet that is run again knows what it has, whatever was added, removed or put in another order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from airflow_ml_provider.contract.arguments import FleetArguments
from airflow_ml_provider.contract.documents import StepSpec
from airflow_ml_provider.contract.errors import ERRORS_BY_KIND, ConfigError, ErrorKind
from airflow_ml_provider.contract.identity import digest, document_digest, fingerprint
from airflow_ml_provider.contract.partitions import parse_partitions

Item = dict[str, Any]
# What an item's result does not depend on.
_NOT_THE_BASE = frozenset(
    {"over", "items", "items_digest", "count", "items_per_index", "parallelism", "tries", "max_failed",
     "publish", "model", "best", "groups", "fallback", "minimum_rows", "known_values"}
)  # fmt: skip
# With so few failures, all other items are still worth running: the next try has only the failed ones.
_FAILURES_BEFORE_STOPPING = 20


class FleetPlan(msgspec.Struct, frozen=True):
    """What a compute needs to know to run the pending indexes of a fleet.

    :param indexes: how many there are to run; each is started with ``JOB_COMPLETION_INDEX`` below it.
    :param parallelism: how many at once.
    :param tries: how often an index is tried.
    :param max_failed_indexes: with more failed ones than this, no further ones are started.
    :param name: of the plan's document, for ``AIRFLOW_ML_FLEET_PLAN``: it tells which indexes are meant even
        after a newer plan was made.
    """

    indexes: int
    parallelism: int = 10
    tries: int = 2
    max_failed_indexes: int = 0
    name: str = ""


class ItemError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an item failed; ``traceback`` is the end of the user's own."""

    kind: ErrorKind
    error: str
    message: str
    traceback: str = ""


class ItemRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of one item.

    :param state: "running" in the ledger of a process that is gone means that it went with this item.
    :param seconds: of its last try.
    """

    digest: str
    state: Literal["missing", "running", "done", "failed"] = "missing"
    tries: int = 0
    seconds: float = 0.0
    result: dict[str, Any] = {}
    error: ItemError | None = None

    def worth_a_try(self, tries: int) -> bool:
        """Whether the item is run (again): not if it is done, or its code failed as often as allowed."""
        if self.state == "done":
            return False
        if self.state != "failed" or self.error is None:
            return True
        return ERRORS_BY_KIND[self.error.kind].retryable or self.tries < tries


class IndexDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The ledger's document of an index; its state is in its name, too.

    :param attempt: how often it was started.
    :param started: when it was started last (ISO 8601, UTC).
    """

    index: str
    position: int
    state: Literal["done", "failed", "running"]
    attempt: int = 0
    started: str = ""
    items: tuple[ItemRecord, ...] = ()

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)


class PlanDocument(msgspec.Struct, frozen=True):
    """Which indexes there are and which of them are still to be run.

    :param fingerprint: of the step that it was made for.
    :param items: how many.
    :param items_digest: names the file of the items.
    :param indexes: their ids, by position.
    :param pending: positions to run.
    """

    fingerprint: str
    items: int
    items_digest: str
    items_per_index: int
    indexes: tuple[str, ...]
    pending: tuple[int, ...]

    @property
    def name(self) -> str:
        """The same for the same plan."""
        return document_digest(msgspec.to_builtins(self))[:16]


def check_items(given: Any, *, wanted_by: str = "a fleet") -> list[Item]:
    """The items of a fleet, each a flat mapping of JSON values, no two alike.

    :raises ConfigError: they are not.
    """
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise ConfigError(
            f"{wanted_by} was given {type(given).__name__} to run over: {str(given)[:200]!r}",
            todo="give a list of mappings, a Table, or the output of a task that gives one of these",
        )
    items: list[Item] = []
    seen: dict[str, int] = {}
    for position, item in enumerate(given):
        if not isinstance(item, Mapping) or not item:
            raise ConfigError(
                f"item {position} of {wanted_by} is {item!r}, not a mapping of names to values",
                todo='write it as {"route": "JFK-LAX", "num_leaves": 31}',
            )
        for name, value in item.items():
            if not isinstance(name, str) or not name:
                raise ConfigError(f"item {position} of {wanted_by} has the key {name!r}, which is no name")
            if not _is_plain(value):
                raise ConfigError(
                    f"item {position} of {wanted_by} has {name}={value!r} ({type(value).__name__})",
                    todo="an item holds texts, finite numbers, booleans and None",
                )
        first = seen.setdefault(item_digest(item), position)
        if first != position:
            raise ConfigError(
                f"items {first} and {position} of {wanted_by} are the same: {show(item)}",
                todo="leave one of them out (items are counted from 0)",
            )
        items.append(dict(item))
    return items


def check_publication(arguments: FleetArguments, items: Sequence[Item]) -> None:
    """Whether the results table gets its partition column: from the items, or as the one partition read.

    :raises ConfigError: from neither.
    """
    target = arguments.publish
    if target is None or target.partition_by is None:
        return
    column = target.partition_by
    if all(column in item for item in items):
        return
    if arguments.partitions and len(parse_partitions(arguments.partitions).values) == 1:
        return
    raise ConfigError(
        f"the results have no column {column!r} to partition the table {target.name!r} by: the items have no "
        f"such key, and the fleet reads no single partition",
        kept="nothing was run",
        todo=f'publish=Table("{target.name}", partition_by=None) replaces the table whole',
    )


def show(item: Mapping[str, Any], most: int = 200) -> str:
    """An item for people, on one line."""
    text = json.dumps(item, ensure_ascii=False)
    return text if len(text) <= most else text[: most - 3] + "..."


def item_digest(item: Mapping[str, Any]) -> str:
    """Who an item is: a digest of its content, whatever the order of its keys."""
    return document_digest(dict(item))[:32]


def index_id(digests: Iterable[str]) -> str:
    """Who an index is: a digest of its items'."""
    return digest(*digests)[:16]


def item_seed(seed: int, of_item: str) -> int:
    """The seed of an item: its own, and the same in every run.

    :param of_item: the item's digest.
    """
    return int(digest(str(seed), of_item)[:8], 16) % 2**31


def indexes_of(digests: Sequence[str], items_per_index: int) -> list[str]:
    """The ids of the indexes that items are put into, in order."""
    starts = range(0, len(digests), items_per_index)
    return [index_id(digests[start : start + items_per_index]) for start in starts]


def write_items(items: Iterable[Mapping[str, Any]]) -> bytes:
    """Items as JSON lines; the order of their keys is kept."""
    return b"".join(json.dumps(item, ensure_ascii=False).encode() + b"\n" for item in items)


def read_items(content: bytes) -> list[Item]:
    """Items from JSON lines."""
    return [msgspec.json.decode(line) for line in content.splitlines()]


def base_fingerprint(spec: StepSpec) -> str:
    """The fingerprint of all that an item's result depends on, but for the item."""
    parts = spec.parts or {
        "verb": spec.verb,
        "seed": spec.seed,
        "code": spec.code.digest,
        **spec.arguments,
    }
    return fingerprint({name: value for name, value in parts.items() if name not in _NOT_THE_BASE})


def allowed_failures(max_failed: float, items: int) -> int:
    """How many items may fail: a number, or a share of them."""
    return max_failed if isinstance(max_failed, int) else math.floor(max_failed * items)


def failures_before_stopping(max_failed: float, items: int) -> int:
    """With more failed items than this, no further ones are started."""
    return max(allowed_failures(max_failed, items), _FAILURES_BEFORE_STOPPING)


def _is_plain(value: Any) -> bool:
    if value is None or isinstance(value, (str, bool)):
        return True
    # What JSON keeps exactly, in every language.
    return (isinstance(value, int) and abs(value) < 2**63) or (
        isinstance(value, float) and math.isfinite(value)
    )
