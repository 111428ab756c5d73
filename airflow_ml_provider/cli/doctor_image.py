"""Checks from where steps run: which package is there, and what it can reach."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_ml_provider import __version__
from airflow_ml_provider.cli.doctor_findings import Finding, fail, ok, skip
from airflow_ml_provider.cli.doctor_services import Deployment, stored, versioned
from airflow_ml_provider.compute.base import Launch
from airflow_ml_provider.contract.documents import PROTOCOL
from airflow_ml_provider.contract.errors import ConfigError, MLError

if TYPE_CHECKING:
    from airflow_ml_provider.compute.local import LocalCompute

CHECK = "package"
# Two waits of the check itself, and Python's start on a slow node.
LONGEST_RUN = 90
_SHOWN_LINES = 5
_SECRET = re.compile("PASSWORD|SECRET|TOKEN|KEY", re.IGNORECASE)


@dataclass(frozen=True)
class Probe(Launch):
    """A launch of the check instead of a step."""

    store: str = ""
    planted: str = ""

    @property
    def arguments(self) -> list[str]:
        """What to give to Python."""
        found = ["-m", "airflow_ml_provider.steps.self_check", "--store", self.store]
        return [*found, "--planted", self.planted] if self.planted else found


def probe_of(found: Deployment) -> Probe:
    """A launch with a name of its own, so that no other pod is ever adopted for it."""
    from uuid import uuid4

    from airflow_ml_provider.contract.identity import step_key

    assert found.store is not None
    key = step_key("airflow-ml", "doctor", uuid4().hex)
    uri = f"{found.store.uri}/doctor/{key}/spec.json"
    return Probe(
        key, "doctor", uri, credentials=found.credentials, fingerprint=key, store=found.store.uri,
        planted=found.planted,
    )  # fmt: skip


def check_process(compute: LocalCompute, found: Deployment) -> Iterator[Finding]:
    """Run the check as a step's process beside Airflow."""
    launch = probe_of(found)
    # It has the environment of this process, and whatever it is may print it.
    found.secrets.update(value for name, value in os.environ.items() if _SECRET.search(name))
    python = compute.python or sys.executable
    try:
        done = subprocess.run(
            [python, "-P", *launch.arguments],
            env=compute._environment(launch), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=LONGEST_RUN, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        yield fail(CHECK, f"{python} did not finish the check within {LONGEST_RUN} s", object=python)
        return
    except OSError as error:
        yield fail(
            CHECK,
            f"{python} cannot be started: {error.strerror}",
            "check LocalCompute(python=...)",
            object=python,
        )
        return
    try:
        fix = f"pip install airflow-ml-provider=={__version__} there, the version that runs here"
        yield from judged(done.stdout.decode(errors="replace"), python, found, fix)
    except MLError as error:
        yield fail(CHECK, error, object=python)


def judged(output: str, where: str, found: Deployment, fix: str) -> Iterator[Finding]:
    """What the output of the check means.

    :param where: the image or interpreter, for people.
    :param fix: how to get the right package there.
    :raises ConfigError: there is no package that can be spoken to.
    """
    report = report_in(output)
    if report is None:
        raise _no_report(output, where, fix, shown=not found.unread)
    theirs, protocol = report.get("package"), report.get("protocol")
    if protocol != PROTOCOL:
        raise ConfigError(
            f"{where} has airflow-ml-provider {theirs}, which speaks protocol {protocol}; here is {__version__}, "
            f"which speaks protocol {PROTOCOL}",
            todo=fix,
        )
    yield ok(
        CHECK,
        f"{where} has airflow-ml-provider {theirs} with protocol {protocol}, as here ({__version__}), on Python "
        f"{report.get('python')}",
    )
    assert found.store is not None
    yield stored(
        "store from a step", found.store.uri, report.get("store") or {},
        "give steps access: service_account= with the cloud's identity, or secrets= with its keys",
    )  # fmt: skip
    yield _tracked(report.get("mlflow") or {})


def _tracked(tried: dict[str, Any]) -> Finding:
    check = "MLflow from a step"
    if tried.get("ok") is None:
        return skip(check, str(tried.get("error") or "the image does not tell"))
    if not tried["ok"]:
        return fail(
            check, f"MLflow cannot be used from where steps run: {tried.get('error')}",
            "use an address in the MLflow connection that steps reach too (not localhost), and open the way for them "
            "in NetworkPolicies",
            object="MLFLOW_TRACKING_URI",
        )  # fmt: skip
    return versioned(
        check, "it answers and accepts the step's credentials", str(tried.get("version") or ""), "MLflow"
    )


def report_in(output: str) -> dict[str, Any] | None:
    """The line of the check in an output, whatever else is printed; None if there is none."""
    for line in reversed(output.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and "protocol" in found:
            return found
    return None


def _no_report(output: str, where: str, fix: str, *, shown: bool) -> ConfigError:
    lines = [line for line in output.splitlines() if line.strip()][-_SHOWN_LINES:]
    said = " | ".join(lines) or "nothing"
    if "No module named" in output and "airflow_ml_provider" in output.split("No module named", 1)[1][:40]:
        return ConfigError(f"{where} has no airflow-ml-provider, or one older than 0.1", todo=fix)
    if "unknown option -P" in output.lower() or "Unknown option: -P" in output:
        return ConfigError(f"{where} has a Python older than 3.11", todo="build it on Python 3.11 or newer")
    if not shown:
        said = "what is not shown, since it gets a Secret that may not be read here and so cannot be left out"
    return ConfigError(f"{where} does not run the check; it said: {said}", todo=fix)
