"""A retraining that a monitor step asked for, as an event that any DAG can be scheduled on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from airflow_ml_provider import config
from airflow_ml_provider.assets import retrain_asset
from airflow_ml_provider.operators import events, runs
from airflow_ml_provider.triggers import announcements

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from airflow_ml_provider.contract.documents import StepResult
    from airflow_ml_provider.contract.models import Model
    from airflow_ml_provider.contract.retraining import Retrain
    from airflow_ml_provider.operators.pins import Pins


def pinned_rules(rules: Retrain | None, pins: Pins, context: Context) -> Retrain | None:
    """The rules with their table pinned; none in a run that tells nothing.

    A request that nobody hears of would hold back those that are meant.
    """
    if rules is None or events.is_muted(context):
        return None
    return msgspec.structs.replace(rules, count=pins.table(rules.count)) if rules.count else rules


def announce_retraining(operator: BaseOperator, model: Model, result: StepResult, context: Context) -> None:
    """An event for a retraining that was asked for; reaches schedules with partitions and without."""
    decision = (result.verdict or {}).get("retraining") or {}
    asked = bool(decision.get("asked"))
    extra = {
        "model": model.name,
        "version": decision.get("model", {}).get("version"),
        "request": decision.get("request"),
        "partitions": (result.verdict or {}).get("partitions"),
        "reasons": [reason["because"] for reason in decision.get("reasons", ())],
        "rules": [reason["rule"] for reason in decision.get("reasons", ())],
        "step_key": result.step_key,
    }
    if asked and runs.partition_key_of(context) is not None and not events.is_muted(context):
        # An event with a partition key triggers no schedule without partitions: see DriftTrigger.
        announcements.post(config.store(), model.name, result.step_key, extra, "retrain")
    events.tell_if(asked, operator, retrain_asset(model), extra, context)
