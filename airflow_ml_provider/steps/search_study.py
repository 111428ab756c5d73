"""A study: its rounds and what came of their trials, as the ledger has them, and what is to be done next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.fleets import failures_before_stopping
from airflow_ml_provider.contract.identity import explain_difference
from airflow_ml_provider.contract.search_ledger import (
    Round,
    SearchLedger,
    SearchPlan,
    TrialRecord,
    merge,
    study_parts,
)
from airflow_ml_provider.steps import search_ask
from airflow_ml_provider.steps.search_ask import metric_of
from airflow_ml_provider.steps.search_pruning import Reported
from airflow_ml_provider.steps.search_work import lost

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import SearchArguments
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.search_pool import Pending


class Study:
    """What is known of a study.

    :param rounds: in order; each but the last is over.
    :param records: of trials, by number.
    """

    def __init__(self, step: StepContext, arguments: SearchArguments) -> None:
        self.step = step
        self.arguments = arguments
        self.ledger = SearchLedger.of(step.store, step.spec)
        self.rounds: list[Round] = self.ledger.rounds()
        self.records: dict[int, TrialRecord] = self.ledger.records() if self.rounds else {}
        self.failed = sum(record.state == "failed" for record in self.records.values())
        self.succeeded = sum(record.state in ("done", "stopped") for record in self.records.values())
        self.most = search_ask.most_trials(arguments)
        self._over = 0
        self._reported = Reported(arguments.pruner, metric_of(arguments)[1])
        self.failures_to_stop = failures_before_stopping(arguments.max_failed, self.most)

    def introduce(self) -> None:
        """Say what is there already, and why it is not more."""
        parts = study_parts(self.step.spec)
        before = self.ledger.begin(parts)
        if self.records:
            self.step.log.info(
                "%s trials of this study are there already", f"{self.succeeded + self.failed:,}"
            )
        elif before is not None and (changed := explain_difference(before, parts)):
            self.step.log.info("a new study, since this has changed: %s; the former one stays", changed)

    def add(self, record: TrialRecord) -> None:
        """What came of a trial."""
        before = self.records.get(record.number)
        merge(self.records, [record])
        for sign, known in ((-1, before), (1, self.records[record.number])):
            if known is not None:
                self.failed += sign * (known.state == "failed")
                self.succeeded += sign * (known.state in ("done", "stopped"))

    def next_round(self) -> Round | None:
        """The round that is to be run, or run on; None when there is none."""
        if not self.worth_going_on:
            return None
        while self._over < len(self.rounds):
            current = self.rounds[self._over]
            if self.pending(current):
                return current
            for number in range(current.first, current.end):
                if number in self.records:
                    self._reported.add(self.records[number])
            self._over += 1
        end = self.rounds[-1].end if self.rounds else 0
        if end >= self.most:
            return None
        number = len(self.rounds)
        count = search_ask.size_of_round(self.arguments, end)
        trials = search_ask.ask(
            self.step, self.arguments, self.known, of_round=number, first=end, count=count
        )
        asked = Round(number, end, tuple(trials), self._reported.bars())
        self.rounds.append(self.ledger.create_round(asked))
        return self.rounds[-1]

    @property
    def known(self) -> list[tuple[dict[str, Any], TrialRecord]]:
        """Parameters and records of the trials that ended, in order."""
        return [
            (params, self.records[number])
            for each in self.rounds
            for number, params in enumerate(each.trials, each.first)
            if number in self.records and self.records[number].final
        ]

    def pending(self, of: Round) -> list[Pending]:
        """The trials of a round that are still to be run."""
        found: list[Pending] = []
        for number, params in enumerate(of.trials, of.first):
            record = self.records.get(number)
            if number < self.most and (record is None or record.worth_a_try(self.arguments.tries)):
                found.append((number, params, record.tries + 1 if record else 1))
        return found

    @property
    def worth_going_on(self) -> bool:
        """Whether further trials may be run: not when too many have failed, or all of the first."""
        hopeless = not self.succeeded and self.failed >= min(self.arguments.batch, self.most)
        return self.failed <= self.failures_to_stop and not hopeless

    @property
    def missing(self) -> int:
        """How many trials of the study have not ended."""
        return self.most - sum(record.final for number, record in self.records.items() if number < self.most)

    def close(self, of: Round) -> None:
        """A round is over: put its results into one document."""
        own = (self.records[number] for number in range(of.first, of.end) if number in self.records)
        self.ledger.close_round(of.number, own)

    def plan(self) -> SearchPlan | None:
        """What a Job is to run next, and keep it; None when there is nothing.

        :return: an index for each of as many pods as run at once, with about the same number of trials.
        """
        while (current := self.next_round()) is not None:
            pending = self.pending(current)
            gone = [(number, tries - 1) for number, _, tries in pending if tries > self.arguments.tries]
            if gone:
                # Begun as often as it may, and nobody has said what came of it.
                records = [lost(number, tries, "a pod was lost") for number, tries in gone]
                self.ledger.keep(current.number, records)
                for record in records:
                    self.add(record)
                continue
            pods = min(self.arguments.parallelism, len(pending))
            numbers = [number for number, _, _ in pending]
            indexes = tuple(tuple(numbers[place::pods]) for place in range(pods))
            plan = SearchPlan(self.step.spec.fingerprint, current.number, indexes)
            self.ledger.keep_plan(plan)
            return plan
        return None
