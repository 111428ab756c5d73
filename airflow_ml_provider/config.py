"""The provider's section ``[ml]`` of the Airflow configuration, read when it is needed and never at parse.

Options are documented for users in :mod:`airflow_ml_provider.get_provider_info`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ml_provider.contract.errors import ConfigError

if TYPE_CHECKING:
    from airflow_ml_provider.compute.base import Compute
    from airflow_ml_provider.contract.store import Store

SECTION = "ml"
DEFAULT_COMPUTE = "local"
KUBERNETES = "kubernetes"
DEFAULT_CONNECTION = "mlflow_default"
DEFAULT_CACHE = "reuse"
DEFAULT_EXPERIMENT = "{dag_id}"


def store() -> Store:
    """The deployment's store.

    :raises ConfigError: none is configured, or its URI is not usable.
    """
    from airflow_ml_provider.contract.store import Store

    return Store(option("store"))


def compute() -> Compute:
    """The deployment's default compute: ``local``, ``kubernetes``, or a value named as ``package.module:name``.

    :raises ConfigError: it is none of them, or is set up wrongly.
    """
    from airflow_ml_provider.compute import Compute, LocalCompute

    name = option("compute", DEFAULT_COMPUTE)
    if name == DEFAULT_COMPUTE:
        return LocalCompute()
    if name == KUBERNETES:
        return _kubernetes()
    todo = (
        f'set [{SECTION}] compute to "local", to "kubernetes", or to a Compute value as "package.module:name", in '
        "a module that Airflow's workers can import"
    )
    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(f"[{SECTION}] compute = {name!r} names no compute", todo=todo)
    from importlib import import_module

    try:
        value = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"[{SECTION}] compute = {name!r} cannot be loaded: {error}", todo=todo) from error
    if not isinstance(value, Compute):
        raise ConfigError(
            f"[{SECTION}] compute = {name!r} is a {type(value).__name__}, not a Compute", todo=todo
        )
    return value


def _kubernetes() -> Compute:
    import json
    from dataclasses import fields

    from airflow_ml_provider.compute import KubernetesCompute
    from airflow_ml_provider.contract.errors import did_you_mean

    text = option(KUBERNETES)
    todo = (
        f'set [{SECTION}] kubernetes to a JSON document of its fields: {{"image": "...", "namespace": "..."}}'
    )
    try:
        settings = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigError(f"[{SECTION}] kubernetes is not JSON: {error}", todo=todo) from error
    if not isinstance(settings, dict) or not settings.get("image"):
        raise ConfigError(
            f"[{SECTION}] compute is kubernetes, and [{SECTION}] kubernetes names no image", todo=todo
        )
    known = [one.name for one in fields(KubernetesCompute)]
    for name in settings:
        if name not in known:
            raise ConfigError(
                f"[{SECTION}] kubernetes has an unknown field {name!r}", todo=did_you_mean(name, known)
            )
    return KubernetesCompute(**settings)


def mlflow_connection() -> str:
    """The id of the Airflow connection to MLflow."""
    return option("mlflow_conn_id", DEFAULT_CONNECTION)


def experiment(dag_id: str) -> str:
    """The MLflow experiment of a DAG's runs; ``{dag_id}`` in the option stands for the DAG's id."""
    return option("experiment", DEFAULT_EXPERIMENT).replace("{dag_id}", dag_id)


def mlflow_browse_url() -> str:
    """Where people open MLflow, if that is another address than the one in the connection; empty if not."""
    return option("mlflow_browse_url").rstrip("/")


def cache() -> str:
    """How tasks that do not say use what has been computed before: "reuse", "rerun" or "verify"."""
    return option("cache", DEFAULT_CACHE)


def option(name: str, default: str = "") -> str:
    """One option as text, the default where it is not set or empty."""
    from airflow.sdk.configuration import conf

    return str(conf.get(SECTION, name, fallback=default) or default).strip()
