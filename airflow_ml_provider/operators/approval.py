"""A person decides: Airflow's human-in-the-loop around a step, the answer kept beside the step's documents.

The task waits in Airflow's state ``awaiting_input``, which holds neither a worker's slot nor a triggerer's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import msgspec

from airflow_ml_provider.contract.ages import age_seconds
from airflow_ml_provider.contract.errors import ConfigError

if TYPE_CHECKING:
    from airflow.sdk import BaseNotifier, Context

    from airflow_ml_provider.contract.store import Store

APPROVE, REJECT = "Approve", "Reject"


@dataclass(frozen=True)
class Approval:
    """Who is asked before an alias moves, for how long, and what silence means.

    :param users: ids of the Airflow users who may answer, as the auth manager has them; anybody who may act on
        the DAG when empty.
    :param deadline: "30m", "2d", "1w" or a timedelta: how long an answer is waited for; for ever when None.
    :param default: what holds when nobody has answered by the deadline, ``"approve"`` or ``"reject"``.
    :param notifiers: Airflow notifiers (Slack, e-mail, ...) that are told when the question is asked.
    """

    users: Sequence[str] = ()
    deadline: str | timedelta | None = None
    default: Literal["approve", "reject"] = "reject"
    notifiers: Sequence[BaseNotifier] = ()

    def __post_init__(self) -> None:
        if isinstance(self.users, str):
            raise ConfigError(
                f"users is the text {self.users!r}", todo=f"give a list: users=[{self.users!r}]"
            )
        if self.default not in ("approve", "reject"):
            raise ConfigError(
                f"the default of an approval is {self.default!r}", todo='use "approve" or "reject"'
            )
        object.__setattr__(self, "users", tuple(self.users))
        object.__setattr__(self, "notifiers", tuple(self.notifiers))
        if self.waits is not None and self.waits <= timedelta(0):
            raise ConfigError("the deadline of an approval is not in the future", todo='use "2d", say')

    @property
    def waits(self) -> timedelta | None:
        """The deadline as a duration."""
        if isinstance(self.deadline, str):
            return timedelta(seconds=age_seconds(self.deadline, what="the deadline of an approval"))
        return self.deadline

    def terms(self) -> str:
        """What silence means, for the page where people answer."""
        if self.waits is None:
            return "There is no deadline."
        return f"Without an answer within {self.waits} of being asked, the default holds: **{self.default}**."

    def ask(self, subject: str, body: str, context: Context, *, asked: str, then: str) -> NoReturn:
        """Put a question to people, and park the task until it is answered.

        :param asked: digest of what is asked.
        :param then: the operator's method that gets the answer as ``event``.
        """
        from airflow.sdk import Param
        from airflow.sdk.exceptions import TaskAwaitingInput

        note = Param(
            None, type=["null", "string"], title="Why", description="Kept with the decision, in the ledger."
        )
        mark = f"Question {asked[:12]}"
        shown = _show(
            context["ti"].id,
            options=[APPROVE, REJECT],
            subject=subject,
            body=f"{body}\n\n{self.terms()}\n\n{mark}",
            defaults=[APPROVE if self.default == "approve" else REJECT] if self.waits else None,
            params={"note": note.serialize()},
            assigned_users=[{"id": user, "name": user} for user in self.users],
        )
        if mark not in shown:
            raise ConfigError(
                "Airflow keeps showing the question that this task asked before it was cleared, about another "
                "verdict, so people would approve what they do not see",
                kept="the alias stays where it is",
                todo="start a new run of the DAG instead of clearing this one",
            )
        for notifier in self.notifiers:
            notifier(context)
        raise TaskAwaitingInput(method_name=then, timeout=self.waits)


def _show(ti_id: Any, **detail: Any) -> str:
    """Have Airflow show a question; gives the text that it shows, which is an older one after a clear."""
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import CreateHITLDetailPayload

    # As airflow.sdk.execution_time.hitl.upsert_hitl_detail does, which throws the answer away.
    shown = task_runner.SUPERVISOR_COMMS.send(CreateHITLDetailPayload(ti_id=ti_id, **detail))
    return str(getattr(shown, "body", "") or "")


class Question(NamedTuple):
    """What was asked in which step; an answer stands for nothing else.

    :param asked: digest of what was asked.
    :param clearing: a number that is another one after the task was cleared, and the same over retries.
    """

    step_key: str
    asked: str
    clearing: int


class Answer(msgspec.Struct, frozen=True):
    """What was answered to a question, by whom and why.

    :param asked: digest of what was asked.
    :param by: the user who answered; empty where nobody did and the default held.
    """

    asked: str
    clearing: int
    approved: bool
    by: str
    at: str
    note: str = ""
    timed_out: bool = False

    @classmethod
    def of(cls, question: Question, event: Mapping[str, Any]) -> Answer:
        """The answer that Airflow hands over.

        :raises ConfigError: there is none.
        """
        if "error" in event or not event.get("chosen_options"):
            raise ConfigError(
                f"the approval ended without an answer: {event.get('error') or dict(event)}",
                kept="the alias stays where it is",
                todo="clear the task to ask again",
            )
        user, at = event.get("responded_by_user") or {}, event.get("responded_at")
        return cls(
            question.asked,
            question.clearing,
            approved=list(event["chosen_options"]) == [APPROVE],
            by=str(user.get("name") or user.get("id") or ""),
            at=(at if isinstance(at, datetime) else datetime.now(UTC)).isoformat(timespec="seconds"),
            note=str((event.get("params_input") or {}).get("note") or "").strip(),
            timed_out=bool(event.get("timedout")),
        )

    def __str__(self) -> str:
        decision = "approved" if self.approved else "rejected"
        if self.timed_out:
            return f"{decision} by default, since nobody answered in time"
        return f"{decision} by {self.by or 'somebody'}{f': {self.note}' if self.note else ''}"

    def document(self) -> dict[str, Any]:
        """As it stands in the step's arguments and in the ledger."""
        return {
            "approved": self.approved,
            "by": self.by,
            "at": self.at,
            "note": self.note,
            "timed_out": self.timed_out,
            "said": str(self),
        }


def keep(store: Store, question: Question, event: Mapping[str, Any]) -> Answer:
    """The answer that Airflow hands over, kept with the step so that a retry does not ask again."""
    answer = Answer.of(question, event)
    store.write_json(_path(question), msgspec.to_builtins(answer))
    return answer


def standing(store: Store, question: Question) -> Answer | None:
    """The answer that was given to this question: an approval stands, a rejection until the task is cleared."""
    found = store.read_json(_path(question))
    answer = msgspec.convert(found, Answer) if found else None
    if answer is None or answer.asked != question.asked:
        return None
    return answer if answer.approved or answer.clearing == question.clearing else None


def _path(question: Question) -> str:
    return f"runs/{question.step_key}/approval.json"
