"""Searches in a DAG: what the operator writes, and both kinds of compute to the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred
from airflow.triggers.base import BaseTrigger
from control_plane import FakeCompute, context_of, run_task
from search_world import SPACE, Search
from servers import forget_deployment

from airflow_ml_provider import Choices, Floats, Halving, Table
from airflow_ml_provider.compute import Compute, Exit, Launch, LocalCompute
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.fleets import FleetPlan
from airflow_ml_provider.contract.search_ledger import SearchLedger
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.operators import SearchOperator


@pytest.fixture(autouse=True)
def deployment(store: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A deployment with a store and nothing else configured."""
    forget_deployment(monkeypatch)
    monkeypatch.setenv("AIRFLOW__ML__STORE", store)
    return Store(store)


@pytest.fixture
def operator(search: Search) -> Callable[..., SearchOperator]:
    """Makes the operator of a DAG."""

    def make(function: str = "bowl", **given: Any) -> SearchOperator:
        standard = {
            "search": SPACE,
            "metric": "-loss",
            "trials": 12,
            "sampler": "random",
            "code": str(search.code),
        }
        with DAG("a_dag"):
            return SearchOperator(
                task_id="search", function=f"objectives:{function}", **{**standard, **given}
            )

    return make


def test_the_space_and_the_rules_are_data_in_the_spec(operator: Callable[..., SearchOperator]) -> None:
    compute = FakeCompute()
    run_task(
        operator(
            compute=compute, pruner=Halving(first=5), trials="{{ params.trials }}", hyperparameters={"depth": 3},
            limits={"seconds": 60, "max_failed": 0.5},
        ),
        params={"trials": 33},
    )  # fmt: skip
    arguments = compute.spec().typed_arguments()
    assert compute.spec().verb == "search"
    assert msgspec.structs.asdict(arguments) | {} == {
        **msgspec.structs.asdict(arguments), "space": SPACE, "pruner": Halving(first=5), "trials": 33,
        "params": {"depth": 3}, "seconds": 60.0, "max_failed": 0.5, "tries": 2, "model": None, "table": None,
    }  # fmt: skip


