"""What steps publish, as Airflow assets: schedule a DAG on a table, a model's alias, or drift.

Names and URIs come from the table's or the model's name alone, never from the store or the MLflow server:
the same DAG files make the same assets on a laptop and on a cluster.

An Airflow run with a partition key gives its key to every event of its tasks, and such an event triggers
partition-aware schedules only (``PartitionedAssetTimetable``). :func:`drift_asset` and :func:`retrain_asset`
work for both kinds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ml_provider.contract.models import Model, as_model
from airflow_ml_provider.contract.tables import Table, as_table

if TYPE_CHECKING:
    from airflow.sdk import Asset

# "x-" keeps Airflow from looking for a provider's handler of the scheme, which costs a parse 0.15 s.
SCHEME = "x-airflow-ml"


def table_asset(table: Table | str) -> Asset:
    """A table: an event says that partitions of it were published."""
    return _asset("table", as_table(table, wanted_by="table_asset").name)


def validated_asset(table: Table | str) -> Asset:
    """A table's data quality: an event says that it passed a ValidateOperator; the verdict is on it."""
    return _asset("validated", as_table(table, wanted_by="validated_asset").name)


def model_asset(model: Model | str) -> Asset:
    """An alias of a registered model: an event says that it moved to another version.

    ``model_asset("flight_delays")`` follows the champion, which PromoteOperator moves;
    ``model_asset("flight_delays@challenger")`` each version that TrainOperator registers.
    """
    found = as_model(model, wanted_by="model_asset")
    return _asset("model", found.name, found.alias)


def drift_asset(model: Model | str) -> Asset:
    """A model's drift: an event says that a MonitorOperator found it drifted.

    The asset carries a watcher, since a monitoring run with a partition key cannot itself trigger a DAG that
    is scheduled without partitions: its announcement is picked up from the store by the triggerer. Use this
    function wherever the asset is named; an asset of the same name built by hand would drop the watcher.
    """
    from airflow.sdk import AssetWatcher

    from airflow_ml_provider.triggers.drift import DriftTrigger

    name = as_model(model, wanted_by="drift_asset").name
    watcher = AssetWatcher(name=f"drift of {name}", trigger=DriftTrigger(model=name))
    return _asset("drift", name, watchers=[watcher])


def retrain_asset(model: Model | str) -> Asset:
    """A model's retraining: an event says that a MonitorOperator with ``retrain=`` asks for it, and why.

    Schedule a training DAG on it. The asset carries a watcher, for the same reason as :func:`drift_asset`.
    """
    from airflow.sdk import AssetWatcher

    from airflow_ml_provider.triggers.drift import RetrainTrigger

    name = as_model(model, wanted_by="retrain_asset").name
    watcher = AssetWatcher(name=f"retraining of {name}", trigger=RetrainTrigger(model=name))
    return _asset("retrain", name, watchers=[watcher])


def _asset(kind: str, *parts: str, watchers: list[object] | None = None) -> Asset:
    from urllib.parse import quote

    from airflow.sdk import Asset

    uri = "/".join([f"{SCHEME}://{kind}", *(quote(part, safe="") for part in parts)])
    return Asset(name=f"{kind}:{'@'.join(parts)}", uri=uri, watchers=watchers)  # type: ignore[arg-type]
