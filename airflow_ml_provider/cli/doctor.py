"""``airflow-ml doctor``: checks a deployment before anything runs on it. It runs where Airflow runs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.cli.doctor_findings import Finding, fail, skip

if TYPE_CHECKING:
    from airflow_ml_provider.cli.doctor_services import Deployment
    from airflow_ml_provider.compute import KubernetesCompute

_HERE_IS_NO_AIRFLOW = fail(
    "Airflow",
    "the doctor runs where Airflow runs, and here is no Airflow",
    'pip install "airflow-ml-provider[airflow,kubernetes]", or run it in the scheduler\'s container',
)


def run(options: Namespace) -> int:
    """Print the report; gives the exit code: 0 when nothing failed, else 1."""
    findings: list[Finding] = []
    output = sys.stdout
    # What Airflow and its libraries print is not part of the report.
    with contextlib.redirect_stdout(sys.stderr):
        for finding in diagnose(options.compute, pod=not options.no_pod):
            findings.append(finding)
            if not options.json:
                print(finding.line(), file=output, flush=True)
    failed = sum(finding.status == "FAIL" for finding in findings)
    if options.json:
        checks = [finding.document() for finding in findings]
        print(json.dumps({"ok": not failed, "checks": checks}, indent=1), file=output)
    elif failed:
        print(f"{failed} of {len(findings)} checks failed", file=output)
    return 1 if failed else 0


def diagnose(compute: str = "", *, pod: bool = True) -> Iterator[Finding]:
    """The findings, each as it comes, without secrets.

    :param compute: as in ``[ml] compute``; the configured one when empty.
    :param pod: also run the check that steps could be run, as a step: a pod, or a process.
    """
    if find_spec("airflow") is None:
        yield _HERE_IS_NO_AIRFLOW
        return
    with _as_airflow(compute):
        from airflow_ml_provider.cli.doctor_services import Deployment

        found = Deployment()
        try:
            for finding in _checks(found, pod):
                yield finding.without(found.secrets)
        except Exception as error:
            said = f"a check ended by itself: {type(error).__name__}: {error}"
            yield fail("doctor", said, "report it, with what is above").without(found.secrets)
        finally:
            with contextlib.suppress(Exception):
                found.remove_planted()


def _checks(found: Deployment, pod: bool) -> Iterator[Finding]:
    from airflow_ml_provider.cli import doctor_services as services
    from airflow_ml_provider.compute import KubernetesCompute, LocalCompute

    for check in (services.configuration, services.storage, services.mlflow):
        yield from check(found)
    if found.compute is None or found.store is None:
        yield skip("compute", "needs a configuration with a store and a compute")
    elif isinstance(found.compute, KubernetesCompute):
        yield from _kubernetes(found.compute, found, pod)
    elif not pod:
        yield skip("package", "left out by --no-pod")
    elif isinstance(found.compute, LocalCompute):
        from airflow_ml_provider.cli.doctor_image import check_process

        yield from check_process(found.compute, found)
    else:
        yield skip(
            "image", f"the doctor does not know how to run a check in a {type(found.compute).__name__}"
        )


def _kubernetes(compute: KubernetesCompute, found: Deployment, pod: bool) -> Iterator[Finding]:
    from airflow_ml_provider.cli import doctor_cluster
    from airflow_ml_provider.cli.doctor_image import probe_of
    from airflow_ml_provider.cli.doctor_pod import check_pod

    if find_spec("kubernetes") is None:
        yield fail(
            "Kubernetes", "Airflow's Kubernetes provider is not installed here",
            'pip install "airflow-ml-provider[airflow,kubernetes]"',
        )  # fmt: skip
        return
    from airflow_ml_provider.compute.pods import StepPod

    step = StepPod(compute, probe_of(found))
    missing = yield from doctor_cluster.cluster_checks(step, found)
    needed = [*doctor_cluster.POD_NEEDS, *(doctor_cluster.CREDENTIALS_NEED if found.credentials else ())]
    if not pod:
        yield skip("package", "left out by --no-pod")
    elif missing is None:
        yield skip("package", "no pod can be made for it")
    elif lacking := [one for one in needed if one in missing]:
        yield skip("package", f"needs the permission to {', '.join(lacking)}")
    else:
        yield from check_pod(step, found)


@contextlib.contextmanager
def _as_airflow(compute: str) -> Iterator[None]:
    """As a process of Airflow's that finds connections in its database too, and ends as Ctrl-C does it."""
    # As `airflow connections test` does it. Elsewhere than at a server the database may not answer: no harm.
    changes = {"_AIRFLOW_PROCESS_CONTEXT": "server", **({"AIRFLOW__ML__COMPUTE": compute} if compute else {})}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    handler: Any = None
    with contextlib.suppress(ValueError):
        handler = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
        logging.disable(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _end(number: int, _: Any) -> None:
    # Through every `finally`: the pod is removed.
    raise SystemExit(128 + number)
