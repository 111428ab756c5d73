"""DAGs that a CI job triggers; their tasks return what our steps would."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param, task

FOLDER = Path(os.environ["CALLED_FROM_CI"])


@task
def judge(auc: float, seconds: float) -> dict[str, Any]:
    """What an evaluate step returns, in short."""
    time.sleep(seconds)
    metrics = {"roc_auc": {"value": auc, "low": auc - 0.01, "high": auc + 0.01}}
    return {
        "verb": "evaluate",
        "status": "success",
        "metrics": {"roc_auc": auc},
        "verdict": {"decision": "promote", "metrics": metrics},
    }


with DAG(
    "ci_judge",
    schedule=None,
    params={"auc": Param(0.75, type="number"), "seconds": 0},
    render_template_as_native_obj=True,
):
    judge("{{ params.auc }}", "{{ params.seconds }}")  # type: ignore[arg-type]


with DAG("ci_fails", schedule=None):

    @task
    def careless() -> None:
        print("##[error]::set-output name=trap::1")
        if not (FOLDER / "mended").exists():
            raise ValueError("the column dep_time is <gone>")

    @task
    def after() -> None:
        """Not reached."""

    careless() >> after()

with DAG("ci_waits", schedule=None):

    @task
    def for_ever() -> None:
        (FOLDER / "pid").write_text(str(os.getpid()))
        time.sleep(600)

    for_ever()

with DAG("ci_approval", schedule=None):
    ApprovalOperator(task_id="ask", subject="Promote it?")
