"""What registered model versions refer to: asked of MLflow, which must answer before anything is removed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from airflow_ml_provider.contract.errors import TransientError

_TAG = "airflow_ml."
_TIMEOUT = (5, 60)
_PAGE = 500


class Version(NamedTuple):
    """A registered version, and what its tags name: its step, its fingerprint, tables at their versions."""

    name: str
    step_key: str
    fingerprint: str
    tables: tuple[tuple[str, int], ...]


def versions(uris: Iterable[str]) -> list[Version]:
    """All versions of all models, of several servers.

    :raises TransientError: one does not answer, or not as MLflow does; unknown is not unused.
    """
    return [version for uri in uris for version in _of(uri)]


def _of(uri: str) -> Iterator[Version]:
    token = ""
    while True:
        query = {"max_results": str(_PAGE), **({"page_token": token} if token else {})}
        answer = _get(uri, query)
        for found in answer.get("model_versions", []):
            yield _version(found)
        token = answer.get("next_page_token", "")
        if not token:
            return


def _version(found: dict[str, Any]) -> Version:
    tags = {tag["key"].removeprefix(_TAG): str(tag["value"]) for tag in found.get("tags", [])}
    tables = []
    for named in tags.get("tables", "").split(","):
        name, _, version = named.strip().partition("@")
        if name and version.isdigit():
            tables.append((name, int(version)))
    named = f"{found['name']}/{found['version']}"
    return Version(named, tags.get("step_key", ""), tags.get("fingerprint", ""), tuple(tables))


def _get(uri: str, query: dict[str, str]) -> dict[str, Any]:
    import requests

    user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
    try:
        answer = requests.get(
            f"{uri.rstrip('/')}/api/2.0/mlflow/model-versions/search",
            params=query,
            headers={"Authorization": f"Bearer {token}"} if token and not user else {},
            auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
            verify=os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") != "true",
            timeout=_TIMEOUT,
        )
        answer.raise_for_status()
        document = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise TransientError(
            f"MLflow at {uri} was asked for its model versions, and did not answer: {type(error).__name__}",
            kept="everything: what models refer to is unknown, so nothing was removed",
            todo="name the server with --tracking-uri, and its credentials by MLFLOW_TRACKING_USERNAME and _PASSWORD",
        ) from None
    if not isinstance(document, dict):
        raise TransientError(f"MLflow at {uri} answered with something else than its model versions")
    return document
