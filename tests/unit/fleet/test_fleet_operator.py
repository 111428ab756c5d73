"""Fleets in a DAG: what the operators write, and both kinds of compute to the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pytest
from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from airflow.triggers.base import BaseTrigger
from control_plane import FakeCompute, context_of, events_of, run_task
from fleet_world import Fleet, numbers
from servers import forget_deployment

from airflow_ml_provider import Table
from airflow_ml_provider.compute import Compute, Exit, Launch, LocalCompute
from airflow_ml_provider.contract.errors import ConfigError, UserCodeError
from airflow_ml_provider.contract.fleets import FleetPlan
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.operators import FleetOperator, TrainOperator


@pytest.fixture(autouse=True)
def deployment(store: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A deployment with a store and nothing else configured."""
    forget_deployment(monkeypatch)
    monkeypatch.setenv("AIRFLOW__ML__STORE", store)
    return Store(store)


@pytest.fixture
def operator(fleet: Fleet) -> Callable[..., FleetOperator]:
    """Makes the operator of a DAG."""

    def make(over: Any, function: str = "double", **given: Any) -> FleetOperator:
        with DAG("a_dag", params={"wanted": Param([{"x": 1}])}):
            return FleetOperator(
                task_id="fleet", function=f"work:{function}", over=over, code=str(fleet.code), **given
            )

    return make


# What the spec holds


def test_items_go_to_the_store_and_their_digest_into_the_spec(
    operator: Callable[..., FleetOperator], deployment: Store
) -> None:
    compute = FakeCompute()
    run_task(operator(numbers(5_000), compute=compute, hyperparameters={"depth": 3}))
    spec = compute.spec()
    assert (spec.verb, spec.arguments["count"], spec.arguments["params"]) == ("fleet", 5_000, {"depth": 3})
    assert len(spec.encode()) < 5_000
    [path] = deployment.paths(f"runs/{spec.step_key}/fleet/items")
    assert spec.arguments["items_digest"] in path
    assert len((deployment.read(path) or b"").splitlines()) == 5_000


def test_other_items_are_another_step_and_the_same_ones_are_a_hit(
    operator: Callable[..., FleetOperator], capfd: pytest.CaptureFixture[str]
) -> None:
    compute = FakeCompute()
    for items in (numbers(3), numbers(3), numbers(4)):
        run_task(operator(items, compute=compute))
    assert len(compute.launches) == 2
    said = capfd.readouterr().out
    assert "hit: step a-dag-fleet-" in said
    assert "miss: count: 3 -> 4; " in said


def test_no_items_skip_the_task(operator: Callable[..., FleetOperator]) -> None:
    compute = FakeCompute()
    with pytest.raises(AirflowSkipException, match="there is nothing to do: task 'fleet' was given no items"):
        run_task(operator([], compute=compute))
    assert not compute.launches


