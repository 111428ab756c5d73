"""The parts of a fleet as a compute with Jobs runs them: the plan, one index a pod, and the sum of it all."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from fleet_world import Fleet, numbers

from airflow_ml_provider.contract.documents import StepSpec, read_result
from airflow_ml_provider.contract.fleet_ledger import for_compute
from airflow_ml_provider.contract.store import Store

JOB = {"AIRFLOW_ML_FLEET": "job"}


def pod(fleet: Fleet, spec: StepSpec, index: int, **env: str) -> tuple[int, str]:
    return fleet.part(spec, env={"JOB_COMPLETION_INDEX": str(index), **env})


def test_indexes_run_one_by_one_and_summed_up_are_what_a_local_fleet_gives(
    fleet: Fleet, tmp_path: Any
) -> None:
    given = {"items": numbers(5), "items_per_index": 2, "publish": {"name": "results", "partition_by": None}}
    spec = fleet.spec(**given)
    assert fleet.part(spec, "--plan")[0] == 0
    plan = fleet.plan(spec)
    assert (plan.items, len(plan.indexes), plan.pending) == (5, 3, (0, 1, 2))
    for index in (2, 0, 1):
        code, output = pod(fleet, spec, index)
        assert code == 0, output
    # Neither the plan nor an index is the step's end.
    assert fleet.ledger(spec).store.read(f"runs/{spec.step_key}/result.json") is None
    code, output = fleet.part(spec, env=JOB)
    assert code == 0, output
    local = Fleet((tmp_path / "local").as_uri(), fleet.code)
    result = local.done(**given)
    assert local.results(local.spec(**given)) == fleet.results(spec)
    steady = ["x", "state", "tries", "y", "drawn", "seed", "params", "error"]
    assert local.table("results").select(steady).equals(fleet.table("results").select(steady))
    ended = read_result(Store(fleet.store).read(f"runs/{spec.step_key}/result.json") or b"", source="it")
    timed = {"compute_seconds"}
    assert {k: v for k, v in ended.metrics.items() if k not in timed} == {
        k: v for k, v in result.metrics.items() if k not in timed
    }


def test_an_index_that_is_done_ends_at_once(fleet: Fleet) -> None:
    spec = fleet.spec(items=numbers(2))
    fleet.part(spec, "--plan")
    assert pod(fleet, spec, 1)[0] == 0
    assert pod(fleet, spec, 1)[0] == 0
    assert fleet.calls() == {"1": 1}


def test_an_index_ends_with_the_exit_code_of_its_failure(fleet: Fleet) -> None:
    (fleet.code / "bad").write_text("b")
    spec = fleet.spec("picky", items=[{"x": "a"}, {"x": "b"}])
    fleet.part(spec, "--plan")
    code, output = pod(fleet, spec, 1)
    assert code == 65
    assert output.rstrip().endswith(
        f"user error: work:picky raised ValueError: cannot do b ({fleet.code}/work.py, line 33)"
    )
    assert "Traceback" in output
    code, _ = fleet.part(spec, env=JOB)
    assert code == 65
    result = read_result(Store(fleet.store).read(f"runs/{spec.step_key}/result.json") or b"", source="it")
    assert result.failure is not None
    assert result.failure.message.startswith("1 of 2 items failed (0 may), and 1 did not run")
    assert "runs only the 1 failed and 1 missing items" in result.failure.message


def test_a_pod_that_is_killed_leaves_its_index_to_the_next(fleet: Fleet) -> None:
    spec = fleet.spec("deadly", items=numbers(2), items_per_index=2, params={"kills": {"1": 1}})
    fleet.part(spec, "--plan")
    assert pod(fleet, spec, 0)[0] == -9
    assert [document.state for document in fleet.documents(spec)] == ["running"]
    assert fleet.part(spec, env=JOB)[0] == 70
    assert pod(fleet, spec, 0)[0] == 0
    [document] = fleet.documents(spec)
    assert (document.state, document.attempt) == ("done", 2)
    assert fleet.part(spec, env=JOB)[0] == 0


def test_a_pod_of_an_older_plan_runs_what_that_plan_says(fleet: Fleet) -> None:
    spec = fleet.spec(items=numbers(3))
    fleet.part(spec, "--plan")
    older = fleet.plan(spec)
    assert pod(fleet, spec, 0)[0] == 0
    fleet.part(spec, "--plan")
    assert fleet.plan(spec).pending == (1, 2)
    assert pod(fleet, spec, 1, AIRFLOW_ML_FLEET_PLAN=older.name)[0] == 0
    assert fleet.calls() == {"0": 1, "1": 1}


def test_items_of_a_table_are_planned_where_steps_run(fleet: Fleet) -> None:
    fleet.publish("wanted", pl.DataFrame({"x": [5, 6, 7]}))
    spec = fleet.spec(over={"name": "wanted", "version": 0}, max_failed=0.5, tries=3, parallelism=2)
    code, output = fleet.part(spec, "--plan")
    assert code == 0
    assert "planned 3 items, 3 of 3 indexes pending" in output
    plan = for_compute(fleet.plan(spec), spec.typed_arguments())  # type: ignore[arg-type]
    assert (plan.indexes, plan.parallelism, plan.tries, plan.max_failed_indexes) == (3, 2, 3, 3)
    assert plan.name == fleet.plan(spec).name


@pytest.mark.parametrize("rows", [0, 1])
def test_without_a_plan_the_sum_says_why(fleet: Fleet, rows: int) -> None:
    fleet.publish("wanted", pl.DataFrame({"x": [1]}).head(rows))
    spec = fleet.spec(over={"name": "wanted", "version": 0})
    code, output = fleet.part(spec, env=JOB)
    if rows:
        assert code == 70
        assert "there is no plan of the fleet" in output
    else:
        assert fleet.part(spec, "--plan")[0] == code == 0
        assert "skipped: there is nothing to do" in output
