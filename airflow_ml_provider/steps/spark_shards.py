"""The shards of a step over the executors of Spark: the same code as a pod of an Indexed Job runs.

A task writes what its shard gives and a document that refers to it, as any shard does, so that tasks which are
tried again or run twice change nothing, and the step publishes once, when all are done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from airflow_ml_provider.contract.documents import read_spec
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.steps import spark_session

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import PredictArguments
    from airflow_ml_provider.steps.context import StepContext

# Of a step that does not say: enough for some tens of executors, and each fetches its model once.
_SHARDS = 64


def cut(arguments: PredictArguments) -> PredictArguments:
    """The arguments of a prediction that runs on Spark: in shards, also when none were asked for.

    :raises ConfigError: they need the driver to see all rows.
    """
    for name in ("suite", "challengers"):
        if getattr(arguments, name):
            raise ConfigError(
                f"a prediction with {name}= cannot run on Spark",
                todo="predict on another compute, or without it: ValidateOperator looks at what was published, and "
                "a second PredictOperator scores with a challenger",
            )
    return msgspec.structs.replace(arguments, shards=_SHARDS) if arguments.shards == 1 else arguments


def run(step: StepContext, shards: int, numbers: Sequence[int]) -> None:
    """Run shards, each as a task of Spark; what came of them is in the store.

    :param shards: into how many the step is cut.
    """
    # Code that came packed is laid down by every task for itself: the spec still names the archive.
    arguments = {**step.spec.arguments, "shards": shards}
    spec = msgspec.structs.replace(step.spec, arguments=arguments)
    with spark_session.session(step, f"{spec.verb} is to run on Spark") as spark:
        tasks = spark.sparkContext.parallelize(numbers, len(numbers)).mapPartitions(_Shards(spec.encode()))
        for number, code in tasks.collect():
            if code:
                step.log.error("shard %s ended with %s", number, code)


@dataclass(frozen=True)
class _Shards:
    """Runs in an executor."""

    spec: bytes

    def __call__(self, numbers: Iterator[int]) -> Iterator[tuple[int, int]]:
        from airflow_ml_provider.steps import sharding

        spec = read_spec(self.spec, source="the driver")
        for number in numbers:
            yield number, sharding.run_one(spec, number)
