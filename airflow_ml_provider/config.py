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
DEFAULT_CONNECTION = "mlflow_default"
DEFAULT_EXPERIMENT = "{dag_id}"


def store() -> Store:
    """The deployment's store.

    :raises ConfigError: none is configured, or its URI is not usable.
    """
    from airflow_ml_provider.contract.store import Store

    return Store(option("store"))


def compute() -> Compute:
    """The deployment's default compute: ``local``, or a value named as ``package.module:name``.

    :raises ConfigError: it is neither.
    """
    from airflow_ml_provider.compute import Compute, LocalCompute

    name = option("compute", DEFAULT_COMPUTE)
    if name == DEFAULT_COMPUTE:
        return LocalCompute()
    todo = (
        f'set [{SECTION}] compute to "local", or to a Compute value as "package.module:name", in a module '
        "that Airflow's workers can import"
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


def mlflow_connection() -> str:
    """The id of the Airflow connection to MLflow."""
    return option("mlflow_conn_id", DEFAULT_CONNECTION)


def experiment(dag_id: str) -> str:
    """The MLflow experiment of a DAG's runs; ``{dag_id}`` in the option stands for the DAG's id."""
    return option("experiment", DEFAULT_EXPERIMENT).replace("{dag_id}", dag_id)


def mlflow_browse_url() -> str:
    """Where people open MLflow, if that is another address than the one in the connection; empty if not."""
    return option("mlflow_browse_url").rstrip("/")


def option(name: str, default: str = "") -> str:
    """One option as text, the default where it is not set or empty."""
    from airflow.sdk.configuration import conf

    return str(conf.get(SECTION, name, fallback=default) or default).strip()
