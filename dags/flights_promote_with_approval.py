"""### A challenger becomes champion when people agree

Compares the challenger with the champion on the same days, and if every gate passes asks for an approval:
the question, with the evidence, is on the run's tab *Required Actions*. Nothing holds a slot meanwhile. Without
an answer within two days the champion stays. Who answered, and why, is in the model's ledger.

Run it by hand, or trigger it from CI: `airflow-ml trigger flights_promote_with_approval --wait`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from airflow_ml_provider import Gate, Table
from airflow_ml_provider.operators import Approval, EvaluateOperator, PromoteOperator

with DAG(
    "flights_promote_with_approval",
    schedule=None,
    params={
        "candidate": Param(
            "flight_delays@challenger",
            type="string",
            title="Candidate",
            description_md="A model by alias (`flight_delays@challenger`) or by version (`flight_delays/3`).",
        ),
        "days": Param(
            "2013-05-01..2013-05-31",
            type="string",
            title="Days",
            description_md="What both models are compared on; days that neither was trained on.",
        ),
        "reason": Param("", type="string", title="Reason", description="Why, for the ledger."),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    doc_md=__doc__,
    tags=["flights", "ml"],
):
    verdict = EvaluateOperator(
        task_id="evaluate",
        candidate="{{ params.candidate }}",
        table=Table("flights_training"),
        partitions="{{ params.days }}",
        gates=[
            Gate("roc_auc", at_least=0.70),
            Gate("roc_auc", worse_by_at_most=0.005),
            Gate("roc_auc", harm_limit=0.0, slice_by="carrier"),
        ],
        behaviour="flights.behaviour",
        slices=["origin", "carrier"],
    )
    PromoteOperator(
        task_id="promote",
        verdict=verdict.output,
        model="flight_delays",
        reason="{{ params.reason }}",
        approval=Approval(deadline="2d", default="reject"),
    )