def test_what_is_no_list_of_items_is_refused(operator: Callable[..., FleetOperator]) -> None:
    for over, said in (
        ([{"x": 1}, {"x": 1}], "items 0 and 1 of task 'fleet' are the same"),
        ([1, 2], "item 0 of task 'fleet' is 1"),
        (7, "task 'fleet' was given int to run over"),
    ):
        with pytest.raises(ConfigError, match=said):
            run_task(operator(over, compute=FakeCompute()))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tries": 0}, "tries=0"),
        ({"max_failed": 1.5}, "max_failed=1.5"),
        ({"publish": "results"}, "no column 'ds'"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    operator: Callable[..., FleetOperator], wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run_task(operator(numbers(1), compute=FakeCompute(), **wrong))


def test_items_may_come_from_a_template_a_task_or_a_table(
    operator: Callable[..., FleetOperator], deployment: Store, fleet: Fleet
) -> None:
    compute = FakeCompute()
    run_task(operator("{{ params.wanted | tojson }}", compute=compute), params={"wanted": [{"x": 4}]})
    assert compute.spec().arguments["count"] == 1
    run_task(operator([{"x": "{{ params.wanted }}"}], compute=compute), params={"wanted": "b"})
    path = f"runs/{compute.spec().step_key}/fleet/items/{compute.spec().arguments['items_digest']}.jsonl"
    assert deployment.read(path) == b'{"x": "b"}\n'
    fleet.publish("wanted", pl.DataFrame({"x": [1]}))
    for over in (Table("wanted"), "wanted", {"verb": "ingest", "table": {"name": "wanted", "version": 0}}):
        run_task(operator(over, compute=compute))
        assert compute.spec().arguments["over"] == {"name": "wanted", "partition_by": "ds", "version": 0}
    with DAG("another_dag"):

        @task
        def wanted() -> list[dict[str, int]]:
            return [{"x": 1}]

        over_output = FleetOperator(
            task_id="fleet", function="work:double", over=wanted(), code=str(fleet.code)
        )
    assert over_output.upstream_task_ids == {"wanted"}


def test_a_training_over_items_registers_nothing_unless_the_best_is_asked_for(fleet: Fleet) -> None:
    fleet.publish("rows", pl.DataFrame({"x": [1]}))
    given = {"function": "work:double", "table": "rows", "code": str(fleet.code), "compute": FakeCompute()}
    with DAG("a_dag"):
        many = TrainOperator(task_id="many", over=[{"x": 1}], **given)
        best = TrainOperator(task_id="best", over=[{"x": 1}], model="m", best="roc_auc", **given)
    for wrong in (
        {"over": [{"x": 1}], "model": "m"},
        {"over": [{"x": 1}], "best": "roc_auc"},
        {},
        {"best": "roc_auc", "model": "m"},
    ):
        with DAG("wrong"), pytest.raises(ConfigError, match="task 'wrong'"):
            TrainOperator(task_id="wrong", **wrong, **given)
    assert not many.outlets
    assert [asset.name for asset in best.outlets] == ["model:m@challenger"]
    run_task(many)
    spec = given["compute"].spec()
    assert (spec.verb, spec.arguments["trains"], spec.arguments["model"]) == ("fleet", True, None)
    run_task(best)
    assert given["compute"].spec().arguments["model"]["name"] == "m"


def test_a_column_makes_a_model_for_each_of_its_values_and_they_are_registered_as_one(fleet: Fleet) -> None:
    fleet.publish("rows", pl.DataFrame({"x": [1]}))
    compute = FakeCompute()
    given = {
        "function": "work:double",
        "table": "rows",
        "code": str(fleet.code),
        "compute": compute,
        "model": "m",
    }
    with DAG("a_dag"):
        one = TrainOperator(task_id="one", over="route", known_values=["carrier"], **given)
        two = TrainOperator(
            task_id="two",
            over=("origin", "dest"),
            fallback="all",
            minimum_rows=50,
            publish=Table("fits"),
            **given,
        )
    assert [asset.name for asset in one.outlets] == ["model:m@challenger"]
    run_task(one)
    said = compute.spec().arguments
    assert (said["groups"], said["fallback"], said["over"], said["known_values"]) == (
        ["route"], "refuse", None, ["carrier"],
    )  # fmt: skip
    assert said["model"] == {"name": "m", "alias": "challenger", "version": None}
    run_task(two)
    said = compute.spec().arguments
    assert (said["groups"], said["fallback"], said["minimum_rows"]) == (["origin", "dest"], "all", 50)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"over": "route"}, "no model= to register them as"),
        ({"over": "route", "model": "m", "best": "roc_auc"}, "they are registered together"),
        ({"over": "route", "model": "m", "fallback": "guess"}, "fallback='guess'"),
        ({"over": "route", "model": "m", "minimum_rows": 0}, "minimum_rows=0"),
        ({"over": ("route", "route"), "model": "m"}, "names a column twice"),
        ({"model": "m", "fallback": "all"}, "which are for a model for each group"),
        ({"over": [{"x": 1}], "known_values": ["x"]}, "known_values="),
    ],
)
def test_a_grouping_that_cannot_be_is_refused_at_parse(
    fleet: Fleet, wrong: dict[str, Any], said: str
) -> None:
    with DAG("wrong"), pytest.raises(ConfigError, match=said):
        TrainOperator(task_id="wrong", function="work:double", table="rows", **wrong)


# To the end


def test_a_fleet_runs_in_a_task_and_its_retry_does_only_the_rest(
    operator: Callable[..., FleetOperator], fleet: Fleet
) -> None:
    (fleet.code / "bad").write_text("b")
    fleet_task = operator(
        [{"x": "a"}, {"x": "b"}], "picky", compute=LocalCompute(), publish=Table("results", partition_by=None)
    )
    with pytest.raises(UserCodeError, match="1 of 2 items failed") as caught:
        run_task(fleet_task)
    assert "runs only the 1 failed items" in caught.value.retry
    assert "cannot do b" in caught.value.__notes__[0]
    (fleet.code / "bad").write_text("none")
    context = context_of(fleet_task, try_number=2)
    output = run_task(fleet_task, context)
    assert fleet.calls() == {"a": 1, "b": 2}
    assert output["summary"]["done"] == 2
    assert output["table"]["rows"] == 2
    assert events_of(context)["table:results"]["rows"] == 2


