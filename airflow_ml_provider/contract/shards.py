"""A step in shards: what each shard is to do and what came of it, as documents in the store.

::

    {store}/runs/{step key}/shards/{base}/
      plan.json                 what each shard does, decided once
      pending-{name}.json       which shards the indexes of an Indexed Job stand for
      {number:05d}.done.json    what a shard gave: references to what it wrote, which nobody sees yet
      {number:05d}.failed.json  why it did not, until it is tried again

Shards write and do not publish; the step does, once, when all of them are done. ``base`` stands for what the
step computes and the number of shards: with another input or another cut, the work begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_ml_provider.contract.documents import Failure
from airflow_ml_provider.contract.errors import ERRORS_BY_KIND, InfrastructureError, MLError
from airflow_ml_provider.contract.identity import digest

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import StepSpec
    from airflow_ml_provider.contract.store import Store

_MOST_NAMED = 10


class ShardPlan(msgspec.Struct, frozen=True):
    """What each shard does, in words of its verb; a plan without shards is one of a step without input.

    :param skipped: why there is nothing to do.
    """

    shards: tuple[dict[str, Any], ...]
    skipped: str = ""

    def is_of(self, content: str) -> bool:
        """Whether all shards are of an input of this digest (``of``), where their verb marks them so."""
        return bool(self.shards) and all(shard.get("of", "") == content for shard in self.shards)


class ShardResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a shard.

    :param given: its verb's own document; None when it failed.
    """

    number: int
    given: dict[str, Any] | None = None
    failure: Failure | None = None
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


class Shards:
    """The documents of one step's shards."""

    def __init__(self, store: Store, spec: StepSpec, number: int) -> None:
        self.store = store
        self.folder = f"runs/{spec.step_key}/shards/{digest(spec.fingerprint, str(number))[:16]}"

    def plan(self) -> ShardPlan | None:
        """The plan; None if there is none yet."""
        content = self.store.read(f"{self.folder}/plan.json")
        return None if content is None else msgspec.json.decode(content, type=ShardPlan)

    def keep_plan(self, plan: ShardPlan) -> ShardPlan:
        """Keep a plan; gives the one that is kept, which may be that of somebody who was first."""
        self.store.create(f"{self.folder}/plan.json", msgspec.json.encode(plan))
        return self.plan() or plan

    def pending(self, plan: ShardPlan) -> list[int]:
        """The numbers of shards that are not done, by a listing."""
        done = {
            int(path.rsplit("/", 1)[-1].partition(".")[0])
            for path in self.store.paths(self.folder)
            if path.endswith(".done.json")
        }
        return [number for number in range(len(plan.shards)) if number not in done]

    def keep_pending(self, numbers: Sequence[int]) -> str:
        """Keep what the indexes of a Job stand for; gives the name."""
        content = msgspec.json.encode(list(numbers))
        name = digest(content)[:16]
        self.store.create(f"{self.folder}/pending-{name}.json", content)
        return name

    def number_of(self, name: str, index: int) -> int:
        """The shard that an index of a Job stands for; without a name, index and number are the same.

        :raises InfrastructureError: what the indexes stand for is gone.
        """
        if not name:
            return index
        content = self.store.read(f"{self.folder}/pending-{name}.json")
        if content is None:
            raise InfrastructureError(f"it is not known which shards are pending: no {name} in {self.folder}")
        return msgspec.json.decode(content, type=list[int])[index]

    def result(self, number: int) -> ShardResult | None:
        """What came of a shard, if it has ended."""
        for state in ("done", "failed"):
            content = self.store.read(f"{self.folder}/{number:05d}.{state}.json")
            if content is not None:
                return msgspec.json.decode(content, type=ShardResult)
        return None

    def keep(self, result: ShardResult) -> None:
        """Keep what came of a shard."""
        state = "done" if result.failure is None else "failed"
        self.store.write(f"{self.folder}/{result.number:05d}.{state}.json", msgspec.json.encode(result))

    def clear(self) -> None:
        """Have the step planned anew: of another input than it has now, plan and shards are worth nothing."""
        for path in list(self.store.paths(self.folder)):
            self.store.delete(path)

    def forget(self, number: int) -> None:
        """Have a shard done again."""
        for state in ("done", "failed"):
            self.store.delete(f"{self.folder}/{number:05d}.{state}.json")

    def error(self, numbers: Sequence[int], of: int) -> MLError:
        """Why shards are not done: the first failure that no retry helps, else the first of all."""
        found = [(number, self.result(number)) for number in numbers[:_MOST_NAMED]]
        failures = [
            (number, each.failure) for number, each in found if each is not None and each.failure is not None
        ]
        failures.sort(key=lambda one: ERRORS_BY_KIND[one[1].kind].retryable)
        named = ", ".join(map(str, numbers[:_MOST_NAMED])) + (", ..." if len(numbers) > _MOST_NAMED else "")
        done = (
            f"{of - len(numbers):,} of {of:,} shards are done and are not done again; the table is as it was"
        )
        if not failures:
            return InfrastructureError(
                f"shards {named} of {of:,} ended without a word", kept=done,
                retry="a retry runs only what is missing",
            )  # fmt: skip
        number, failure = failures[0]
        what, _, rest = failure.message.partition("\n  kept: ")
        error = ERRORS_BY_KIND[failure.kind](
            f"shard {number} of {of:,} failed (not done: {named}): {what}", kept=done,
            retry="a retry runs only what is missing", todo=rest.partition("\n  next: ")[2],
        )  # fmt: skip
        if failure.traceback:
            error.add_note(failure.traceback)
        return error
