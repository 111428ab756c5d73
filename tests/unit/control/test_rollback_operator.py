"""What a RollbackOperator gives its step, and what it tells afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import DAG, Asset
from control_plane import FakeCompute, Wire, context_of, events_of, run_task

from airflow_ml_provider import Champion, Model, Table
from airflow_ml_provider.contract.documents import Failure
from airflow_ml_provider.contract.errors import ConfigError, TransientError
from airflow_ml_provider.operators import PredictOperator, PromoteOperator, RollbackOperator

Connect = Callable[..., None]
ENDED: dict[str, Any] = {
    "model": {"name": "flight_delays", "version": 2, "run_id": "run2", "alias": "champion"},
    "verdict": {"rolled_back": True, "moved": True, "alias": "champion", "version": 2, "replaced": 3,
                "affected": [], "affected_partitions": "2013-06-01"},
}  # fmt: skip


@pytest.fixture
def compute() -> FakeCompute:
    return FakeCompute(ends_with=dict(ENDED))


@pytest.fixture
def rollback(wire: Wire, mlflow_connection: Connect, compute: FakeCompute) -> Callable[..., RollbackOperator]:
    mlflow_connection(wire.url)
    wire.alias(3)

    def make(**given: Any) -> RollbackOperator:
        with DAG("a_dag"):
            arguments = {"model": Model("flight_delays"), "reason": "worse at night", **given}
            return RollbackOperator(task_id="rollback", compute=compute, **arguments)

    return make


def test_the_step_is_told_what_was_champion_when_it_was_asked_for(
    rollback: Callable[..., RollbackOperator], compute: FakeCompute
) -> None:
    run_task(rollback(predictions=[Table("flight_predictions"), "others"]), user="ada")
    spec = compute.spec()
    assert spec.verb == "rollback"
    assert (spec.arguments["leaves"], spec.arguments["to"]) == (3, None)
    assert spec.arguments["rolled_back_by"] == "ada"
    assert [table["name"] for table in spec.arguments["predictions"]] == ["flight_predictions", "others"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), ("", None), ("None", None), (2, 2), ("2", 2), ("flight_delays/2", 2)],
)
def test_the_version_may_come_from_a_parameter_that_is_empty(
    rollback: Callable[..., RollbackOperator], compute: FakeCompute, given: Any, expected: int | None
) -> None:
    run_task(rollback(to="{{ params.to }}"), params={"to": given})
    assert compute.spec().arguments["to"] == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reason": " "}, "was not told why 'flight_delays' is rolled back"),
        ({"to": "the one before"}, "roll back to 'the one before', which is not a version"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    rollback: Callable[..., RollbackOperator], compute: FakeCompute, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run_task(rollback(**given))
    assert compute.launches == []


@pytest.mark.parametrize("moved", [True, False])
def test_an_alias_that_moved_is_told_to_those_scheduled_on_it(
    rollback: Callable[..., RollbackOperator], compute: FakeCompute, moved: bool
) -> None:
    assert compute.ends_with is not None
    compute.ends_with["verdict"] = {**ENDED["verdict"], "moved": moved}
    task = rollback()
    assert [asset.name for asset in task.outlets] == ["model:flight_delays@champion"]
    context = context_of(task)
    run_task(task, context)
    told = events_of(context)
    assert [event["version"] for event in told.values()] == ([2] if moved else [])


def test_its_output_is_the_model_that_predicts_again(
    rollback: Callable[..., RollbackOperator], deployment: Any
) -> None:
    back = rollback()
    output = run_task(back)
    deployment.write(f"tables/to_predict/_delta_log/{0:020}.json", b"{}")
    scoring = FakeCompute()
    with back.dag:
        predict = PredictOperator(
            task_id="predict", model=back.output, table="to_predict", publish="predictions", compute=scoring,
            partitions="{{ ti.xcom_pull('rollback')['verdict']['affected_partitions'] }}",
        )  # fmt: skip
    assert [asset.name for asset in predict.outlets] == ["table:predictions"]
    predict.model = output
    run_task(predict, outputs={"rollback": output})
    arguments = scoring.spec().arguments
    assert (arguments["model"]["version"], arguments["partitions"]) == (2, "2013-06-01")


def test_a_promotion_is_told_from_when_it_counts(
    wire: Wire, mlflow_connection: Connect, compute: FakeCompute
) -> None:
    mlflow_connection(wire.url)
    wire.alias(3)
    verdict = {"decision": "promote", "model": {"name": "flight_delays", "version": 4}, "champion": None}
    with DAG("a_dag"):
        task = PromoteOperator(
            task_id="promote", verdict=verdict, effective="{{ params.since }}", compute=compute
        )
    run_task(task, params={"since": "2013-06-01"})
    assert compute.spec().arguments["effective"] == "2013-06-01"


def test_a_retry_takes_no_further_step_back_than_its_first_try_would_have(
    rollback: Callable[..., RollbackOperator], compute: FakeCompute, wire: Wire
) -> None:
    assert compute.ends_with is not None
    compute.ends_with.update(status="failed", failure=Failure("transient", "", "MLflow did not answer"))
    task = rollback()
    for try_number, champion, max_tries in ((1, 3, 1), (2, 2, 1)):
        wire.alias(champion)
        context = context_of(task, try_number=try_number)
        context["ti"].max_tries = max_tries
        with pytest.raises(TransientError):
            run_task(task, context)
        assert compute.spec().arguments["leaves"] == 3, "somebody else has rolled back before the second try"
    cleared = context_of(task, try_number=3)
    cleared["ti"].max_tries = 3
    with pytest.raises(TransientError):
        run_task(task, cleared)
    assert compute.spec().arguments["leaves"] == 2, "a clear asks anew"


def test_a_champion_that_is_named_as_now_is_told_of_like_any_model(
    rollback: Callable[..., RollbackOperator],
) -> None:
    task = rollback(model=Champion("flight_delays"))
    assert [asset.name for asset in task.outlets] == ["model:flight_delays@champion"]
    context = context_of(task)
    run_task(task, context)
    assert list(events_of(context)) == ["model:flight_delays@champion"]


def test_a_mute_run_emits_no_event_of_the_authors_own_outlets_either(
    rollback: Callable[..., RollbackOperator],
) -> None:
    task = rollback(outlets=[Asset("somebody_else")])
    for mute, told in ((False, {"somebody_else", "model:flight_delays@champion"}), (True, set())):
        context = context_of(task, run_id=f"mute_{mute}")
        context["dag_run"].conf = {"mute_events": mute}
        run_task(task, context)
        assert {asset.name for asset in context["task"].outlets} == told
