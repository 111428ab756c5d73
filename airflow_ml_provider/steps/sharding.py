"""A step in shards: each written by a process of its own, all of them published in one commit.

A verb that can be cut says how (``plan_shards``), does a shard (``run_shard``: writes, publishes nothing), and
puts together what :func:`given_by_shards` gives it. The shards are the indexes of a Job where the compute has
Jobs, tasks of Spark where the step is a driver of Spark; elsewhere the step runs them itself, over processes
beside it.
"""

from __future__ import annotations

import importlib
import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, cast

from airflow_ml_provider.contract.arguments import Arguments
from airflow_ml_provider.contract.documents import Failure, StepSpec
from airflow_ml_provider.contract.errors import ERRORS_BY_KIND, ConfigError, InfrastructureError, MLError
from airflow_ml_provider.contract.scratch import new_folder_of, removed
from airflow_ml_provider.contract.shards import ShardPlan, ShardResult, Shards
from airflow_ml_provider.steps import runner, shard_pool, shipped_code, spark_session
from airflow_ml_provider.steps.context import Skipped, StepContext, log

# Kubernetes gives it to each pod of an Indexed Job.
INDEX = "JOB_COMPLETION_INDEX"
# What the indexes of the Job stand for.
PENDING = "AIRFLOW_ML_FLEET_PLAN"


class Shardable(Protocol):
    """What the module of a verb has that can be cut into shards."""

    def plan_shards(self, step: StepContext, arguments: Any, shards: int) -> Sequence[dict[str, Any]]:
        """What each shard does, at most so many; raises ``Skipped`` when there is no input."""

    def run_shard(self, step: StepContext, arguments: Any, shard: dict[str, Any]) -> dict[str, Any]:
        """Do a shard: write what it gives where nobody sees it yet, and refer to it."""


def is_cut(arguments: Arguments) -> bool:
    """Whether a step is to run in shards."""
    return getattr(arguments, "shards", 1) > 1


def given_by_shards(step: StepContext, arguments: Any, of: str = "") -> list[dict[str, Any]]:
    """What all shards gave, in order; those that are not done are run first.

    :param of: what the verb's plan marks each shard with, where a plan may be older than its input.
    :raises Skipped: there is no input.
    :raises MLError: a shard failed; the others are kept for the next try.
    """
    shards = Shards(step.store, step.spec, arguments.shards)
    if (before := shards.plan()) is not None and of and not before.is_of(of):
        step.log.info("what there is to read has changed since it was planned: all shards are done anew")
        shards.clear()
    plan = _plan(step, arguments, shards)
    pending = shards.pending(plan)
    if pending:
        step.log.info("%s shards, %s to run", f"{len(plan.shards):,}", f"{len(pending):,}")
        for number in pending:
            shards.forget(number)
        if spark_session.wanted_here():
            from airflow_ml_provider.steps import spark_shards

            spark_shards.run(step, arguments.shards, pending)
        else:
            shard_pool.run(step, pending, arguments.parallelism)
        if failed := shards.pending(plan):
            raise shards.error(failed, len(plan.shards))
    results = [shards.result(number) for number in range(len(plan.shards))]
    for result in results:
        for warning in result.warnings if result else ():
            step.warn(warning)
    return [result.given for result in results if result is not None and result.given is not None]


def wanted(options: Namespace) -> Callable[[StepSpec], int] | None:
    """Which part of a step in shards this process is to run; None for the whole step."""
    if options.plan:
        return write_plan
    index = os.environ.get(INDEX) if options.index is None else options.index
    if index is None or index == "":
        return None
    name = os.environ.get(PENDING, "") if options.index is None else ""
    return partial(run_one, index=int(index), name=name)


