"""A fleet where the compute has Jobs: plan, run the indexes, sum up; each of these may defer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute.base import Compute, Launch
from airflow_ml_provider.contract.arguments import FleetArguments
from airflow_ml_provider.contract.fleet_ledger import Ledger, for_compute
from airflow_ml_provider.operators import stages

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.compute.base import Exit
    from airflow_ml_provider.contract.documents import StepSpec
    from airflow_ml_provider.contract.store import Store

log = logging.getLogger(__name__)


def has_jobs(compute: Compute) -> bool:
    """Whether a compute runs indexes itself; elsewhere the step does, in processes beside it."""
    return type(compute).run_fleet is not Compute.run_fleet


def run(compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context) -> Exit:
    """Plan what is missing, have the compute run it, and then the step, which sums up.

    Begun again at any point, it goes on: what is planned and done is found in the store.
    """
    arguments = spec.typed_arguments()
    assert isinstance(arguments, FleetArguments)
    ledger = Ledger.of(store, spec)
    items_digest = arguments.items_digest or _planned_items(ledger, spec)
    if not items_digest:
        # The items are rows of a table, which is read where steps run.
        stages.intend(store, spec, "fleet", "plan")
        _check_planned(compute.run(PlanLaunch.of(launch), context))
        items_digest = _planned_items(ledger, spec)
        if not items_digest:
            return _sum_up(compute, launch, spec, store, context)
    plan = ledger.make_plan(ledger.items(items_digest), arguments, spec.fingerprint)
    log.info(
        "%s items in %s indexes, %s to run",
        f"{plan.items:,}", f"{len(plan.indexes):,}", f"{len(plan.pending):,}",
    )  # fmt: skip
    if plan.pending:
        stages.intend(store, spec, "fleet", "indexes")
        compute.run_fleet(launch, for_compute(plan, arguments), context)
    return _sum_up(compute, launch, spec, store, context)


def resume(
    compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context, event: Mapping[str, Any]
) -> Exit:
    """Carry on with what was intended when the compute deferred."""
    stage = stages.intended(store, spec, "fleet")
    if stage == "plan":
        _check_planned(compute.resume(PlanLaunch.of(launch), context, event))
        return run(compute, launch, spec, store, context)
    ended = compute.resume(launch, context, event)
    if stage == "indexes":
        # However the Job ended: what came of its indexes stands in the ledger.
        return _sum_up(compute, launch, spec, store, context)
    return ended


@dataclass(frozen=True)
class PlanLaunch(Launch):
    """Has the step only write its plan; a step key of its own, so that its pod is one of its own."""

    @classmethod
    def of(cls, launch: Launch) -> PlanLaunch:
        """The launch that plans for another."""
        head, tail = launch.step_key[:-17], launch.step_key[-16:]
        return cls(
            step_key=f"{head[:40]}-plan-{tail}", verb=launch.verb, spec_uri=launch.spec_uri,
            code_roots=launch.code_roots, credentials=launch.credentials, fingerprint=launch.fingerprint,
        )  # fmt: skip

    @property
    def arguments(self) -> list[str]:
        """What to give to Python to run the step."""
        return [*super().arguments, "--plan"]


def _sum_up(compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context) -> Exit:
    stages.intend(store, spec, "fleet", "sum up")
    return compute.run(launch, context)


def _planned_items(ledger: Ledger, spec: StepSpec) -> str:
    """The items of the plan that was made for this spec; empty if there is none."""
    plan = ledger.plan()
    return plan.items_digest if plan is not None and plan.fingerprint == spec.fingerprint else ""


def _check_planned(ended: Exit) -> None:
    if ended.error is not None or ended.code:
        raise ended.failure("the fleet could not be planned", kept="nothing was run")
