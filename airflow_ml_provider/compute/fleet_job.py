"""The life of a fleet's Indexed Job: found or made, waited for, understood, removed.

Not by KubernetesJobOperator: its retry makes a second Job, it looks for pods four times without a pause, and it
has no word for a Job that waits in a queue. One object is watched here, the Job; its pods are the Job
controller's. What came of each item stands in the fleet's ledger, so a Job tells only that it is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import TaskDeferred

from airflow_ml_provider.compute import credentials, job_end, pod_end, pod_memory, pod_spec
from airflow_ml_provider.compute.base import Exit, Launch
from airflow_ml_provider.compute.cluster import Cluster
from airflow_ml_provider.compute.job_spec import PLAN, job_document, job_name
from airflow_ml_provider.compute.job_start import never_started
from airflow_ml_provider.compute.kubernetes_errors import api_error, is_unknown
from airflow_ml_provider.compute.time_limits import ends_at, last_resort, time_limit
from airflow_ml_provider.contract.errors import InfrastructureError, MLError, TransientError
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.triggers.fleet import FleetJobTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.compute.kubernetes import KubernetesCompute
    from airflow_ml_provider.contract.fleets import FleetPlan

log = logging.getLogger("airflow_ml_provider.compute")

_ATTEMPTS = 6
_POLL_EVERY = 3.0
_GONE_AFTER = 180.0
# Seconds after the end of a Job, for a pod that sums up; longer for one that takes longer does no harm.
_KEPT_TO_SUM_UP = 600


class FleetJob:
    """One fleet's Job, in the process of its task."""

    def __init__(self, compute: KubernetesCompute, launch: Launch) -> None:
        self.compute = compute
        self.launch = launch
        self.cluster = Cluster(compute)
        self.name = job_name(launch)

    @property
    def namespace(self) -> str:
        """Where it goes."""
        return self.cluster.namespace

    @cached_property
    def folder(self) -> Store:
        """The step's folder in the store."""
        return Store(self.launch.spec_uri.rpartition("/")[0])

    def run(self, plan: FleetPlan, context: Context) -> None:
        """To its end, or until it defers."""
        self._obtain(plan, last_resort(context))
        if self.compute.deferrable:
            raise self._deferral(ends_at(context))
        try:
            self._wait()
        except MLError:
            raise
        except BaseException:
            self.delete()
            raise

    def resume(self, event: Mapping[str, Any], context: Context) -> Exit:
        """From what the trigger saw: to its end, or to the next deferral."""
        if event.get("status") == "error":
            raise TransientError(
                f"{self._named}: waiting for it was interrupted: {event.get('message')}",
                kept="the Job goes on",
                retry="a retry adopts it, or runs what is missing",
            )
        progress = job_end.progress_of(self._read(), self.compute.queue)
        if progress.over or not progress.exists:
            self._finish(progress)
            return Exit(0)
        if event.get("status") == "late":
            self.delete()
            raise InfrastructureError(
                f"{self._named} ran for longer than the task's execution_timeout of {time_limit(context)} s and was "
                f"ended: {progress}",
                kept="what its finished items gave",
                retry="a retry runs only what is missing",
                todo="raise execution_timeout= or parallelism=",
            )
        self._check_started(progress)
        raise self._deferral(ends_at(context), looked=True)

    def delete(self) -> None:
        """Have the Job removed with its pods, if there is one; its Secret goes with it."""
        remove, how = self.cluster.batch.delete_namespaced_job, "Background"
        self.cluster.ask(
            "delete", "jobs", self.name, lambda: remove(self.name, self.namespace, propagation_policy=how)
        )

    def clear(self) -> None:
        """Have a Job that is over removed. That it cannot be is no error: Kubernetes removes it after a while."""
        try:
            progress = job_end.progress_of(self._read())
            if progress.over and not self._is_kept(progress):
                self.delete()
        except MLError as error:
            log.warning("%s could not be removed, Kubernetes will: %s", self._named, error.what)

    @property
    def _named(self) -> str:
        return f"job {self.name!r} in namespace {self.namespace!r}"

    def _read(self) -> Mapping[str, Any] | None:
        read = self.cluster.batch.read_namespaced_job
        found = self.cluster.ask("get", "jobs", self.name, lambda: read(self.name, self.namespace))
        return None if found is None else self.cluster.document(found)

    def _patch(self, change: Mapping[str, Any]) -> None:
        patch = self.cluster.batch.patch_namespaced_job
        self.cluster.ask("patch", "jobs", self.name, lambda: patch(self.name, self.namespace, [change]))

    def _is_kept(self, progress: job_end.Progress) -> bool:
        """Whether it stays, to be looked at."""
        return bool(progress.failed and self.compute.keep_failed)

    def _obtain(self, plan: FleetPlan, deadline: int | None) -> None:
        """The Job of this plan: the one that runs already, or a new one."""
        failure: Exception | None = None
        request = job_document(
            self.compute, self.launch, plan, deadline=deadline,
            memory_factor=pod_memory.factor(self.folder, self.compute.memory_growth),
        )  # fmt: skip
        for attempt in range(_ATTEMPTS):
            job = self._read()
            if job is None:
                try:
                    created = self.cluster.batch.create_namespaced_job(self.namespace, request)
                except Exception as error:
                    failure = error
                    if not is_unknown(error):
                        raise api_error(error, "create", "jobs", self.name, self.namespace) from None
                    self.cluster.pause(error, attempt)
                    continue
                log.info("created %s: %s indexes, %s at once", self._named, plan.indexes, plan.parallelism)
                job = self.cluster.document(created)
            elif not self._is_current(job, plan):
                self._remove(job)
                continue
            else:
                log.info("adopted %s, which runs already", self._named)
            self._let_go(job)
            return
        raise api_error(
            failure or RuntimeError("it keeps being replaced"), "create", "jobs", self.name, self.namespace
        )

    def _is_current(self, job: Mapping[str, Any], plan: FleetPlan) -> bool:
        metadata = job["metadata"]
        annotations = metadata.get("annotations") or {}
        if metadata.get("deletionTimestamp") or job_end.progress_of(job).over:
            return False
        same = annotations.get(pod_spec.FINGERPRINT) == self.launch.fingerprint
        # A Job whose indexes are partly done runs an older plan, which this one is what is left of.
        return same and (annotations.get(PLAN) == plan.name or not job_end.progress_of(job).failed)

    def _remove(self, job: Mapping[str, Any]) -> None:
        log.info("%s of an earlier try is removed", self._named)
        until = time.monotonic() + _GONE_AFTER
        self.delete()
        while (now := self._read()) is not None and now["metadata"]["uid"] == job["metadata"]["uid"]:
            if time.monotonic() > until:
                raise TransientError(
                    f"{self._named} of an earlier try does not end",
                    kept="nothing was started: two of them might write at once",
                    todo=f"look at its finalizers: kubectl get job {self.name} -n {self.namespace} -o yaml",
                )
            time.sleep(1)

    def _let_go(self, job: Mapping[str, Any]) -> None:
        """Give a Job that is held back its credentials, and have it run; in a queue, Kueue has it run."""
        if not job["spec"].get("suspend"):
            return
        if self.launch.credentials:
            owner = self.cluster.batch.read_namespaced_job(self.name, self.namespace)
            credentials.provide(self.cluster, owner, "batch/v1", "Job", self.launch.credentials)
        if not self.compute.queue:
            self._patch({"op": "replace", "path": "/spec/suspend", "value": False})

    def _deferral(self, until: float | None, *, looked: bool = False) -> TaskDeferred:
        trigger = FleetJobTrigger(
            job_name=self.name,
            namespace=self.namespace,
            conn_id=self.compute.conn_id,
            kubeconfig=self.compute.kubeconfig,
            context=self.compute.context,
            queue=self.compute.queue,
            ends_at=until,
            # The first look is for images that cannot be pulled, the second for places that are not found.
            look_after=self.compute.start_timeout if looked else min(15, self.compute.start_timeout),
        )
        return TaskDeferred(trigger=trigger, method_name="execute_complete")

    def _wait(self) -> None:
        said, began = "", time.monotonic()
        while True:
            progress = job_end.progress_of(self._read(), self.compute.queue)
            if str(progress) != said:
                said = str(progress)
                log.info("%s: %s", self._named, said)
            if progress.over or not progress.exists:
                return self._finish(progress)
            if progress.stands_still and time.monotonic() - began > 15:
                self._check_started(progress)
            time.sleep(_POLL_EVERY)

    def _finish(self, progress: job_end.Progress) -> None:
        log.info("%s: %s", self._named, progress)
        if not progress.exists:
            # Removed by hand, or with the task; the ledger knows what was done.
            return
        pods = self.cluster.pods_of_job(self.name, "Failed")
        for line, times in sorted(job_end.failures_of(pods).items()):
            log.error("%s of its pods: %s", times, line)
        if pods and any(map(pod_end.ran_out_of_memory, pods)):
            # All its pods count as one: their memory is raised once a try.
            pod_memory.note(self.folder, self.compute.memory_growth, job_end.owner_of(pods[0]))
        if self.launch.verb == "search" and not self._is_kept(progress):
            # The Job of its next round has the same name.
            self.delete()
        elif not self._is_kept(progress):
            # After the summing up, which would wait for thousands of pods to go; or by Kubernetes, in any case.
            self._patch({"op": "add", "path": "/spec/ttlSecondsAfterFinished", "value": _KEPT_TO_SUM_UP})

    def _check_started(self, progress: job_end.Progress) -> None:
        """End a Job none of whose pods can start.

        :raises MLError: why not.
        """
        wait = self.compute.start_timeout
        late = never_started(self.cluster, self.name, wait) if progress.stands_still else None
        if late is not None:
            self.delete()
            raise late