def test_a_search_for_a_model_has_it_as_outlet(operator: Callable[..., SearchOperator]) -> None:
    searching = operator(table=Table("rows"), model="m")
    assert [asset.name for asset in searching.outlets] == ["model:m@challenger"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"search": {}}, "nothing to look for"),
        ({"search": {"x": 3}}, "was given x=3"),
        (
            {"search": {"x": Choices([1])}, "hyperparameters": {"x": 1}},
            "both in search= and in hyperparameters=",
        ),
        ({"search": {"x": Floats(0, 1)}, "sampler": "grid"}, "no end of values"),
        ({"sampler": "tpi"}, "did you mean 'tpe'"),
        ({"pruner": "medain"}, "did you mean 'median'"),
        ({"metric": "-"}, "metric='-'"),
        ({"model": "m"}, "no table of rows"),
        ({"trials": 0}, "trials=0"),
        ({"batch": 0}, "batch=0"),
        ({"limits": {"hours": 1}}, "limits={'hours': 1}"),
        ({"limits": {"tries": 0}}, "limits={'tries': 0}"),
        ({"limits": {"max_failed": 1.5}}, "max_failed=1.5"),
    ],
)
def test_what_cannot_be_is_refused_when_the_dag_is_read(
    operator: Callable[..., SearchOperator], wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        operator(**wrong)
    assert said in str(caught.value)


def test_a_number_of_trials_that_is_none_is_refused_when_it_is_known(
    operator: Callable[..., SearchOperator],
) -> None:
    with pytest.raises(ConfigError, match="trials='many'"):
        run_task(operator(trials="{{ params.trials }}", compute=FakeCompute()), params={"trials": "many"})


def test_a_search_runs_in_a_task_and_more_trials_run_only_these(
    operator: Callable[..., SearchOperator], search: Search
) -> None:
    (search.code / "gate").write_text("99")
    for trials in (4, 7):
        output = run_task(operator("gated", trials=trials, compute=LocalCompute()))
        assert output["summary"]["done"] == trials
    assert search.calls() == {str(number): 1 for number in range(7)}


class Elsewhere(BaseTrigger):
    """Stands for a trigger of a compute's own."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return ("elsewhere", {})

    async def run(self) -> Any:
        yield


@dataclass(frozen=True)
class JobCompute(Compute):
    """Runs indexes as the pods of an Indexed Job would be, and may defer before each of its answers.

    :param loses: indexes of the first Job whose pods never start.
    """

    defers: bool = False
    loses: tuple[int, ...] = ()
    fleets: list[FleetPlan] = field(default_factory=list, hash=False)
    runs: list[str] = field(default_factory=list, hash=False)

    def run(self, launch: Launch, context: Any) -> Exit:
        self.runs.append(launch.step_key)
        self._defer("pod")
        return self._pod(launch)

    def run_fleet(self, launch: Launch, plan: FleetPlan, context: Any) -> None:
        self.fleets.append(plan)
        self._defer("job")
        self._job(launch, plan)

    def resume(self, launch: Launch, context: Any, event: Any) -> Exit:
        if event["is"] == "pod":
            return self._pod(launch)
        self._job(launch, self.fleets[-1])
        return Exit(0)

    def cancel(self, launch: Launch) -> None:
        pass

    def _defer(self, what: str) -> None:
        if self.defers:
            raise TaskDeferred(
                trigger=Elsewhere(), method_name="execute_complete", kwargs={"event": {"is": what}}
            )

    def _job(self, launch: Launch, plan: FleetPlan) -> None:
        for index in range(plan.indexes):
            if len(self.fleets) > 1 or index not in self.loses:
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


def test_a_compute_with_jobs_runs_round_after_round_and_then_the_sum(
    operator: Callable[..., SearchOperator], search: Search
) -> None:
    given: dict[str, Any] = {"batch": 4, "pruner": "median", "sampler": "tpe", "trials": 6}
    (search.code / "gate").write_text("99")
    compute = JobCompute(loses=(1,))
    output = run_task(operator("gated", compute=compute, parallelism=2, **given))
    assert output["summary"]["done"] == 6
    # What the first Job left, a second one did, before anybody asked for more.
    assert [plan.indexes for plan in compute.fleets] == [2, 2, 2]
    assert search.calls() == {str(number): 1 for number in range(6)}
    # Each plan is a pod of its own, and so is the sum.
    assert len(set(compute.runs)) == len(compute.runs) == 5
    store = Store(search.store)
    [study] = {
        path.split("/")[3] for path in store.paths(f"runs/{compute.runs[-1]}/search") if "/rounds/" in path
    }
    rounds = SearchLedger(store, compute.runs[-1], study).rounds()
    # The same trials as anywhere else.
    local = Search(f"{search.store}-local", search.code)
    given["pruner"] = {"type": "percentile"}
    local.done("gated", **given)
    assert [params for each in rounds for params in each.trials] == local.params(local.spec("gated", **given))


def test_after_each_deferral_the_search_goes_on_with_what_comes_next(
    operator: Callable[..., SearchOperator], search: Search
) -> None:
    (search.code / "gate").write_text("99")
    compute = JobCompute(defers=True)
    task = operator("gated", compute=compute, trials=3, batch=3)
    context = context_of(task)
    event: dict[str, Any] | None = None
    deferrals = []
    while True:
        try:
            if event is None:
                output = run_task(task, context)
            else:
                output = task.prepare_for_execution().execute_complete(context, event=event)
            break
        except TaskDeferred as deferred:
            event = deferred.kwargs["event"]
            deferrals.append(event["is"])
    assert deferrals == ["pod", "job", "pod", "pod"]
    assert output["summary"]["done"] == 3
    assert search.calls() == {"0": 1, "1": 1, "2": 1}


def test_a_trial_that_a_pod_dies_with_each_time_has_failed_and_the_others_are_done(
    operator: Callable[..., SearchOperator], search: Search
) -> None:
    task = operator(
        "deadly", compute=JobCompute(), trials=7, batch=7, parallelism=1, limits={"max_failed": 1}
    )
    output = run_task(task)
    assert (output["summary"]["done"], output["summary"]["failed"]) == (6, 1)
    assert "trial 5, " in output["summary"]["failed trials"][0]
    assert search.calls() == {str(n): 2 if n in (3, 5) else 1 for n in range(7)}
