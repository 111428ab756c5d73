"""One application for a step: the one that runs already, or a new one, and never two.

As with pods the name is the claim. What is deleted has to be gone with its driver before there is another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.compute import credentials, pod_end, pod_memory, pod_spec
from airflow_ml_provider.compute.kubernetes_errors import api_error, is_unknown
from airflow_ml_provider.compute.spark_application import GROUP, PLURAL, VERSION
from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError, TransientError

if TYPE_CHECKING:
    from airflow_ml_provider.compute.spark_run import SparkRun

log = logging.getLogger("airflow_ml_provider.compute")

_ATTEMPTS = 6
_TERMINATING = 120
_LOOK_EVERY = 1.0
# States of an application that will not run any more; restartPolicy is Never.
ENDED = ("COMPLETED", "FAILED", "SUBMISSION_FAILED")


class NoDriver(Exception):
    """The application is over or gone, and there is no driver to wait for."""


def obtain(run: SparkRun, request: Mapping[str, Any]) -> Any:
    """The pod of a step's driver, as it is in the cluster.

    :param request: the application to make if there is none.
    :raises NoDriver: it ended without one, or its driver was removed.
    :raises MLError: the cluster refuses it, or it is unknown whether there is one.
    """
    failure: Exception | None = None
    for attempt in range(_ATTEMPTS):
        found = run.read()
        if found is None:
            # One that an application left behind would write together with the next.
            _await_gone(run)
            try:
                found = _create(run, request)
                log.info("created SparkApplication %s in namespace %s", run.application, run.namespace)
            except Exception as error:
                failure = error
                if not is_unknown(error):
                    raise _refused(run, error) from None
                # It may have been created all the same, or by another submission of this step: look again.
                run.cluster.pause(error, attempt)
                continue
        elif not _is_current(run, found):
            _remove(run, found)
            continue
        else:
            log.info("adopted SparkApplication %s, state %s", run.application, state_of(found) or "new")
        _let_go(run, found)
        return _driver(run)
    raise api_error(
        failure or RuntimeError("it keeps being replaced"), "create", PLURAL, run.application, run.namespace
    )


def state_of(application: Mapping[str, Any]) -> str:
    """Its state as the Spark operator gives it; empty while the operator has not seen it."""
    return str(((application.get("status") or {}).get("applicationState") or {}).get("state") or "")


def message_of(application: Mapping[str, Any]) -> str:
    """What the Spark operator says of its end."""
    state = (application.get("status") or {}).get("applicationState") or {}
    return " ".join(str(state.get("errorMessage") or "").split())


def _create(run: SparkRun, request: Mapping[str, Any]) -> Mapping[str, Any]:
    created: Mapping[str, Any] = run.cluster.hook.custom_object_client.create_namespaced_custom_object(
        GROUP, VERSION, run.namespace, PLURAL, dict(request)
    )
    return created


def _is_current(run: SparkRun, application: Mapping[str, Any]) -> bool:
    """Whether an application of this name does what is asked for now, and is worth waiting for."""
    metadata = application["metadata"]
    if metadata.get("deletionTimestamp"):
        log.info("SparkApplication %s of an earlier try is still ending; waiting for it", run.application)
        return False
    if (metadata.get("annotations") or {}).get(pod_spec.FINGERPRINT) != run.launch.fingerprint:
        log.info(
            "SparkApplication %s computes something else than is asked for now; it is replaced",
            run.application,
        )
        return False
    driver = run.find()
    document = run.cluster.document(driver) if driver is not None else {}
    ended = pod_end.is_over(document) if driver is not None else state_of(application) in ENDED
    going = driver is not None and driver.metadata.deletion_timestamp is not None
    if (ended or going) and run.folder.read("result.json") is None:
        if pod_end.ran_out_of_memory(document):
            pod_memory.note(run.folder, run.compute.memory_growth, document)
        log.info("SparkApplication %s has ended without a result; it is replaced", run.application)
        return False
    return True


def _remove(run: SparkRun, application: Mapping[str, Any]) -> None:
    """Delete an application, and wait until it and its driver are gone."""
    metadata = application["metadata"]
    if not metadata.get("deletionTimestamp"):
        run.delete(uid=metadata["uid"])
    _await_gone(run, metadata["uid"])


def _await_gone(run: SparkRun, uid: str = "") -> None:
    """Wait until there is no driver and no application of ``uid``; a driver without an application is deleted."""
    until = time.monotonic() + _TERMINATING
    while True:
        # In this order: an application is older than its driver.
        driver, application = run.find(), run.read()
        if application is not None and application["metadata"]["uid"] != uid:
            # Another submission of this step was faster; the next look finds its application.
            return
        if application is None and driver is None:
            return
        if application is None and driver is not None and driver.metadata.deletion_timestamp is None:
            run.cluster.delete_pod(run.name, uid=driver.metadata.uid)
        if time.monotonic() > until:
            raise TransientError(
                f"SparkApplication {run.application!r} in namespace {run.namespace!r} of an earlier try does not end, "
                f"or its driver {run.name!r} does not",
                kept="nothing was started: two of them might write at once",
                retry="a retry waits for it again",
                todo=f"once it surely runs no more: kubectl delete pod {run.name} -n {run.namespace} --force",
            )
        time.sleep(1)


def _let_go(run: SparkRun, application: Mapping[str, Any]) -> None:
    """Give an application its credentials, and have it submitted. Of a spec nothing else is ever changed: the Spark
    operator would start it anew.
    """
    if not run.launch.credentials or state_of(application) in ENDED:
        return
    metadata = application["metadata"]
    owner = SimpleNamespace(
        metadata=SimpleNamespace(name=run.application, namespace=run.namespace, uid=metadata["uid"])
    )
    values = run.launch.credentials
    credentials.provide(run.cluster, owner, application["apiVersion"], application["kind"], values)
    if (application.get("spec") or {}).get("suspend"):
        run.ask("patch", "patch_namespaced_custom_object", body={"spec": {"suspend": False}})


def _driver(run: SparkRun) -> Any:
    """The driver's pod, once there is one."""
    began, said = time.monotonic(), "new"
    while True:
        pod, application = run.find(), run.read()
        if pod is not None:
            return pod
        if application is None:
            raise NoDriver("it was deleted")
        state = state_of(application)
        if state in ENDED:
            raise NoDriver(state)
        if state and state != said:
            said = state
            log.info("SparkApplication %s: %s", run.application, state)
        waited = time.monotonic() - began
        if waited > run.compute.start_timeout:
            run.delete()
            raise InfrastructureError(
                f"SparkApplication {run.application!r} in namespace {run.namespace!r} has no driver after "
                f"{waited:.0f} s; the Spark operator says: {state or 'nothing'}",
                kept="nothing was started",
                todo="see that a Spark operator runs and looks at this namespace, and what its log says, or wait "
                "longer with start_timeout=",
            )
        time.sleep(_LOOK_EVERY)


def _refused(run: SparkRun, error: Exception) -> Exception:
    known = api_error(error, "create", PLURAL, run.application, run.namespace)
    if getattr(error, "status", None) == 404 and "namespaces" not in known.what:
        return ConfigError(
            f"the cluster knows no SparkApplications ({GROUP}/{VERSION}): {known.what}",
            kept="nothing was started",
            todo="install the Spark operator (kubeflow's Helm chart, 2.4 or newer) in it",
        )
    return known
