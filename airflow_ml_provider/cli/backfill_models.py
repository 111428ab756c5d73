"""Which model versions a partition was predicted with because something named them, and what that names now."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from airflow_ml_provider.contract.errors import ConfigError, MLError, TransientError
from airflow_ml_provider.contract.partitions import moment_text, parse_partitions, start_of
from airflow_ml_provider.contract.staleness import Followed
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.history import entry_at, history

_AS_OF = " as of "
_TIMEOUT = (5, 30)


def followed(verb: str, parts: Mapping[str, Any], partition: str) -> Iterator[Followed]:
    """The versions of a predict step that an alias named, now or as of a moment; those that were fixed are not."""
    if verb != "predict":
        return
    selection, model = str(parts.get("selection", "")), parts.get("model") or {}
    for one in parts.get("by_partition") or ():
        if partition in parse_partitions(one["partitions"]).values:
            alias = f"{one['model']['alias']}{_AS_OF}{moment_text(start_of(partition))}"
            yield Followed(one["model"]["name"], alias, int(one["model"]["version"]))
    if _is_pinned(model):
        if _AS_OF in selection:
            yield Followed(model["name"], selection, int(model["version"]))
        elif not selection or selection.endswith(" now"):
            yield Followed(model["name"], model["alias"], int(model["version"]))
    for variant in parts.get("split") or ():
        if _is_pinned(variant["model"]) and not str(variant["name"]).isdigit():
            yield Followed(variant["model"]["name"], variant["name"], int(variant["model"]["version"]))
    for one in parts.get("challengers") or ():
        # Of "champion" it is not known whether it was asked for or is the default beside a fixed version.
        if _is_pinned(one) and one["alias"] != "champion":
            yield Followed(one["name"], one["alias"], int(one["version"]))


class Named:
    """Looks up what names a version now, each once."""

    def __init__(self, store: Store) -> None:
        self._history = cache(lambda name, alias: history(store, name, alias))
        self._version = cache(named_by)

    def version(self, model: Followed, tracking_uri: str) -> int | None:
        """The version: by the ledger as of a moment, else by MLflow; None for none."""
        alias, as_of, moment = model.alias.partition(_AS_OF)
        if not as_of:
            uri = os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri
            return self._version(uri, model.name, alias)
        entry = entry_at(self._history(model.name, alias), start_of(moment))
        return None if entry is None else entry.version


def named_by(uri: str, name: str, alias: str) -> int | None:
    """The version that an alias names, asked of MLflow's REST API; None if it names none.

    The credentials are those of MLflow's own client: MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN.

    :raises MLError: MLflow does not answer, or refuses.
    """
    import requests

    todo = "set MLFLOW_TRACKING_URI and its credentials, or leave models out with --ignore model"
    if not uri.startswith(("http://", "https://")):
        raise ConfigError(f"which version {name}@{alias} is cannot be asked of MLflow at {uri!r}", todo=todo)
    user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
    login = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    try:
        answer = requests.get(
            f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/alias",
            params={"name": name, "alias": alias},
            headers={"Authorization": f"Bearer {token}"} if token and not login else {},
            auth=login,
            verify=os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") != "true",
            timeout=_TIMEOUT,
        )
    except (requests.RequestException, ValueError) as error:
        raise TransientError(f"MLflow at {uri} does not answer: {type(error).__name__}", todo=todo) from None
    if answer.status_code in (400, 404) and "RESOURCE_DOES_NOT_EXIST" in answer.text + _code_of(answer):
        return None
    if (
        answer.status_code == 400
        and "INVALID_PARAMETER_VALUE" in answer.text
        and "alias" in answer.text.lower()
    ):
        return None
    if not answer.ok:
        kind: type[MLError] = ConfigError if answer.status_code in (401, 403) else TransientError
        raise kind(f"MLflow at {uri} answered {answer.status_code} when asked for {name}@{alias}", todo=todo)
    return int(answer.json()["model_version"]["version"])


def _code_of(answer: Any) -> str:
    try:
        return str(answer.json().get("error_code", ""))
    except ValueError:
        return ""


def _is_pinned(value: Any) -> bool:
    return isinstance(value, Mapping) and "alias" in value and value.get("version") is not None
