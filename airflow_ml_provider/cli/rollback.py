"""``airflow-ml rollback``: the rollback step from a shell, for the day when there is no time for a DAG."""

from __future__ import annotations

import getpass
import logging
import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.cli.ledger import add_place

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import StepSpec


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "rollback",
        help="make the champion before this one champion again",
        description="Moves a model's alias back to the champion before the present one, by the ledger, or to a "
        "version that you name, and records who and why. Again goes further back. Killed half-way, the same "
        "command completes it. Needs the store and MLflow, and no Airflow; MLflow's own variables "
        "(MLFLOW_TRACKING_USERNAME, ...) log in. The exit code is 0, or tells the kind of failure: 64 "
        "configuration, 66 data (no such version, or none to go back to), 75 MLflow or the store did not answer.",
    )
    parser.add_argument("model", metavar="MODEL", help="the registered model's name")
    parser.add_argument("--reason", required=True, help="why, for the ledger")
    parser.add_argument("--to", type=int, metavar="VERSION", help="the version to go back to")
    add_place(parser)
    parser.add_argument(
        "--tracking-uri", metavar="URI", default=os.environ.get("MLFLOW_TRACKING_URI", ""),
        help="the MLflow server; MLFLOW_TRACKING_URI when left out",
    )  # fmt: skip
    parser.add_argument(
        "--effective", metavar="MOMENT", default="",
        help="from when on the version counts as champion; from now on when left out",
    )  # fmt: skip
    parser.add_argument(
        "--predictions", metavar="TABLE", action="append", default=[],
        help="list what the version left behind has predicted in this table; may be repeated",
    )  # fmt: skip


def run(options: Namespace) -> int:
    """Roll back and print what was done; gives the exit code."""
    from airflow_ml_provider.contract.errors import MLError
    from airflow_ml_provider.steps.__main__ import report
    from airflow_ml_provider.steps.runner import run_step

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        return report(run_step(_spec(options)))
    except MLError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code


def _spec(options: Namespace) -> StepSpec:
    from airflow_ml_provider.contract.documents import RunOf, StepSpec, Tracking, read_spec
    from airflow_ml_provider.contract.identity import document_digest
    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.registry.ledger import Ledger

    arguments = {
        "model": {"name": options.model, "alias": options.alias},
        "reason": options.reason,
        "to": options.to,
        "effective": options.effective,
        "predictions": [{"name": name} for name in options.predictions],
        "rolled_back_by": _who(),
    }
    # The same command is the same step until it has been done: killed half-way, it finds its own entry.
    concluded = [
        move.entry.sequence for move in Ledger(Store(options.store), options.model).moves() if move.outcome
    ]
    key = document_digest({**arguments, "after": max(concluded, default=0)})[:16]
    spec = StepSpec(
        verb="rollback", store=options.store, arguments=arguments, step_key=f"by-hand-rollback-{key}",
        tracking=Tracking(options.tracking_uri), run=RunOf(triggered_by=_who()),
    )  # fmt: skip
    return read_spec(spec.encode(), source="the command")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In a container the user may have a number alone.
        return f"user {os.getuid()}"
