"""### The button for a bad day: the champion before this one is champion again

Reads the ledger, moves the alias back, and lists the partitions that the replaced model predicted. With
**Recompute** they are predicted again by the one that is champion then, in one publication.

Say why: the reason is in the ledger, with your name. Pressing it again goes back further.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from airflow_ml_provider import Model, Table
from airflow_ml_provider.operators import PredictOperator, RollbackOperator

with DAG(
    "flights_rollback",
    schedule=None,
    max_active_runs=1,
    params={
        "reason": Param("", type="string", minLength=1, title="Reason", description="Why, for the ledger."),
        "to": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Version",
            description="Which version becomes champion. Empty: the champion before this one.",
        ),
        "effective": Param(
            "",
            type="string",
            title="Counts from",
            description_md="From which moment that version counts as champion in predictions *as of* a date. "
            "Empty: from now.",
        ),
        "recompute": Param(
            False, type="boolean", title="Recompute", description="Predict again what it had predicted."
        ),
    },
    render_template_as_native_obj=True,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    doc_md=__doc__,
    tags=["flights", "ml"],
):
    back = RollbackOperator(
        task_id="rollback",
        model=Model("flight_delays"),
        to="{{ params.to }}",
        reason="{{ params.reason }}",
        effective="{{ params.effective }}",
        predictions=[Table("flight_predictions")],
    )

    @task.short_circuit
    def recompute(output: dict[str, Any], params: dict[str, Any]) -> bool:
        """Whether there is something to predict again, and it was asked for."""
        return bool(params["recompute"] and output["verdict"]["affected_partitions"])

    predict = PredictOperator(
        task_id="predict",
        model=back.output,
        table=Table("flights_to_predict"),
        partitions="{{ ti.xcom_pull('rollback')['verdict']['affected_partitions'] }}",
        publish=Table("flight_predictions"),
    )
    recompute(back.output) >> predict
