"""The life of a step's pod: found or made, waited for by Airflow's own operator, understood, removed.

Kubernetes' provider does the waiting and the reading of logs. What is ours is what must hold here: one pod for
a step, by its name; nothing is started again while it is unknown whether it runs; why it ended is looked at
before it is removed; and it is removed on every way out but one: when it may still run and nobody could tell.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import TaskDeferred

from airflow_ml_provider.compute import pod_end, pod_memory, pod_spec
from airflow_ml_provider.compute.base import Exit, Launch
from airflow_ml_provider.compute.cluster import Cluster
from airflow_ml_provider.compute.kubernetes_errors import is_unknown
from airflow_ml_provider.compute.output import Output
from airflow_ml_provider.compute.pod_logs import LogCursor, StepPodManager
from airflow_ml_provider.compute.pod_operator import StepPodOperator
from airflow_ml_provider.compute.time_limits import last_resort, time_limit
from airflow_ml_provider.contract.errors import InfrastructureError, MLError, TransientError
from airflow_ml_provider.contract.store import Store

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.compute.kubernetes import KubernetesCompute

log = logging.getLogger("airflow_ml_provider.compute")

_ATTEMPTS = 6


class StepPod:
    """One step's pod, in the process of its task.

    :param compute: how it is to be.
    :param launch: which step.
    """

    def __init__(self, compute: KubernetesCompute, launch: Launch) -> None:
        self.compute = compute
        self.launch = launch
        self.cluster = Cluster(compute)
        self.name = pod_spec.pod_name(launch)
        self.output = Output()
        self.cursor = LogCursor()

    @cached_property
    def namespace(self) -> str:
        """Where it goes."""
        return self.cluster.namespace

    @cached_property
    def folder(self) -> Store:
        """The step's folder in the store."""
        return Store(self.launch.spec_uri.rpartition("/")[0])

    @cached_property
    def pod_manager(self) -> StepPodManager:
        """The provider's, with our log."""
        return StepPodManager(self.cluster.core, self.output, self.cursor)

    def run(self, context: Context) -> Exit:
        """To its end, or until it defers."""
        operator = StepPodOperator.of(self, context)
        return self._through(context, lambda: operator.run(context))

    def resume(self, context: Context, event: Mapping[str, Any]) -> Exit:
        """From what the trigger saw, to its end."""
        self.cursor = LogCursor(str(event.get("last_log_time") or ""))
        operator = StepPodOperator.of(self, context)
        # The provider gives up after three interrupted waits; a pod that runs is worth waiting for.
        told = {key: value for key, value in event.items() if key != "_redefer_count"}
        return self._through(context, lambda: operator.trigger_reentry(context, told), event)

    def find(self) -> Any | None:
        """The pod as it is, None if there is none.

        :raises TransientError: it is unknown whether there is one.
        """
        return self.cluster.read_pod(self.name)

    def delete(self) -> None:
        """Have the pod removed, if there is one; its Secret goes with it."""
        self.cluster.delete_pod(self.name)

    def document(self, deadline: int | None) -> dict[str, Any]:
        """The pod to ask for."""
        factor = pod_memory.factor(self.folder, self.compute.memory_growth)
        secret = self.name if self.launch.credentials else ""
        pod = pod_spec.pod_document(
            self.compute, self.launch, deadline=deadline, memory_factor=factor, credentials_from=secret
        )
        return pod_spec.held_back(pod) if secret else pod

    def deadline(self, context: Context) -> int | None:
        """When Kubernetes ends it, if nobody else does."""
        return self.compute.max_runtime or last_resort(context)

    def _through(self, context: Context, wait: Any, event: Mapping[str, Any] | None = None) -> Exit:
        cause: Exception | None = None
        try:
            wait()
        except TaskDeferred:
            raise
        except MLError:
            raise
        except Exception as error:
            # Whatever it is, the pod itself says how it ended.
            log.debug("waiting for pod %s ended with %r", self.name, error)
            cause = error
        except BaseException:
            # The task is to end: by its timeout, or because somebody wants it.
            self.delete()
            raise
        return self._concluded(context, cause, event or {})

    def _concluded(self, context: Context, cause: Exception | None, event: Mapping[str, Any]) -> Exit:
        pod = self.find()
        if pod is None:
            return Exit(1, self._gone(), self.output.last_lines)
        document = self.cluster.document(pod)
        if pod_end.is_over(document):
            self._tell_the_rest(pod)
            ended = pod_end.end_of(document)
            if pod_end.ran_out_of_memory(document):
                pod_memory.note(self.folder, self.compute.memory_growth, document)
            if ended.code == 0 or not self.compute.keep_failed:
                self.delete()
            return Exit(ended.code, ended.error, self.output.last_lines, ended.place)
        waited = (datetime.now(UTC) - pod.metadata.creation_timestamp).total_seconds()
        late = pod_end.never_started(document, self.cluster.events_of(self.name), waited)
        known = pod_end.cannot_be_pulled(document) or not (
            event.get("status") == "error" or _is_api_trouble(cause)
        )
        if late is not None and known:
            self.delete()
            return Exit(1, late, place=pod_end.place_of(document))
        if event.get("status") == "timeout":
            self._tell_the_rest(pod)
            self.delete()
            return Exit(
                1,
                _too_long(self.name, time_limit(context)),
                self.output.last_lines,
                pod_end.place_of(document),
            )
        if pod.metadata.deletion_timestamp is not None:
            return Exit(1, self._taken_or_gone(document), self.output.last_lines)
        raise TransientError(
            f"pod {self.name!r} in namespace {self.namespace!r} still runs, and waiting for it was interrupted: "
            f"{type(cause).__name__}: {str(cause)[:300]}" if cause else
            f"pod {self.name!r} in namespace {self.namespace!r} still runs, and its trigger ended: "
            f"{str(event.get('message'))[:300]}",
            kept="the pod goes on",
            retry="a retry adopts it, or reads its result",
        )  # fmt: skip

    def _tell_the_rest(self, pod: Any) -> None:
        """What of the log was not told yet. Telling it never fails a task."""
        for attempt in range(_ATTEMPTS):
            try:
                for _ in self.pod_manager.read_pod_logs(pod, pod_spec.CONTAINER, follow=False):
                    pass
                return
            except Exception as error:
                if not is_unknown(error) or attempt == _ATTEMPTS - 1:
                    log.warning("the end of the pod's log could not be read: %s", type(error).__name__)
                    return
                time.sleep(0.5 * 2**attempt)

    def _gone(self) -> MLError:
        events = self.cluster.events_of(self.name)
        return pod_end.gone(f"pod {self.name!r} in namespace {self.namespace!r}", events)

    def _taken_or_gone(self, document: Mapping[str, Any]) -> MLError:
        why = pod_end.disruption_of(document)
        named = f"pod {self.name!r} in namespace {self.namespace!r}"
        return pod_end.taken_away(named, why) if why else self._gone()


def _is_api_trouble(cause: Exception | None) -> bool:
    """Whether waiting ended because the API could not be asked, which says nothing about the pod."""
    return hasattr(cause, "status") or type(cause).__module__.partition(".")[0] in ("urllib3", "aiohttp")


def _too_long(name: str, limit: int | None) -> InfrastructureError:
    return InfrastructureError(
        f"pod {name!r} ran for longer than the task's execution_timeout of {limit} s and was ended",
        kept="whatever it published before it was ended; saved checkpoints",
        todo="raise execution_timeout=, or give the step more resources",
    )
