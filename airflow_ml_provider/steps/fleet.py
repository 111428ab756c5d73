"""Fleet: one function over many items, over processes of this machine or collected from a compute's Job."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError
from airflow_ml_provider.contract.fleet_ledger import Ledger
from airflow_ml_provider.steps import fleet_modes, fleet_plan
from airflow_ml_provider.steps.fleet_collect import collect
from airflow_ml_provider.steps.fleet_pool import Pool

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.contract.fleets import Item, PlanDocument
    from airflow_ml_provider.steps.context import Outcome, StepContext


def run(step: StepContext, arguments: FleetArguments) -> Outcome:
    """Run what is missing, and sum up."""
    ledger = Ledger.of(step.store, step.spec)
    _check(step, arguments)
    if os.environ.get(fleet_modes.FLEET) == "job":
        plan = ledger.plan(os.environ.get(fleet_modes.PLAN, ""))
        if plan is None:
            # Perhaps since there are no items: then this says so.
            fleet_plan.items_of(step, arguments)
            raise InfrastructureError(f"there is no plan of the fleet in {ledger.folder}")
        items = ledger.items(plan.items_digest)
    else:
        items = fleet_plan.items_of(step, arguments)
        _check_best(step, arguments, items)
        plan = ledger.make_plan(items, arguments, step.spec.fingerprint)
        step.log.info(
            "%s items in %s indexes, %s to run",
            f"{plan.items:,}", f"{len(plan.indexes):,}", f"{len(plan.pending):,}",
        )  # fmt: skip
        if plan.pending:
            Pool(step, arguments, ledger, plan, _laying_down(step, arguments, plan, items)).run()
    return collect(step, arguments, ledger, plan, items)


def _laying_down(
    step: StepContext, arguments: FleetArguments, plan: PlanDocument, items: list[Item]
) -> Callable[[Path], object] | None:
    """What lays down the rows of the pending items for the workers; None where they need none."""
    if arguments.table is None:
        return None
    from airflow_ml_provider.steps.fleet_layout import read_together

    size = plan.items_per_index
    pending = (items[at * size : (at + 1) * size] for at in plan.pending)
    return partial(read_together, step, arguments, chain.from_iterable(pending))


def _check(step: StepContext, arguments: FleetArguments) -> None:
    if arguments.trains and arguments.table is None:
        raise ConfigError("a fleet of trainings has no table of rows", todo="give it one: table=...")
    if arguments.best and (arguments.model is None or not arguments.trains):
        raise ConfigError(
            "the best item's model cannot be registered: it has no name", todo="give both best= and model="
        )
    if arguments.groups:
        if arguments.model is None or not arguments.trains or arguments.best:
            raise ConfigError(
                "the models of groups are registered as one: a training with a model's name, and no best one",
                todo="give model= and not best=",
            )
        # Now, and not when all is done: it says so if no tracking server is configured.
        step.tracker  # noqa: B018


def _check_best(step: StepContext, arguments: FleetArguments, items: list[Item]) -> None:
    """Whether all items train on the same rows, where one is to be the best.

    :raises ConfigError: they do not, so that their metrics say nothing about each other.
    """
    if not arguments.best or arguments.table is None:
        return
    # Now, and not when all is done: it says so if no tracking server is configured.
    step.tracker  # noqa: B018
    columns = set(step.read(arguments.table).columns)
    selecting = {name for item in items for name in item if name in columns}
    if differing := sorted(name for name in selecting if len({repr(item.get(name)) for item in items}) > 1):
        raise ConfigError(
            f"best={arguments.best!r} compares items that train on different rows: they select them by "
            f"{', '.join(differing)}",
            kept="nothing was run",
            todo="leave best= and model= out, or run one fleet for each selection",
        )
