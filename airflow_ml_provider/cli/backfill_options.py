"""The options of ``airflow-ml backfill``; imports nothing but what every command does."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.cli.trigger_options import add_connection
from airflow_ml_provider.contract.errors import ConfigError

if TYPE_CHECKING:
    from airflow_ml_provider.cli.backfill_document import Choice

DESCRIPTION = (
    "Says which partitions of a DAG are missing, stale (made from other data, code or model than now) or fine, and "
    "why; runs those that are not through Airflow's API, a few at a time; and says at the end what came of it. Works "
    "for DAGs scheduled by time, by partition and by assets. Credentials come from AIRFLOW_ML_TOKEN, or "
    "AIRFLOW_ML_USER and AIRFLOW_ML_PASSWORD, or --token-command. Exit codes: 0 everything is as asked, 1 something "
    "is not, 2 usage, 64 configuration, 66 data, 70 infrastructure, 75 a service does not answer, 130 interrupted."
)


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("backfill", help="make missing or stale partitions", description=DESCRIPTION)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    plan = actions.add_parser("plan", help="say what is missing, stale or fine, and why; starts nothing")
    run = actions.add_parser("run", help="carry a plan out, or go on with one that was interrupted")
    status = actions.add_parser("status", help="how far the last backfill of a DAG is")
    for one in (plan, run, status):
        _add_common(one, ranged=one is not status)
    for one in (plan, run):
        _add_choice(one)
    plan.add_argument("--all", action="store_true", help="print all lines of a long plan")
    status.add_argument("--plan", default="", metavar="ID", help="the plan, where it is not the DAG's newest")
    status.add_argument("--reconcile", action="store_true", help="plan again, and say what is not as planned")
    run.add_argument("--reason", default="", help="why; stands in the runs' notes and in the report")
    run.add_argument(
        "--max-failures", type=int, default=3, metavar="N", help="stop after N failed runs (3); 0: never"
    )
    run.add_argument("--retry-failed", action="store_true", help="let failed runs of the plan run again")
    run.add_argument(
        "--afresh", action="store_true", help="plan anew instead of going on with an unfinished plan"
    )
    run.add_argument("--dry-run", action="store_true", help="print what would be sent to Airflow")
    run.add_argument("--yes", action="store_true", help="do not ask")
    run.add_argument("--poll", type=float, default=3.0, metavar="SECONDS", help=argparse.SUPPRESS)
    for one in (run, status):
        one.add_argument("--report", default="", metavar="FILE", help="write the reconciliation as Markdown")


def _add_common(parser: argparse.ArgumentParser, *, ranged: bool) -> None:
    parser.add_argument("dag", metavar="DAG")
    parser.add_argument("--from", dest="first", required=ranged, default="", metavar="DATE")
    parser.add_argument("--to", dest="last", required=ranged, default="", metavar="DATE", help="included")
    add_connection(parser)
    parser.add_argument(
        "--store", default="", metavar="URI", help="the deployment's store; AIRFLOW__ML__STORE when left out"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--step", choices=("hour", "day", "month"), default="day", help="a partition's length"
    )
    parser.add_argument(
        "--key-format", default="", metavar="STRFTIME", help="how partitions are named, if not ISO"
    )
    parser.add_argument(
        "--only", default="missing,stale", metavar="STATES", help="what is run: missing,stale,fine"
    )
    parser.add_argument(
        "--events",
        choices=("mute", "emit"),
        default="mute",
        help="whether the runs' asset events go downstream",
    )
    parser.add_argument(
        "--param", action="append", default=[], metavar="K=V", help='of the runs; "{partition}" is filled in'
    )
    parser.add_argument("--wave", type=int, default=5, metavar="N", help="runs at once (5)")
    parser.add_argument(
        "--code", action="append", default=[], metavar="FOLDER", help="the user's code as it is now"
    )
    parser.add_argument("--strict", action="store_true", help="what may be stale counts as stale")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="PART",
        help="a part that does not count: code, package, data, model, publication, or an argument's name",
    )  # fmt: skip


def choice_of(options: argparse.Namespace) -> Choice:
    """What was asked for.

    :raises ConfigError: an option's value cannot be.
    """
    from airflow_ml_provider.cli.backfill_document import Choice
    from airflow_ml_provider.contract.staleness import STATES

    if options.wave < 1:
        raise ConfigError(f"--wave is {options.wave}", todo="at least one run at a time")
    only = tuple(state.strip() for state in options.only.split(",") if state.strip())
    if not only or not {*only} <= {*STATES}:
        raise ConfigError(f"--only {options.only!r} names no states", todo="name some of missing,stale,fine")
    conf = {}
    for given in options.param:
        name, equals, value = given.partition("=")
        if not name or not equals:
            raise ConfigError(f"--param {given!r} is not NAME=VALUE")
        conf[name] = _value(value)
    return Choice(
        dag_id=options.dag,
        first=options.first,
        last=options.last,
        step=options.step,
        key_format=options.key_format,
        only=tuple(state for state in STATES if state in only),
        events=options.events,
        conf=conf,
        strict=options.strict,
        ignore=tuple(sorted(options.ignore)),
    )


def _value(text: str) -> Any:
    """A parameter: JSON where it is a number, true, false, null, a list or an object, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
