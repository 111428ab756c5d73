"""A search where the compute has Jobs: plan a round, run it, and so on, then sum up; each of these may defer.

Begun again at any point, it goes on: what was asked for and what came of it is found in the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute.base import Compute, Launch
from airflow_ml_provider.contract.arguments import SearchArguments
from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.fleets import FleetPlan
from airflow_ml_provider.contract.search_ledger import SearchLedger
from airflow_ml_provider.operators.fleet_stages import PlanLaunch

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.compute.base import Exit
    from airflow_ml_provider.contract.documents import StepSpec
    from airflow_ml_provider.contract.store import Store

log = logging.getLogger(__name__)


def run(compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context) -> Exit:
    """Round after round, and then the step, which sums up."""
    stage = {"stage": "plan", "count": 0, "begun": time.time(), "fingerprint": spec.fingerprint}
    return _plan(compute, launch, spec, store, context, stage)


def resume(
    compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context, event: Mapping[str, Any]
) -> Exit:
    """Carry on with what was intended when the compute deferred."""
    stage = store.read_json(_path(spec)) or {}
    if stage.get("fingerprint") != spec.fingerprint or stage.get("stage") == "sum up":
        return compute.resume(launch, context, event)
    if stage["stage"] == "plan":
        _check_planned(compute.resume(_plan_launch(launch, stage), context, event))
        return _run_planned(compute, launch, spec, store, context, stage)
    # However the Job ended: what came of its trials stands in the ledger.
    compute.resume(launch, context, event)
    return _plan(compute, launch, spec, store, context, stage)


def cancel_plan(compute: Compute, launch: Launch) -> None:
    """End the pod that plans, if one does; which one is in the step's folder."""
    from airflow_ml_provider.contract.store import Store

    above = Store(launch.spec_uri.rpartition("/")[0])
    stage = above.read_json("search/stage.json") or {}
    if stage.get("stage") == "plan":
        compute.cancel(_plan_launch(launch, stage))


def _plan(
    compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context, stage: dict[str, Any]
) -> Exit:
    arguments = spec.typed_arguments()
    assert isinstance(arguments, SearchArguments)
    while True:
        if arguments.seconds and time.time() - stage["begun"] > arguments.seconds:
            return _sum_up(compute, launch, spec, store, context, stage)
        # A pod of its own each time: one that has ended is not taken for the next.
        stage = {**stage, "stage": "plan", "count": stage["count"] + 1}
        store.write_json(_path(spec), stage)
        _check_planned(compute.run(_plan_launch(launch, stage), context))
        ended = _run_round(compute, launch, spec, store, context, stage)
        if ended is not None:
            return ended


def _run_planned(
    compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context, stage: dict[str, Any]
) -> Exit:
    ended = _run_round(compute, launch, spec, store, context, stage)
    return ended if ended is not None else _plan(compute, launch, spec, store, context, stage)


def _run_round(
    compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context, stage: dict[str, Any]
) -> Exit | None:
    """Run what was planned; None if that ended here, and the end of the step if nothing was planned."""
    arguments = spec.typed_arguments()
    assert isinstance(arguments, SearchArguments)
    ledger = SearchLedger.of(store, spec)
    planned = store.read_json(f"{ledger.above}/planned.json") or {}
    if planned.get("fingerprint") != spec.fingerprint:
        raise InfrastructureError(f"there is no plan of the search in {ledger.above}")
    plan = ledger.plan(planned["plan"]) if planned["plan"] else None
    if plan is None:
        return _sum_up(compute, launch, spec, store, context, stage)
    indexes = len(plan.indexes)
    log.info("round %s: %s trials in %s indexes", plan.round, sum(map(len, plan.indexes)), indexes)
    store.write_json(_path(spec), {**stage, "stage": "trials"})
    compute.run_fleet(
        launch,
        FleetPlan(
            indexes=indexes,
            parallelism=indexes,
            tries=arguments.tries,
            max_failed_indexes=indexes,
            name=plan.name,
        ),
        context,
    )
    return None


def _sum_up(
    compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context, stage: dict[str, Any]
) -> Exit:
    store.write_json(_path(spec), {**stage, "stage": "sum up"})
    return compute.run(launch, context)


def _plan_launch(launch: Launch, stage: Mapping[str, Any]) -> PlanLaunch:
    own = PlanLaunch.of(launch)
    head, tail = own.step_key[:-17], own.step_key[-16:]
    return replace(own, step_key=f"{head[:36]}-{stage['count']}-{tail}")


def _check_planned(ended: Exit) -> None:
    if ended.error is not None or ended.code:
        raise ended.failure(
            "a round of the search could not be planned", kept="what came of the rounds before"
        )


def _path(spec: StepSpec) -> str:
    return f"runs/{spec.step_key}/search/stage.json"
