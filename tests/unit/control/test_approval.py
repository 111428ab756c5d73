"""People approve a promotion: what they are asked and shown, what their answer does, and how long it stands."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, BaseNotifier
from airflow.sdk.exceptions import TaskAwaitingInput
from control_plane import FakeCompute, Wire, context_of, run_task

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.operators import Approval, PromoteOperator
from airflow_ml_provider.operators.evidence import evidence

MODEL = {"name": "flight_delays", "version": 5}
VERDICT = {
    "decision": "promote",
    "model": {**MODEL, "run_id": "r5"},
    "champion": {"name": "flight_delays", "version": 4, "run_id": "r4"},
    "rows": 27_004,
    "table": "flights_training",
    "partitions": "2013-05-01..2013-05-31",
    "metrics": {"roc_auc": {"value": 0.7771, "low": 0.771, "high": 0.784}},
    "champion_metrics": {"roc_auc": {"value": 0.77, "low": 0.764, "high": 0.776}},
    "differences": {"roc_auc": {"value": 0.0071, "low": 0.003, "high": 0.011}},
    "gates": [{"gate": "roc_auc >= 0.7", "passed": True, "value": 0.7771, "reason": "0.7771 is at least 0.7"}],
    "slices": [
        {
            "column": "carrier", "value": "9E|*x*", "rows": 1200, "positives": 300,
            "roc_auc": {"value": 0.7, "low": 0.6, "high": 0.8},
            "difference": {"value": -0.01, "low": -0.03, "high": 0.01},
        }
    ],
    "changes": [{"what": "params rounds", "champion": "100", "candidate": "200"}],
}  # fmt: skip


class Supervisor:
    """The worker's end of what tasks say to Airflow, which keeps the first question of a task instance."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.kept: Any = None

    def send(self, msg: Any) -> Any:
        self.said.append(msg)
        return self.kept or msg


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    from airflow.sdk.execution_time import task_runner

    found = Supervisor()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", found, raising=False)
    return found


@pytest.fixture
def promote(wire: Wire, mlflow_connection: Callable[..., None]) -> Callable[..., tuple[Any, FakeCompute]]:
    mlflow_connection(wire.url)
    wire.alias(4)

    def made(**fields: Any) -> tuple[Any, FakeCompute]:
        compute = FakeCompute(ends_with={"verdict": {"promoted": True}, "model": MODEL})
        with DAG("a_dag"):
            fields = {"verdict": {"verb": "evaluate", "model": MODEL, "verdict": VERDICT}, **fields}
            task = PromoteOperator(task_id="promote", compute=compute, **fields)
        return task, compute

    return made


def asked(task: Any, *, max_tries: int = 0) -> tuple[Any, TaskAwaitingInput]:
    context = context_of(task)
    context["ti"].id, context["ti"].max_tries = uuid.uuid4(), max_tries
    with pytest.raises(TaskAwaitingInput) as parked:
        run_task(task, context)
    return context, parked.value


def answer(chosen: str, note: str = "", **others: Any) -> dict[str, Any]:
    return {
        "chosen_options": [chosen],
        "params_input": {"note": note},
        "responded_at": datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
        "responded_by_user": {"id": "7", "name": "ada"},
        **others,
    }


def test_a_task_that_needs_an_approval_parks_and_starts_nothing(promote: Any, supervisor: Supervisor) -> None:
    task, compute = promote(approval=Approval(users=["7"], deadline="2d"))
    _, parked = asked(task)
    [question] = supervisor.said
    assert question.subject == "Let flight_delays version 5 become champion?"
    assert question.options == ["Approve", "Reject"]
    assert [user.id for user in question.assigned_users] == ["7"]
    assert question.defaults == ["Reject"]
    assert parked.timeout == timedelta(days=2)
    assert parked.method_name == "answered"
    assert not compute.launches


def test_the_evidence_itself_is_shown() -> None:
    shown = evidence(
        VERDICT, {"Report": "https://mlflow/report", "Elsewhere": "javascript:alert(1)"}, "champion"
    )
    assert (
        "| roc\\_auc | 0.7771 [0.7710, 0.7840] | 0.7700 [0.7640, 0.7760] | +0.0071 [+0.0030, +0.0110] |"
        in shown
    )
    assert "passed: roc\\_auc \\>= 0.7" in shown
    assert "params rounds | 100 | 200" in shown
    assert "[Report](https://mlflow/report)" in shown
    assert "javascript" not in shown


def test_text_from_data_cannot_break_the_table_that_people_decide_by() -> None:
    assert "carrier = 9E\\|\\*x\\* | 1,200" in evidence(VERDICT, {}, "champion")


def test_an_approval_starts_the_step_and_goes_with_it(promote: Any, supervisor: Supervisor) -> None:
    task, compute = promote(approval=Approval())
    context, parked = asked(task)
    getattr(context["task"], parked.method_name)(context, answer("Approve", " looks good "))
    assert compute.spec().arguments["approval"] == {
        "approved": True, "by": "ada", "at": "2026-03-01T09:30:00+00:00", "note": "looks good",
        "timed_out": False, "said": "approved by ada: looks good",
    }  # fmt: skip


