"""Checks of what every deployment has: its configuration, its store, MLflow."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow_ml_provider.cli.doctor_findings import Finding, fail, ok, skip, took
from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.steps import self_check

if TYPE_CHECKING:
    from airflow_ml_provider.compute.base import Compute

OLDEST_MLFLOW = 3
_PROVEN_MLFLOW = "3.17"
_UPGRADE = f"upgrade the server to MLflow {_PROVEN_MLFLOW} or newer, and its database by `mlflow db upgrade`"


@dataclass
class Deployment:
    """What the checks learn of a deployment, for those that come after.

    :param credentials: what a step gets in its environment.
    :param planted: a document in the store for another side to find; empty if the store cannot be written.
    :param secrets: values that must not be shown.
    :param unread: a step gets secrets that are unknown here, so that nothing it prints is shown.
    """

    store: Store | None = None
    compute: Compute | None = None
    credentials: dict[str, str] = field(default_factory=dict)
    planted: str = ""
    secrets: set[str] = field(default_factory=set)
    unread: bool = False

    def remove_planted(self) -> None:
        """Leave nothing behind."""
        if self.store and self.planted:
            self.store.delete(self.planted)


Findings = Generator[Finding, None, None]


def configuration(found: Deployment) -> Findings:
    """That the settings name a store and a compute."""
    from airflow_ml_provider import config

    try:
        found.store = config.store()
        yield ok("configuration", f"[ml] store is {found.store.uri}")
    except MLError as error:
        yield fail("configuration", error, object="[ml] store")
    try:
        found.compute = config.compute()
        yield ok("configuration", f"[ml] compute is {type(found.compute).__name__}")
    except MLError as error:
        yield fail("configuration", error, object="[ml] compute")


def storage(found: Deployment) -> Findings:
    """That the store can be used from here; leaves a document for the other side to find."""
    if found.store is None:
        yield skip("store", "none is configured")
        return
    store, uri = found.store, found.store.uri
    tried = self_check.within(self_check.PATIENCE, lambda: self_check.try_store(uri))
    if tried["ok"]:
        path = f"{self_check.FOLDER}/planted-{uuid4().hex}.json"
        try:
            store.write(path, b"{}")
            found.planted = path
        except MLError as error:
            tried = {"ok": False, "error": error.what, "next": error.todo, "doing": "write"}
    yield stored("store", uri, tried, "give the identity of this process read and write access to it")


def stored(check: str, uri: str, tried: dict[str, Any], todo: str) -> Finding:
    """What came of a store's trial, here or where steps run."""
    if tried.get("ok"):
        seconds = tried.get("seconds") or {}
        return ok(
            check, f"{uri} can be written, read, created in once, deleted ({took(seconds)})", seconds=seconds
        )
    doing, error = tried.get("doing", ""), str(tried.get("error"))
    what = error if uri in error else f"{uri}: {error}"
    return fail(check, what, tried.get("next") or todo, object=uri, verb=doing)


def mlflow(found: Deployment) -> Findings:
    """That MLflow answers, lets us in, and is of a version that works."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    from airflow_ml_provider.hooks.mlflow import MlflowHook

    hook = MlflowHook()
    named = f"connection {hook.mlflow_conn_id}"
    try:
        environment = hook.environment()
    except MLError as error:
        absent = isinstance(error.__cause__, AirflowNotFoundException)
        where = _not_asked(hook.mlflow_conn_id) if absent else ""
        yield fail("MLflow", error.what + where, error.todo, object=named)
        return
    found.credentials = environment
    found.secrets.update(
        environment[name]
        for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
        if name in environment
    )
    uri = hook.tracking_uri
    answers, said = hook.test_connection()
    if not answers:
        yield fail(
            "MLflow", said, f"check that it runs, and the address, login and password (or token) of the {named}",
            object=named, verb="search experiments",
        )  # fmt: skip
        return
    tried = self_check.within(self_check.PATIENCE, lambda: self_check.try_mlflow(environment))
    yield versioned(
        "MLflow", f"{uri} answers and accepts the {named}", str(tried.get("version") or ""), named
    )


def versioned(check: str, what: str, version: str, named: str) -> Finding:
    """Whether a server's version is one that works."""
    supported = f"supported: {OLDEST_MLFLOW}.0 or newer, proven with {_PROVEN_MLFLOW}"
    number = re.match(r"\d+", version)
    if number is None:
        return fail(
            check, f"{what}, but does not tell its version at /version; {supported}", _UPGRADE, object=named
        )
    if int(number[0]) < OLDEST_MLFLOW:
        return fail(check, f"{what}, but is MLflow {version}; {supported}", _UPGRADE, object=named)
    return ok(check, f"{what}, version {version} ({supported})")


def _not_asked(conn_id: str) -> str:
    """Whether a connection was not found because Airflow's database, where it may be, could not be asked."""
    from airflow.secrets.metastore import MetastoreBackend

    try:
        MetastoreBackend().get_connection(conn_id)
    except Exception as error:
        return (
            f" in the environment or a secrets backend, and Airflow's database could not be asked from here "
            f"({type(error).__name__}): run the doctor where the scheduler or the API server runs"
        )
    return ""
