"""A step in shards: on a compute with Jobs, an index each of one Job, and then the step, which publishes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.fleets import FleetPlan
from airflow_ml_provider.contract.shards import Shards
from airflow_ml_provider.operators import stages
from airflow_ml_provider.operators.base import StepOperator
from airflow_ml_provider.operators.fleet_stages import PlanLaunch, has_jobs

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.compute.base import Compute, Exit, Launch
    from airflow_ml_provider.contract.documents import StepSpec
    from airflow_ml_provider.contract.store import Store

log = logging.getLogger(__name__)
_TRIES = 2


class ShardedStep(StepOperator):
    """What a step does around its shards.

    :param shards: into how many parts, at most, the files that the step reads are cut; each is done by a
        process or pod of its own, and all of it is published in one commit. The result is the same for any
        number.
    :param parallelism: how many shards run at once; on one machine at most one a processor.
    """

    # Whether each try plans, as of an input that no fingerprint covers; the plan of another try is kept if it
    # is of the same.
    plans_each_try = False

    def __init__(self, *, shards: int = 1, parallelism: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value in (("shards", shards), ("parallelism", parallelism)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"task {self.task_id!r} has {name}={value!r}; a number of 1 or more is needed"
                )
        self.shards = shards
        self.parallelism = parallelism

    def run_on(
        self, compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context
    ) -> Exit:
        """Plan, have the compute run the shards if it does such, and run the step, which publishes."""
        if self.shards == 1 or not has_jobs(compute):
            return compute.run(launch, context)
        shards = Shards(store, spec, self.shards)
        if self.plans_each_try or shards.plan() is None:
            # What there is to cut is read where steps run.
            stages.intend(store, spec, "shards", "plan")
            ended = compute.run(PlanLaunch.of(launch), context)
            if ended.error is not None or ended.code:
                raise ended.failure("the shards could not be planned", kept="nothing was run")
        return self._run_shards(compute, launch, spec, store, context)

    def resume_on(
        self, compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context,
        event: Mapping[str, Any],
    ) -> Exit:  # fmt: skip
        """Carry on with what was intended when the compute deferred."""
        if self.shards == 1 or not has_jobs(compute):
            return compute.resume(launch, context, event)
        stage = stages.intended(store, spec, "shards")
        if stage == "plan":
            ended = compute.resume(PlanLaunch.of(launch), context, event)
            if ended.error is not None or ended.code:
                raise ended.failure("the shards could not be planned", kept="nothing was run")
            return self._run_shards(compute, launch, spec, store, context)
        if stage == "shards":
            # However the Job ended: what came of the shards stands in the store.
            compute.resume(launch, context, event)
            return self._publish(compute, launch, spec, store, context)
        return compute.resume(launch, context, event)

    def on_kill(self) -> None:
        """End the step, and the pod that plans for it, whichever runs."""
        super().on_kill()
        compute = self._compute()
        if self._launch is not None and self.shards > 1 and has_jobs(compute):
            compute.cancel(PlanLaunch.of(self._launch))

    def _launch_of(self, spec: StepSpec, uri: str) -> Launch:
        return replace(super()._launch_of(spec, uri), indexed=self.shards > 1)

    def _run_shards(
        self, compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context
    ) -> Exit:
        shards = Shards(store, spec, self.shards)
        plan = shards.plan()
        pending = shards.pending(plan) if plan is not None else []
        if plan is not None and pending:
            log.info("%s shards, %s to run", f"{len(plan.shards):,}", f"{len(pending):,}")
            for number in pending:
                shards.forget(number)
            stages.intend(store, spec, "shards", "shards")
            name = shards.keep_pending(pending)
            # A failed shard fails the step: the others still run to their end, for the next try.
            compute.run_fleet(
                launch,
                FleetPlan(len(pending), min(self.parallelism, len(pending)), _TRIES, len(pending), name),
                context,
            )
        return self._publish(compute, launch, spec, store, context)

    def _publish(
        self, compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context
    ) -> Exit:
        shards = Shards(store, spec, self.shards)
        plan = shards.plan()
        if plan is not None and (missing := shards.pending(plan)):
            raise shards.error(missing, len(plan.shards))
        stages.intend(store, spec, "shards", "publish")
        return compute.run(launch, context)
