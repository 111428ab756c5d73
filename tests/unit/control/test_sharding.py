"""A step in shards on a compute that has Jobs: planned, run as indexes, published; each of these may defer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import large
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred
from airflow.triggers.base import BaseTrigger
from control_plane import FakeCompute, Wire, context_of, run_task

from airflow_ml_provider.compute import Exit, Launch
from airflow_ml_provider.contract.arguments import SHARDED
from airflow_ml_provider.contract.documents import Failure
from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError, UserCodeError
from airflow_ml_provider.contract.fleets import FleetPlan
from airflow_ml_provider.contract.schema import Column, Schema
from airflow_ml_provider.contract.shards import ShardPlan, ShardResult, Shards
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.operators import IngestOperator, PredictOperator

SHARDS = 3


class Elsewhere(BaseTrigger):
    def serialize(self) -> tuple[str, dict[str, Any]]:
        return ("tests.Elsewhere", {})

    async def run(self) -> Any:
        yield None


@dataclass(frozen=True)
class Jobs(FakeCompute):
    """Has Jobs: writes what the parts of a step write, as each shard is told to end.

    ``fails`` has the failures of shards; one of them is None for a pod that leaves no word.
    """

    fails: dict[int, Failure | None] = field(default_factory=dict, hash=False)
    plans: list[FleetPlan] = field(default_factory=list, hash=False)
    ran: list[int] = field(default_factory=list, hash=False)
    defers: bool = False

    def run(self, launch: Launch, context: Any) -> Exit:
        self.launches.append(launch)
        if self.defers:
            raise TaskDeferred(
                trigger=Elsewhere(), method_name="execute_complete", kwargs={"event": {"is": "pod"}}
            )
        return self._pod(launch)

    def run_fleet(self, launch: Launch, plan: FleetPlan, context: Any) -> None:
        self.plans.append(plan)
        if self.defers:
            raise TaskDeferred(
                trigger=Elsewhere(), method_name="execute_complete", kwargs={"event": {"is": "job"}}
            )
        self._job(launch, plan)

    def resume(self, launch: Launch, context: Any, event: Any) -> Exit:
        if event["is"] == "pod":
            return self._pod(launch)
        self._job(launch, self.plans[-1])
        return Exit(0)

    def shards(self, launch: Launch) -> Shards:
        spec = self.spec(launch)
        return Shards(Store(spec.store), spec, spec.arguments["shards"])

    def _pod(self, launch: Launch) -> Exit:
        if "--plan" in launch.arguments:
            self.shards(launch).keep_plan(ShardPlan(tuple({"files": [str(n)]} for n in range(SHARDS))))
            return Exit(0)
        return self._leave(launch)

    def _job(self, launch: Launch, plan: FleetPlan) -> None:
        shards = self.shards(launch)
        for index in range(plan.indexes):
            number = shards.number_of(plan.name, index)
            self.ran.append(number)
            if number not in self.fails:
                shards.keep(ShardResult(number, {"rows": 1}))
            elif (failure := self.fails[number]) is not None:
                shards.keep(ShardResult(number, failure=failure))


@pytest.fixture
def predict(wire: Wire, mlflow_connection: Callable[..., None]) -> Callable[..., PredictOperator]:
    mlflow_connection(wire.url)
    wire.alias(1)

    def made(compute: Jobs, **more: Any) -> PredictOperator:
        with DAG("scores"):
            return PredictOperator(
                task_id="predict", model="flight_delays", table=Table("rows", version=1), publish="scores",
                shards=SHARDS, compute=compute, **more,
            )  # fmt: skip

    return made


def to_the_end(task: Any) -> tuple[dict[str, Any], int]:
    """Through all deferrals; gives the output and how many there were."""
    context, deferrals = context_of(task), 0
    event: dict[str, Any] | None = None
    while True:
        try:
            if event is None:
                return run_task(task, context), deferrals
            running = task.prepare_for_execution()
            return running.execute_complete(context, event=event), deferrals
        except TaskDeferred as deferred:
            deferrals += 1
            event = deferred.kwargs["event"]


@pytest.mark.parametrize("defers", [False, True])
def test_shards_are_planned_run_and_published(predict: Callable[..., PredictOperator], defers: bool) -> None:
    compute = Jobs(defers=defers)
    output, deferrals = to_the_end(predict(compute))
    assert output["status"] == "success"
    assert deferrals == (3 if defers else 0)
    assert compute.ran == [0, 1, 2]
    assert ["--plan" in launch.arguments for launch in compute.launches] == [True, False]
    assert all(launch.indexed for launch in compute.launches[1:])
    assert compute.plans[0].indexes == SHARDS


def test_a_failed_shard_fails_the_task_as_its_kind_and_a_retry_runs_what_is_missing(
    predict: Callable[..., PredictOperator],
) -> None:
    compute = Jobs()
    compute.fails.update(
        {1: Failure("user", "UserCodeError", "models:x raised ValueError: no", "Traceback ...")}
    )
    task = predict(compute)
    with pytest.raises(UserCodeError, match=r"shard 1 of 3 failed .*models:x raised ValueError") as raised:
        to_the_end(task)
    assert "2 of 3 shards are done" in raised.value.kept
    assert len(compute.launches) == 1, "nothing was published"
    compute.fails.clear()
    compute.ran.clear()
    output, _ = to_the_end(task)
    assert output["status"] == "success"
    assert compute.ran == [1]


def test_a_shard_that_left_no_word_is_run_again_by_a_retry(predict: Callable[..., PredictOperator]) -> None:
    compute = Jobs(fails={2: None})
    task = predict(compute)
    with pytest.raises(InfrastructureError, match="shards 2 of 3 ended without a word"):
        to_the_end(task)
    compute.fails.clear()
    assert to_the_end(task)[0]["status"] == "success"
    assert compute.ran == [0, 1, 2, 2]


def test_the_number_of_shards_is_no_part_of_what_is_computed(predict: Callable[..., PredictOperator]) -> None:
    marks = set()
    for shards in (1, 2, 5):
        compute = FakeCompute()
        task = predict(Jobs())
        task.shards, task.compute = shards, compute
        run_task(task, context_of(task, run_id=f"with_{shards}"))
        marks.add(compute.spec().fingerprint if compute.launches else "hit")
    assert len(marks - {"hit"}) == 1


@pytest.mark.parametrize("wrong", [{"shards": 0}, {"shards": 2.5}, {"parallelism": -1}])
def test_a_number_of_shards_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    given = {"task_id": "predict", "model": "m", "table": "rows", "publish": "scores", **wrong}
    with DAG("scores"), pytest.raises(ConfigError, match="a number of 1 or more"):
        PredictOperator(**given)


@pytest.mark.parametrize("other", ["suite", "challengers"])
def test_what_predictions_in_shards_cannot_have_is_refused(other: str) -> None:
    given = {
        "task_id": "predict",
        "model": "m",
        "table": "rows",
        "publish": "scores",
        "shards": 2,
        other: "x:y",
    }
    with DAG("scores"), pytest.raises(ConfigError, match=f"shards=2 and {other}="):
        PredictOperator(**given)


def test_an_ingestion_plans_on_each_try_since_its_source_may_have_changed(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n1\n")
    compute = Jobs(fails={1: None})
    with DAG("orders"):
        task = IngestOperator(
            task_id="ingest", source=str(tmp_path), schema=Schema((Column("id", "int64"),)), publish="orders",
            shards=SHARDS, compute=compute,
        )  # fmt: skip
    with pytest.raises(InfrastructureError, match="shards 1 of 3 ended without a word"):
        to_the_end(task)
    compute.fails.clear()
    assert to_the_end(task)[0]["status"] == "success"
    assert ["--plan" in launch.arguments for launch in compute.launches] == [True, True, False]
    assert compute.ran == [0, 1, 2, 1]


def test_the_tasks_of_the_manual_are_steps_in_shards(wire: Wire, tmp_path: Path) -> None:
    tasks = {task.task_id: task for task in large.dag.tasks}
    assert {name: (task.verb, task.shards, task.parallelism) for name, task in tasks.items()} == {
        "ingest": ("ingest", 200, 50), "predict": ("predict", 200, 50), "monitor": ("monitor", 50, 50),
    }  # fmt: skip
    assert set(SHARDED) == {task.verb for task in large.dag.tasks}
    compute = Jobs()
    ingest = tasks["ingest"]
    ingest.source, ingest.compute, ingest.partitions = str(tmp_path), compute, "2013-06"
    output, _ = to_the_end(ingest)
    assert output["status"] == "success"
    assert compute.plans[0].parallelism == SHARDS, "no more pods than there are shards"
