"""The doctor's pod: made as a step's, waited for, read, and removed on every way out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_ml_provider import __version__
from airflow_ml_provider.cli.doctor_findings import Finding, fail
from airflow_ml_provider.cli.doctor_image import CHECK, LONGEST_RUN, judged, report_in
from airflow_ml_provider.cli.doctor_services import Deployment
from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError, MLError

if TYPE_CHECKING:
    from airflow_ml_provider.compute.pods import StepPod

LONGEST_START = 120
_POLL_EVERY = 0.5
_SAME = f"build the image with airflow-ml-provider {__version__}, the version that runs here"
# A container that Kubernetes could not start, and cannot on another try either.
_NOT_STARTED = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def check_pod(step: StepPod, found: Deployment) -> Iterator[Finding]:
    """Run the check in a pod as a step's, and remove the pod whatever happens."""
    about = {"object": f"pod {step.name}", "namespace": step.namespace}
    output, failure = "", None
    try:
        output = _output_of_pod(step)
    except MLError as error:
        failure = error
    except BaseException:
        with suppress(MLError):
            step.delete()
        raise
    try:
        step.delete()
    except MLError as error:
        todo = f"kubectl delete pod {step.name} -n {step.namespace}"
        yield fail(CHECK, f"the doctor's own pod is left over: {error.what}", todo, verb="delete", **about)
    try:
        if failure is not None:
            raise failure
        yield from judged(output, f"the image {step.compute.image!r}", found, _SAME)
    except MLError as error:
        yield fail(CHECK, error, **about)


def _output_of_pod(step: StepPod) -> str:
    """Make the pod, wait for its end, read its log.

    :raises MLError: it was refused, did not start, or ended in a way that is not the package's own.
    """
    from airflow_ml_provider.compute import pod_end
    from airflow_ml_provider.compute.pod_claim import obtain

    start = min(step.compute.start_timeout, LONGEST_START)
    obtain(step, step.document(deadline=start + LONGEST_RUN))
    began, running_since = time.monotonic(), None
    while True:
        pod = step.find()
        if pod is None:
            raise pod_end.gone(f"pod {step.name!r}", step.cluster.events_of(step.name))
        document = step.cluster.document(pod)
        if pod_end.is_over(document):
            break
        waited = (datetime.now(UTC) - pod.metadata.creation_timestamp).total_seconds()
        late = pod_end.never_started(document, [], waited)
        hopeless = pod_end.cannot_be_pulled(document) or _waits_for(document) in _NOT_STARTED
        if late is not None and (hopeless or time.monotonic() - began > start):
            raise pod_end.never_started(document, step.cluster.events_of(step.name), waited) or late
        if late is None:
            running_since = running_since or time.monotonic()
            if time.monotonic() - running_since > LONGEST_RUN:
                raise InfrastructureError(
                    f"pod {step.name!r} in namespace {step.namespace!r} did not finish the check within {LONGEST_RUN} s"
                )
        time.sleep(_POLL_EVERY)
    ended = pod_end.end_of(document)
    if ended.error is not None:
        raise ended.error
    output = _log_of(step)
    if report_in(output) is None and not output.strip():
        raise ConfigError(
            f"the image {step.compute.image!r} does not start `python`: {_why_ended(document)}",
            todo="use an image with Python on its PATH, such as that of docker/steps.Dockerfile",
        )
    return output


def _log_of(step: StepPod) -> str:
    from airflow_ml_provider.compute.pod_spec import CONTAINER

    def read() -> str:
        # Not through the client's conversion: it would take a line of JSON for an object.
        answer = step.cluster.core.read_namespaced_pod_log(
            step.name, step.namespace, container=CONTAINER, _preload_content=False
        )
        return bytes(answer.data).decode(errors="replace")

    return step.cluster.ask("get", "pods/log", step.name, read) or ""


def _state(document: Any, which: str) -> dict[str, Any]:
    statuses = (document.get("status") or {}).get("containerStatuses") or [{}]
    state: dict[str, Any] = (statuses[0].get("state") or {}).get(which) or {}
    return state


def _waits_for(document: Any) -> str:
    return str(_state(document, "waiting").get("reason") or "")


def _why_ended(document: Any) -> str:
    ended = _state(document, "terminated")
    return f"{ended.get('reason')}, exit code {ended.get('exitCode')}: {ended.get('message') or 'no message'}"