def test_a_retry_does_not_ask_again_and_neither_does_a_clear_of_what_was_approved(
    promote: Any, supervisor: Supervisor
) -> None:
    task, _ = promote(approval=Approval())
    context, _ = asked(task)
    context["task"].answered(context, answer("Approve"))
    again = context_of(task, try_number=2)
    again["ti"].id, again["ti"].max_tries = uuid.uuid4(), 3
    run_task(task, again)
    assert len(supervisor.said) == 1


def test_a_rejection_stands_over_retries_and_is_asked_about_again_after_a_clear(
    promote: Any, supervisor: Supervisor
) -> None:
    task, compute = promote(approval=Approval())
    context, _ = asked(task)
    context["task"].answered(context, answer("Reject", "not on a Friday"))
    assert compute.spec().arguments["approval"]["said"] == "rejected by ada: not on a Friday"
    retry = context_of(task, try_number=2)
    retry["ti"].id, retry["ti"].max_tries = uuid.uuid4(), 0
    run_task(task, retry)
    assert len(supervisor.said) == 1
    asked(task, max_tries=2)
    assert len(supervisor.said) == 2


def test_another_verdict_needs_another_approval(promote: Any, supervisor: Supervisor) -> None:
    task, _ = promote(approval=Approval())
    context, _ = asked(task)
    context["task"].answered(context, answer("Approve"))
    other, _ = promote(approval=Approval(), verdict={**VERDICT, "rows": 5})
    asked(other)
    assert len(supervisor.said) == 2


def test_people_never_approve_a_verdict_that_they_do_not_see(promote: Any, supervisor: Supervisor) -> None:
    asked(promote(approval=Approval())[0])
    # After a clear Airflow shows what it was given first.
    supervisor.kept = supervisor.said[0]
    asked(promote(approval=Approval())[0])
    task, compute = promote(approval=Approval(), verdict={**VERDICT, "rows": 5})
    context = context_of(task)
    context["ti"].id = uuid.uuid4()
    with pytest.raises(ConfigError, match="about another verdict") as failed:
        run_task(task, context)
    assert "start a new run" in failed.value.todo
    assert not compute.launches


def test_silence_means_what_was_said_it_would(promote: Any, supervisor: Supervisor) -> None:
    task, compute = promote(approval=Approval(deadline=timedelta(hours=1), default="approve"))
    context, _ = asked(task)
    assert "the default holds: **approve**" in supervisor.said[0].body
    silent = answer("Approve", responded_by_user=None, timed_out=None) | {"timedout": True}
    context["task"].answered(context, silent)
    said = compute.spec().arguments["approval"]
    assert said["said"] == "approved by default, since nobody answered in time"
    assert said["by"] == ""


def test_a_rejected_candidate_is_not_asked_about(promote: Any, supervisor: Supervisor) -> None:
    task, compute = promote(approval=Approval(), verdict={**VERDICT, "decision": "reject"})
    run_task(task)
    assert not supervisor.said
    assert compute.spec().arguments["approval"] == {}


def test_nobody_is_asked_about_a_verdict_without_a_model(promote: Any, supervisor: Supervisor) -> None:
    task, _ = promote(approval=Approval(), verdict={"decision": "promote"}, model="flight_delays")
    with pytest.raises(ConfigError, match="names no model version"):
        run_task(task)
    assert not supervisor.said


def test_notifiers_are_told_when_the_question_is_asked(promote: Any, supervisor: Supervisor) -> None:
    told: list[str] = []

    class Bell(BaseNotifier):
        def notify(self, context: Any) -> None:
            told.append(context["ti"].task_id)

    asked(promote(approval=Approval(notifiers=[Bell()]))[0])
    assert told == ["promote"]


def test_an_approval_that_ended_without_an_answer_moves_nothing(promote: Any, supervisor: Supervisor) -> None:
    task, compute = promote(approval=Approval())
    context, _ = asked(task)
    with pytest.raises(ConfigError, match="ended without an answer") as failed:
        context["task"].answered(context, {"error": "gone", "error_type": "timeout"})
    assert failed.value.kept
    assert not compute.launches


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"users": "ada"}, "the text 'ada'"),
        ({"default": "maybe"}, "'maybe'"),
        ({"deadline": "soon"}, "'soon' is not an age"),
        ({"deadline": timedelta(0)}, "not in the future"),
    ],
)
def test_an_approval_that_cannot_be_is_told_when_the_dag_is_written(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Approval(**fields)


def test_an_approval_of_a_promotion_from_now_on_is_none_for_one_into_the_past(
    promote: Any, supervisor: Supervisor
) -> None:
    task, _ = promote(approval=Approval())
    context, _ = asked(task)
    context["task"].answered(context, answer("Approve"))
    assert "count from" not in supervisor.said[0].body
    into_the_past, _ = promote(approval=Approval(), effective="2013-05-01")
    asked(into_the_past)
    assert "**It is to count from 2013-05-01 on**" in supervisor.said[1].body


def test_a_slice_without_any_difference_is_shown_among_those_that_gain_least() -> None:
    same = {**VERDICT["slices"][0], "value": "UA", "difference": {"value": 0.0, "low": 0.0, "high": 0.0}}  # type: ignore[index,dict-item]
    gains = {**same, "value": "AA", "difference": {"value": 0.01, "low": 0.0, "high": 0.0}}
    shown = evidence({**VERDICT, "slices": [gains, same]}, {}, "champion")
    assert shown.index("carrier = UA") < shown.index("carrier = AA")
