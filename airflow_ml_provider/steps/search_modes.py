"""The parts of a search that run in processes of their own: the plan of a round, one index of it, a worker.

None of them writes a result: what came of a trial stands in the ledger.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from airflow_ml_provider.contract.arguments import SearchArguments
from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.scratch import new_folder_of, removed
from airflow_ml_provider.contract.search_ledger import SearchLedger, TrialRecord
from airflow_ml_provider.steps import shipped_code
from airflow_ml_provider.steps.context import StepContext, log
from airflow_ml_provider.steps.fleet_modes import FLEET, INDEX, PLAN

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import StepSpec

# The document that tells the control plane what a plan came to.
PLANNED = "planned.json"


def wanted(options: Namespace) -> Callable[[StepSpec], int] | None:
    """Which part of a search this process is to run; None for the whole step."""
    if options.plan:
        return write_plan
    if options.worker:
        return partial(run_worker, pipes=options.worker)
    index = os.environ.get(INDEX) if options.index is None else options.index
    if index is None or index == "" or (options.index is None and os.environ.get(FLEET) == "job"):
        return None
    return partial(run_index, index=int(index), plan_name=os.environ.get(PLAN, ""))


def write_plan(spec: StepSpec) -> int:
    """Ask for the next round, and write what is to be run of it; gives the exit code."""
    from airflow_ml_provider.steps.search import check
    from airflow_ml_provider.steps.search_study import Study

    with _step(spec) as (step, arguments):
        check(step, arguments)
        study = Study(step, arguments)
        study.introduce()
        if study.rounds and not study.pending(study.rounds[-1]):
            study.close(study.rounds[-1])
        plan = study.plan()
        planned = {"fingerprint": spec.fingerprint, "plan": plan.name if plan else ""}
        study.ledger.store.write_json(f"{study.ledger.above}/{PLANNED}", planned)
        if plan is not None:
            count = sum(map(len, plan.indexes))
            log.info("round %s: %s trials in %s indexes", plan.round, count, len(plan.indexes))
    return 0


def run_index(spec: StepSpec, index: int, plan_name: str) -> int:
    """Run the trials of one index of a plan; gives the exit code."""
    from airflow_ml_provider.steps.search_work import Work

    with _step(spec) as (step, arguments):
        ledger = SearchLedger.of(step.store, spec)
        plan = ledger.plan(plan_name)
        current = ledger.round(plan.round) if plan is not None else None
        if plan is None or current is None:
            raise InfrastructureError(f"there is no plan {plan_name!r} of the search in {ledger.folder}")
        records = ledger.records(plan.round)
        work = Work(step, arguments)
        told: list[TrialRecord] = []
        with work.ready():
            for number in plan.indexes[index]:
                known = records.get(number)
                tries = known.tries + 1 if known else 1
                if tries > arguments.tries or (known and not known.worth_a_try(arguments.tries)):
                    continue
                # What came of the one before is kept before this one can take the process with it.
                ledger.keep(plan.round, [*told, TrialRecord(number, "running", tries=tries)])
                told = [work.do(number, current.trials[number - current.first], current.bars, tries)]
        if told:
            ledger.keep(plan.round, told)
        log.info("index %s of round %s is over: %s trials", index, plan.round, len(plan.indexes[index]))
    return 0


def run_worker(spec: StepSpec, pipes: str) -> int:
    """Run trials as told over pipes; never ends by itself."""
    from airflow_ml_provider.steps.search_work import Work
    from airflow_ml_provider.steps.search_worker import work_as_told

    commands, answers = (int(number) for number in pipes.split(","))
    with _step(spec) as (step, arguments):
        work_as_told(Work(step, arguments), commands, answers)
    return 0


@contextmanager
def _step(spec: StepSpec) -> Iterator[tuple[StepContext, SearchArguments]]:
    arguments = spec.typed_arguments()
    assert isinstance(arguments, SearchArguments)
    with removed(new_folder_of(spec.step_key)) as scratch:
        yield StepContext(shipped_code.laid_down(spec, scratch), scratch), arguments
