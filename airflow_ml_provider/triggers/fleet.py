"""Waits for a fleet's Job, in the triggerer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_ml_provider.compute.job_end import Progress, progress_of
from airflow_ml_provider.triggers.kubernetes_hook import async_hook

_FAILED_POLLS = 20
_LONGEST_PAUSE = 30.0


class FleetJobTrigger(BaseTrigger):
    """One event when a Job is over or gone, or needs a look because no pod of it has started for a while.

    It tells how far the Job is. The Job is deleted when a user ends the task, and kept when only the triggerer
    ends.

    :param look_after: seconds without a single pod that runs, after which somebody should look.
    :param ends_at: when the task's time is up, in seconds since 1970.
    """

    def __init__(
        self, *, job_name: str, namespace: str, conn_id: str, kubeconfig: str = "", context: str = "",
        queue: str = "", look_after: float = 600, ends_at: float | None = None, poll_interval: float = 5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.job_name, self.namespace = job_name, namespace
        self.conn_id, self.kubeconfig, self.context = conn_id, kubeconfig, context
        self.queue, self.look_after, self.poll_interval = queue, look_after, poll_interval
        self.ends_at = ends_at
        self._fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Scalars only; how to reach the cluster is named, not copied."""
        names = (
            "job_name", "namespace", "conn_id", "kubeconfig", "context", "queue", "look_after", "ends_at",
            "poll_interval",
        )  # fmt: skip
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            name: getattr(self, name) for name in names
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll; a bounded run of failed polls is borne."""
        said, failures, still_since = "", 0, time.monotonic()
        while True:
            try:
                progress = progress_of(await self._read(), self.queue)
                failures = 0
            except Exception as error:
                failures += 1
                if failures >= _FAILED_POLLS:
                    yield self._event("error", f"{type(error).__name__}: {str(error)[:300]}")
                    return
                self.log.warning("the Job could not be read, and is read again: %s", type(error).__name__)
                await asyncio.sleep(min(self.poll_interval * 2**failures, _LONGEST_PAUSE))
                continue
            if str(progress) != said:
                said = str(progress)
                self.log.info("job %s: %s", self.job_name, said)
            if progress.over or not progress.exists:
                yield self._event("over", said)
                return
            if self.ends_at is not None and time.time() > self.ends_at:
                yield self._event("late", said)
                return
            if not progress.stands_still:
                still_since = time.monotonic()
            elif time.monotonic() - still_since > self.look_after:
                yield self._event("look", said)
                return
            await asyncio.sleep(self._pause(progress))

    async def on_kill(self) -> None:
        """Delete the Job with its pods."""
        if self._fired:
            return
        from kubernetes_asyncio.client import BatchV1Api

        async with self._hook.get_conn() as connection:
            await BatchV1Api(connection).delete_namespaced_job(
                self.job_name, self.namespace, propagation_policy="Background"
            )

    def _pause(self, progress: Progress) -> float:
        # In a queue it may wait for hours.
        return self.poll_interval * (3 if progress.suspended else 1)

    def _event(self, status: str, message: str) -> TriggerEvent:
        self._fired = True
        return TriggerEvent({"phase": "fleet", "status": status, "message": message})

    async def _read(self) -> Mapping[str, Any] | None:
        from kubernetes_asyncio.client import ApiException, BatchV1Api

        async with self._hook.get_conn() as connection:
            try:
                job = await BatchV1Api(connection).read_namespaced_job(self.job_name, self.namespace)
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
            document: Mapping[str, Any] = connection.sanitize_for_serialization(job)
            return document

    @cached_property
    def _hook(self) -> Any:
        return async_hook(self.conn_id, self.kubeconfig, self.context)
