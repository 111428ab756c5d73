"""What came of a search, in numbers, in words, and as an error when too many trials failed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.errors import ERRORS_BY_KIND, InfrastructureError, MLError, UserCodeError
from airflow_ml_provider.contract.fleets import allowed_failures, show
from airflow_ml_provider.contract.store import join
from airflow_ml_provider.steps.search_ask import metric_of

if TYPE_CHECKING:
    from airflow_ml_provider.contract.search_ledger import TrialRecord
    from airflow_ml_provider.steps.search_study import Study

_SHOWN_FAILURES = 20
_SHOWN_MESSAGE = 300

Told = tuple[dict[str, Any], "TrialRecord"]


@dataclass(frozen=True)
class BestTrial:
    """The trial with the best value; of equal ones the first.

    :param params: those that were searched for.
    """

    number: int
    params: dict[str, Any]
    value: float
    metrics: dict[str, float]


class Summary:
    """A study when nothing runs any more."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.metric, self.sign = metric_of(study.arguments)
        known = [(params, record) for params, record in study.known if record.number < study.most]
        self.trials: list[Told] = known
        states = Counter(record.state for _, record in known)
        self.done, self.stopped, self.failed = states["done"], states["stopped"], states["failed"]
        self.ended = len(known)
        self.missing = study.most - self.ended
        self.seconds = sum(record.seconds for _, record in known)
        self.best = next(iter(self.leading(1)), None)
        self._failures = [(params, record) for params, record in known if record.state == "failed"]

    def leading(self, most: int) -> list[BestTrial]:
        """The best trials, the best first."""
        done = [told for told in self.trials if told[1].state == "done"]
        done.sort(key=lambda told: (self.sign * told[1].metrics[self.metric], told[1].number))
        return [
            BestTrial(record.number, params, record.metrics[self.metric], record.metrics)
            for params, record in done[:most]
        ]

    def numbers(self) -> dict[str, float]:
        """As metrics."""
        found: dict[str, float] = {
            "trials": self.ended, "trials_done": self.done, "trials_stopped": self.stopped,
            "trials_failed": self.failed, "compute_seconds": round(self.seconds, 3),
        }  # fmt: skip
        if self.best is not None:
            found[f"best_{self.metric}"] = self.best.value
        return found

    def facts(self) -> dict[str, Any]:
        """For people."""
        found: dict[str, Any] = {
            "trials": self.ended, "done": self.done, "stopped early": self.stopped, "failed": self.failed,
            "rounds": len(self.study.rounds), "compute seconds": round(self.seconds, 1),
        }  # fmt: skip
        if self.best is not None:
            found["best trial"] = f"{self.best.number}: {self.metric} {self.best.value:.6g}"
            found["best parameters"] = self.best.params
        if self._failures:
            found["failed trials"] = [_line(told) for told in self._failures[:_SHOWN_FAILURES]]
        return found

    def error(self) -> MLError | None:
        """Why the search failed; None if it did not."""
        arguments = self.study.arguments
        allowed = allowed_failures(arguments.max_failed, self.study.most)
        late = bool(arguments.seconds)
        unfinished = self.missing and not late and self.study.worth_going_on
        if not unfinished and self.failed <= allowed and self.done:
            return None
        kinds = Counter(record.error.kind for _, record in self._failures if record.error)
        kind = ERRORS_BY_KIND[kinds.most_common(1)[0][0]] if kinds else UserCodeError
        if unfinished and self.failed <= allowed:
            kind = InfrastructureError
        said = f"{self.failed:,} of {self.ended:,} trials failed"
        said += f" ({allowed:,} may)" if self.failed > allowed else ""
        said += f", and {self.missing:,} did not run" if self.missing else ""
        if not self.failed and not self.done and self.ended:
            said = f"all {self.ended:,} trials were stopped before their end"
        elif not self.ended and late:
            said = f"no trial ended within {arguments.seconds:g} s"
        lines = [said, *(f"  {_line(told)}" for told in self._failures[:_SHOWN_FAILURES])]
        if self.failed > _SHOWN_FAILURES:
            lines.append(f"  and {self.failed - _SHOWN_FAILURES:,} more")
        again = sum(record.worth_a_try(arguments.tries) for _, record in self._failures) + self.missing
        what = f"runs only the {again:,} trials that are missing or whose place failed them"
        what = what if again else "runs no trial again"
        error = kind(
            "\n".join(lines),
            kept=f"what came of each trial, in {join(self.study.step.store.uri, self.study.ledger.folder)}",
            retry=(
                f"a retry {what}"
                if kind.retryable
                else "not retried by itself: trials that failed stay failed"
            )
            if self.ended
            else "",
            todo="correct the function, which begins a new study, narrow the space, or allow more with max_failed="
            if self.failed
            else "",
        )
        traces = (record.error.traceback for _, record in self._failures if record.error)
        error.user_traceback = next((trace for trace in traces if trace), "")  # type: ignore[attr-defined]
        return error


def _line(told: Told) -> str:
    params, record = told
    assert record.error is not None
    message = record.error.message.partition("\n")[0]
    if len(message) > _SHOWN_MESSAGE:
        message = message[: _SHOWN_MESSAGE - 3] + "..."
    return f"trial {record.number}, {show(params)}: {record.error.kind} error: {message}"
