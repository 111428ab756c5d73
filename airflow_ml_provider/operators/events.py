"""Asset events: what is told to whoever is scheduled on a table, a model or drift, and when nothing is.

Airflow emits an event for every outlet that a task has when it succeeds. So a step that changed nothing
takes the outlet off its task in the worker, at run time; the DAG's asset graph still shows it.

Events are told at least once: a task that is tried again, or cleared, cannot tell whether the event of a try
before it was lost with its worker, so it tells it (again).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_ml_provider import config
from airflow_ml_provider.assets import drift_asset, model_asset, table_asset
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.operators import runs
from airflow_ml_provider.triggers import announcements

if TYPE_CHECKING:
    from airflow.sdk import Asset, BaseOperator, Context

    from airflow_ml_provider.contract.documents import StepResult
    from airflow_ml_provider.operators.base import StepOperator

# In a DAG run's conf: its tasks emit no asset events.
MUTE = "mute_events"
_PLAIN = (str, int, float, bool)
_MOST_ITEMS = 10


def announce(operator: StepOperator, result: StepResult, context: Context) -> None:
    """What a step has to tell; nothing, not even of the DAG author's own outlets, in a run that is mute."""
    operator.announce(result, context)
    if is_muted(context):
        operator.outlets = []


def announce_table(operator: BaseOperator, result: StepResult, context: Context) -> None:
    """An event for the published table, with version, partitions, rows and the audit's verdict."""
    published = result.table
    if published is None:
        return
    extra = {
        "table": published.name,
        "version": published.version,
        "partitions": published.partitions,
        "rows": published.rows,
        "changed": published.changed,
        "step_key": result.step_key,
        "verdict": brief(result.verdict),
    }
    asset = table_asset(published.name)
    tell_if(published.changed or runs.was_tried_before(context), operator, asset, extra, context)


def announce_model(
    operator: BaseOperator, result: StepResult, context: Context, *, moved: bool, alias: str
) -> None:
    """An event for a model's alias that moved, with the version it moved to."""
    model = result.model
    if model is None:
        return
    extra = {
        "model": model.name,
        "alias": alias,
        "version": model.version,
        "mlflow_run_id": model.run_id,
        "step_key": result.step_key,
        "verdict": brief(result.verdict),
    }
    asset = model_asset(Model(model.name, alias))
    tell_if(moved, operator, asset, extra, context)


def announce_drift(
    operator: BaseOperator, model: Model, partitions: str, result: StepResult, context: Context
) -> None:
    """An event for a model that has drifted; reaches schedules with partitions and without."""
    drifted = bool((result.verdict or {}).get("drifted"))
    extra = {
        "model": model.name,
        "partitions": partitions,
        "step_key": result.step_key,
        "verdict": brief(result.verdict),
    }
    if drifted and runs.partition_key_of(context) is not None and not is_muted(context):
        # An event with a partition key triggers no schedule without partitions: see DriftTrigger.
        announcements.post(config.store(), model.name, result.step_key, extra)
    tell_if(drifted, operator, drift_asset(model), extra, context)


def tell_if(
    happened: bool, operator: BaseOperator, asset: Asset, extra: Mapping[str, Any], context: Context
) -> None:
    """Put facts on an outlet's event, or withhold the event: of nothing, or in a run that was asked to be mute."""
    if happened and not is_muted(context):
        reused = getattr(operator, "reused_from", "")
        told = {**extra, "reused": reused or None}
        known = {name: value for name, value in told.items() if value not in (None, {})}
        context["outlet_events"][asset].extra = known
    else:
        operator.outlets = [outlet for outlet in operator.outlets if outlet != asset]


def is_muted(context: Context) -> bool:
    """Whether the DAG run was triggered with ``mute_events``: a backfill that is to start nothing downstream."""
    conf = getattr(context.get("dag_run"), "conf", None)
    return isinstance(conf, Mapping) and conf.get(MUTE) is True


def brief(verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    """The part of a verdict that fits on an event: its plain values, and the first of lists of them."""
    found: dict[str, Any] = {}
    for name, value in (verdict or {}).items():
        if isinstance(value, _PLAIN):
            found[name] = value
        elif isinstance(value, (list, tuple)) and all(isinstance(item, _PLAIN) for item in value):
            found[name] = list(value[:_MOST_ITEMS])
    return found