def write_plan(spec: StepSpec) -> int:
    """Write the plan, which another process carries out; gives the exit code."""
    with _step(spec) as step:
        arguments = cast("Any", spec.typed_arguments())
        shards = Shards(step.store, spec, arguments.shards)
        if (before := shards.plan()) is not None:
            # Of another try, which may have seen another input.
            now = _made(step, arguments)
            if not (now.shards and before.is_of(now.shards[0].get("of", ""))):
                shards.clear()
                shards.keep_plan(now)
        plan = _plan(step, arguments, shards)
        log.info("planned %s shards", len(plan.shards))
    return 0


def run_one(spec: StepSpec, index: int, name: str = "") -> int:
    """Run one shard; gives the exit code: 0, or that of the kind of its failure."""
    with _step(spec) as step:
        arguments = cast("Any", spec.typed_arguments())
        shards = Shards(step.store, spec, arguments.shards)
        number = shards.number_of(name, index)
        found = shards.result(number)
        if found is not None and found.failure is None:
            log.info("shard %s is done already", number)
            return 0
        plan = _plan(step, arguments, shards)
        began = time.monotonic()
        try:
            runner.set_seeds(spec.seed)
            given = _verb(spec).run_shard(step, arguments, plan.shards[number])
        except MLError as error:
            trace = getattr(error, "user_traceback", "")
            failure = Failure(error.kind, type(error).__name__, str(error), trace)
        except MemoryError as error:
            failure = Failure("infrastructure", "MemoryError", f"out of memory: {error}")
        else:
            spent = round(time.monotonic() - began, 3)
            shards.keep(ShardResult(number, given, None, tuple(step.warnings), spent))
            log.info("shard %s of %s is done in %.1f s", number, len(plan.shards), spent)
            return 0
        shards.keep(ShardResult(number, None, failure, tuple(step.warnings)))
        if failure.traceback:
            print(failure.traceback, flush=True)
        print(f"{failure.kind} error: {failure.message}", flush=True)
        return ERRORS_BY_KIND[failure.kind].exit_code


def _plan(step: StepContext, arguments: Any, shards: Shards) -> ShardPlan:
    plan = shards.plan()
    if plan is None:
        plan = shards.keep_plan(_made(step, arguments))
    if not plan.shards:
        raise Skipped(plan.skipped)
    return plan


def _made(step: StepContext, arguments: Any) -> ShardPlan:
    try:
        return ShardPlan(tuple(_verb(step.spec).plan_shards(step, arguments, arguments.shards)))
    except Skipped as reason:
        return ShardPlan((), str(reason))


def _verb(spec: StepSpec) -> Shardable:
    module = importlib.import_module(f"airflow_ml_provider.steps.{spec.verb}")
    if not hasattr(module, "run_shard"):
        raise ConfigError(f"a {spec.verb} step cannot be cut into shards")
    return cast("Shardable", module)


@contextmanager
def _step(spec: StepSpec) -> Iterator[StepContext]:
    with removed(new_folder_of(spec.step_key)) as scratch:
        try:
            yield StepContext(shipped_code.laid_down(spec, scratch), scratch)
        except Skipped as reason:
            # The step will find out for itself, and say so in its result.
            log.info("nothing to do: %s", reason)


def check_there(
    step: StepContext, table: str, paths: Sequence[str], shards: Shards, numbers: Sequence[int]
) -> None:
    """Whether files that shards wrote are still there; after days, somebody may have swept them away.

    :param numbers: the shard of each path.
    :raises InfrastructureError: they are not; their shards are forgotten, so that a retry does them again.
    """
    gone = sorted(
        {
            number
            for path, number in zip(paths, numbers, strict=True)
            if not step.store.exists(f"tables/{table}/{path}")
        }
    )
    for number in gone:
        shards.forget(number)
    if gone:
        raise InfrastructureError(
            f"what shards {', '.join(map(str, gone[:10]))} had written for table {table!r} is gone; a vacuum of the "
            "table removes what no commit names yet",
            kept="what the other shards wrote; the table is as it was",
            retry="a retry does these shards again",
        )
