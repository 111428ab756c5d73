"""``python -m airflow_ml_provider.steps.self_check --store URI``: what a step would find here, as one line of JSON.

``airflow-ml doctor`` runs it where steps run, and reads it with a package that may be of another age: fields are
added to the line and never change their meaning. Nothing secret is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from airflow_ml_provider import __version__
from airflow_ml_provider.contract.documents import PROTOCOL
from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError, MLError
from airflow_ml_provider.contract.store import Store

FOLDER = "doctor"
# A storage client that finds no server or no credentials asks for minutes; a person waits for this.
PATIENCE = 30.0
_TIMEOUT = (5, 15)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; always 0, since it is the report that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m airflow_ml_provider.steps.self_check")
    parser.add_argument("--store", required=True, help="URI of the store")
    parser.add_argument("--planted", default="", help="a document that Airflow's side wrote into the store")
    options = parser.parse_args(argv)
    print(json.dumps(report(options.store, options.planted, os.environ)), flush=True)
    return 0


def report(store: str, planted: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The version of this package, its protocol, and whether the store and MLflow can be used from here."""
    return {
        "package": __version__,
        "protocol": PROTOCOL,
        "python": platform.python_version(),
        "store": within(PATIENCE, lambda: try_store(store, planted)),
        "mlflow": within(PATIENCE, lambda: try_mlflow(environment)),
    }


def try_store(uri: str, planted: str = "") -> dict[str, Any]:
    """Write, read, create (and be refused the second time) and delete a small document.

    :param planted: path of a document that must be there already: another side writes to the same store.
    :returns: ``ok``, ``seconds`` of each of them; or ``doing``, ``error`` and ``next``.
    """
    store, seconds, doing = Store(uri), {}, ""
    written, created = (f"{FOLDER}/{uuid4().hex}.json" for _ in range(2))

    def timed(what: str, work: Callable[[], Any]) -> Any:
        nonlocal doing
        doing, began = what, time.monotonic()
        found = work()
        seconds[what] = round(time.monotonic() - began, 4)
        return found

    try:
        if planted and timed("find", lambda: store.read(planted)) is None:
            raise ConfigError(
                f"{store.uri} is another store here than where Airflow runs: what Airflow wrote is not in it",
                todo="use object storage, or mount the same volume at the same path on both sides",
            )
        timed("write", lambda: store.write(written, b"{}"))
        if timed("read", lambda: store.read(written)) != b"{}":
            raise InfrastructureError(f"{store.uri} does not give back what was just written")
        first = timed("create", lambda: store.create(created, b"{}"))
        if not first or timed("create again", lambda: store.create(created, b"{}")):
            raise ConfigError(
                f"{store.uri} lets a document be created twice, so that two steps could publish the same version",
                todo="use a storage with conditional writes (If-None-Match)",
            )
        timed("delete", lambda: store.delete(written))
        store.delete(created)
    except MLError as error:
        for path in (written, created):
            with suppress(MLError):
                store.delete(path)
        return {"ok": False, "doing": doing, "error": error.what, "next": error.todo}
    return {"ok": True, "seconds": seconds}


def try_mlflow(environment: Mapping[str, str]) -> dict[str, Any]:
    """Whether the MLflow that the environment names answers and lets us in, and its version.

    :returns: ``ok`` is None where the environment names none that is reached by HTTP.
    """
    uri = environment.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if urlsplit(uri).scheme not in ("http", "https"):
        return {"ok": None, "error": "MLFLOW_TRACKING_URI names no tracking server"}
    import requests

    user, token = environment.get("MLFLOW_TRACKING_USERNAME"), environment.get("MLFLOW_TRACKING_TOKEN")
    insecure = environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    how: dict[str, Any] = {
        "auth": (user, environment.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
        "headers": {"Authorization": f"Bearer {token}"} if token and not user else {},
        "verify": not insecure and (environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True),
    }
    try:
        answer = requests.get(f"{uri}/version", timeout=_TIMEOUT, **how)
        version = answer.text.strip() if answer.status_code == 200 else ""
        asked = requests.get(
            f"{uri}/api/2.0/mlflow/experiments/search", params={"max_results": "1"}, timeout=_TIMEOUT, **how
        )
    except requests.RequestException as error:
        # Its text may hold the address with credentials in it.
        return {"ok": False, "error": f"it is not reachable: {type(error).__name__}"}
    found = {"version": version if version[:1].isdigit() and len(version) < 40 else ""}
    if asked.status_code != 200:
        return {**found, "ok": False, "error": f"it answers HTTP {asked.status_code}"}
    return {**found, "ok": True}


def within(seconds: float, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What came of it, or that it took too long or failed in a way nobody thought of."""
    found: list[dict[str, Any]] = []

    def run() -> None:
        try:
            found.append(work())
        except MLError as error:
            found.append({"ok": False, "error": error.what, "next": error.todo})
        except Exception as error:
            found.append({"ok": False, "error": f"{type(error).__name__}: {str(error)[:300]}"})

    # Not waited for at the end of the process.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else {"ok": False, "error": f"there was no answer within {seconds:.0f} s"}


if __name__ == "__main__":
    sys.exit(main())
