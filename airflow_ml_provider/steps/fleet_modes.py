"""The parts of a fleet that run in processes of their own: one index in a pod, the plan, a worker.

None of them writes a result: what came of an index stands in the ledger, and the step that collects it all
says how the fleet ended.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml_provider.contract.arguments import FleetArguments
from airflow_ml_provider.contract.errors import ERRORS_BY_KIND, InfrastructureError
from airflow_ml_provider.contract.fleet_ledger import Ledger
from airflow_ml_provider.contract.scratch import new_folder_of, removed
from airflow_ml_provider.steps import shipped_code
from airflow_ml_provider.steps.context import Skipped, StepContext, log
from airflow_ml_provider.steps.fleet_index import error_of, run_index
from airflow_ml_provider.steps.fleet_worker import work_as_told

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import StepSpec
    from airflow_ml_provider.contract.fleets import PlanDocument

# Kubernetes gives it to each pod of an Indexed Job.
INDEX = "JOB_COMPLETION_INDEX"
# "job": the indexes were run by a compute's Job, and the step only collects.
FLEET = "AIRFLOW_ML_FLEET"
# The plan whose pending indexes are counted; the newest when it is not set.
PLAN = "AIRFLOW_ML_FLEET_PLAN"
# For workers: where the rows of all items have been laid down.
TOGETHER = "AIRFLOW_ML_FLEET_ROWS"


def wanted(options: Namespace) -> Callable[[StepSpec], int] | None:
    """Which part of a fleet this process is to run; None for the whole step."""
    if options.plan:
        return write_plan
    if options.worker:
        return partial(run_worker, plan_name=options.fleet_plan, pipes=options.worker)
    index = os.environ.get(INDEX) if options.index is None else options.index
    if index is None or index == "" or (options.index is None and os.environ.get(FLEET) == "job"):
        return None
    return partial(run_one, pending=int(index))


def write_plan(spec: StepSpec) -> int:
    """Write the items and the plan of a fleet whose items are rows of a table; gives the exit code."""
    from airflow_ml_provider.steps import fleet_plan

    with _step(spec) as (step, arguments):
        try:
            plan = fleet_plan.make(step, arguments)
        except Skipped as reason:
            # The step will find out for itself, and say so in its result.
            log.info("no plan: %s", reason)
            return 0
        log.info(
            "planned %s items, %s of %s indexes pending", plan.items, len(plan.pending), len(plan.indexes)
        )
    return 0


def run_one(spec: StepSpec, pending: int) -> int:
    """Run one pending index; gives the exit code: that of the failure's kind unless all items are done."""
    with _step(spec) as (step, arguments):
        ledger = Ledger.of(step.store, spec)
        plan = _plan(ledger, os.environ.get(PLAN, ""))
        position = plan.pending[pending]
        found = ledger.at(position, plan.indexes[position])
        if found is not None and found[1].state == "done":
            log.info("index %s is done already", position)
            return 0
        # Not before it is needed: most of these libraries' seconds are spent importing them.
        from airflow_ml_provider.steps.fleet_work import Work

        size = plan.items_per_index
        items = ledger.items(plan.items_digest)[position * size : (position + 1) * size]
        work = Work(step, arguments)
        work.read_together(items, step.scratch / "together")
        document = run_index(work, position, plan.indexes[position], items, lambda number, record: None)
        error = error_of(document)
        if error is None:
            log.info("index %s is done: %s items", position, len(document.items))
            return 0
        if error.traceback:
            print(error.traceback, flush=True)
        print(f"{error.kind} error: {error.message}", flush=True)
        return ERRORS_BY_KIND[error.kind].exit_code


def run_worker(spec: StepSpec, plan_name: str, pipes: str) -> int:
    """Run indexes as told over pipes; never ends by itself."""
    from airflow_ml_provider.steps.fleet_work import Work

    commands, answers = (int(number) for number in pipes.split(","))
    with _step(spec) as (step, arguments):
        ledger = Ledger.of(step.store, spec)
        plan = _plan(ledger, plan_name)
        work = Work(step, arguments)
        if laid_down := os.environ.get(TOGETHER):
            work.laid_down = Path(laid_down)
        work_as_told(work, plan, ledger.items(plan.items_digest), commands, answers)
    return 0


def _plan(ledger: Ledger, name: str) -> PlanDocument:
    plan = ledger.plan(name)
    if plan is None:
        raise InfrastructureError(
            f"there is no plan {name} of the fleet in {ledger.folder}",
            todo="run the step with --plan first",
        )
    return plan


@contextmanager
def _step(spec: StepSpec) -> Iterator[tuple[StepContext, FleetArguments]]:
    arguments = spec.typed_arguments()
    assert isinstance(arguments, FleetArguments)
    with removed(new_folder_of(spec.step_key)) as scratch:
        yield StepContext(shipped_code.laid_down(spec, scratch), scratch), arguments