class Elsewhere(BaseTrigger):
    """Stands for a trigger of a compute's own."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return ("elsewhere", {})

    async def run(self) -> Any:
        yield


@dataclass(frozen=True)
class JobCompute(Compute):
    """Runs indexes as the pods of an Indexed Job would be, and may defer before each of its answers."""

    defers: bool = False
    fleets: list[FleetPlan] = field(default_factory=list, hash=False)
    runs: list[str] = field(default_factory=list, hash=False)

    def run(self, launch: Launch, context: Any) -> Exit:
        self.runs.append(launch.step_key)
        if self.defers:
            raise TaskDeferred(
                trigger=Elsewhere(), method_name="execute_complete", kwargs={"event": {"is": "pod"}}
            )
        return self._pod(launch)

    def run_fleet(self, launch: Launch, plan: FleetPlan, context: Any) -> None:
        self.fleets.append(plan)
        if self.defers:
            raise TaskDeferred(
                trigger=Elsewhere(), method_name="execute_complete", kwargs={"event": {"is": "job"}}
            )
        self._job(launch, plan)

    def resume(self, launch: Launch, context: Any, event: Any) -> Exit:
        if event["is"] == "pod":
            return self._pod(launch)
        self._job(launch, self.fleets[-1])
        return Exit(0)

    def cancel(self, launch: Launch) -> None:
        pass

    def _job(self, launch: Launch, plan: FleetPlan) -> None:
        for index in range(plan.indexes):
            self._pod(launch, JOB_COMPLETION_INDEX=str(index), AIRFLOW_ML_FLEET_PLAN=plan.name)

    def _pod(self, launch: Launch, **env: str) -> Exit:
        kind = {} if env else {"AIRFLOW_ML_FLEET": "job"}
        pod = subprocess.run(
            [sys.executable, "-P", *launch.arguments],
            env={**os.environ, **env, **kind},
            capture_output=True,
            text=True,
        )
        return Exit(pod.returncode, last_lines=pod.stdout[-500:])


def test_a_compute_with_jobs_runs_the_pending_indexes_and_then_the_sum(
    operator: Callable[..., FleetOperator], fleet: Fleet
) -> None:
    compute = JobCompute()
    output = run_task(operator(numbers(3), compute=compute, items_per_index=2, parallelism=9, tries=4))
    [plan] = compute.fleets
    assert (plan.indexes, plan.parallelism, plan.tries, plan.max_failed_indexes) == (2, 2, 4, 2)
    assert output["summary"]["done"] == 3
    more = run_task(operator(numbers(5), compute=compute, items_per_index=1), try_number=2)
    assert compute.fleets[-1].indexes == 2
    assert more["summary"]["done"] == 5
    assert set(fleet.calls().values()) == {1}


def test_after_each_deferral_the_fleet_goes_on_with_what_comes_next(
    operator: Callable[..., FleetOperator], fleet: Fleet, deployment: Store
) -> None:
    fleet.publish("wanted", pl.DataFrame({"x": [1, 2]}))
    compute = JobCompute(defers=True)
    fleet_task = operator(Table("wanted"), compute=compute)
    context = context_of(fleet_task)
    deferrals = []
    output: dict[str, Any] = {}
    event: dict[str, Any] = {}
    while not output:
        try:
            # After a deferral another process carries on, which knows only the task and the event.
            output = (
                fleet_task.execute_complete(context, event) if deferrals else run_task(fleet_task, context)
            )
        except TaskDeferred as deferral:
            event = deferral.kwargs["event"]
            deferrals.append(event["is"])
    assert deferrals == ["pod", "job", "pod"]
    planned, summed = compute.runs
    assert planned != summed
    assert len(planned) <= 63
    assert output["summary"]["done"] == 2
    assert fleet.calls() == {"1": 1, "2": 1}


def test_a_plan_that_fails_ends_the_task_with_its_kind(
    operator: Callable[..., FleetOperator], fleet: Fleet, deployment: Store
) -> None:
    fleet.publish("wanted", pl.DataFrame({"x": [1, 1]}))
    with pytest.raises(ConfigError, match=r"the fleet could not be planned.*(?s:.)*items 0 and 1 of table"):
        run_task(operator(Table("wanted"), compute=JobCompute()))
