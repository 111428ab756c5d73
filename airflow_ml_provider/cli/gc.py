"""``airflow-ml gc``: removes from the store what nothing refers to any more."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_ml_provider.cli.gc_plan import Plan
    from airflow_ml_provider.contract.store import Store

_LEAST = 86_400


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "gc",
        help="remove what nothing refers to any more",
        description="Removes from the store runs' folders, what is known of earlier work, packed code and partitions "
        "kept aside, when they are older than an age and nothing refers to them: no registered model version, no "
        "ledger, no partition as it is now, no run that is kept. With --tables also files of tables that neither "
        "the newest version needs nor one that a model or a kept run has read. Interrupted, it is run again. "
        "When MLflow does not answer nothing is removed. The exit code is 0, or tells the kind of failure: 64 "
        "configuration, 75 MLflow or the store did not answer.",
    )
    parser.add_argument(
        "--store", metavar="URI", default=os.environ.get("AIRFLOW__ML__STORE", ""),
        help="the deployment's store; AIRFLOW__ML__STORE when left out",
    )  # fmt: skip
    parser.add_argument(
        "--older-than", metavar="AGE", default="30d",
        help='"30d": longer than the longest step runs, and at least a day; 30d when left out',
    )  # fmt: skip
    parser.add_argument(
        "--tracking-uri", metavar="URI", default=os.environ.get("MLFLOW_TRACKING_URI", ""),
        help="the MLflow server; MLFLOW_TRACKING_URI, else all that steps have used",
    )  # fmt: skip
    parser.add_argument("--tables", action="store_true", help="sweep the tables' files, too")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be removed")


def run(options: Namespace) -> int:
    """Collect, and tell; gives the exit code."""
    from airflow_ml_provider.contract.errors import MLError

    try:
        return _collect(options)
    except MLError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code


def _collect(options: Namespace) -> int:
    from airflow_ml_provider.cli.gc_models import versions
    from airflow_ml_provider.cli.gc_plan import Survey
    from airflow_ml_provider.contract.ages import age_seconds
    from airflow_ml_provider.contract.errors import ConfigError
    from airflow_ml_provider.contract.store import Store

    seconds = age_seconds(options.older_than, what="--older-than")
    if seconds < _LEAST:
        raise ConfigError(
            f"--older-than {options.older_than} is less than a day: a step that runs may be as old",
            kept="everything: nothing was removed",
            todo="give an age that is longer than the longest step runs, such as 30d",
        )
    store = Store(options.store)
    survey = Survey(store)
    servers = [options.tracking_uri] if options.tracking_uri else survey.servers()
    plan = survey.plan(versions(servers), datetime.now(UTC) - timedelta(seconds=seconds))
    _remove(store, plan, options)
    if options.tables:
        _sweep(store, sorted(survey.tables), plan, options, hours=seconds // 3600)
    return 0


def _remove(store: Store, plan: Plan, options: Namespace) -> None:
    for group in plan.kept:
        print(f"kept     {group.name}: {group.why}")
    for group in plan.remove:
        print(f"{'would go' if options.dry_run else 'removed '} {group.name}", flush=True)
        for path in () if options.dry_run else group.paths:
            store.delete(path)
    size = sum(group.size for group in plan.remove) / 2**20
    print(
        f"{len(plan.remove):,} {'would be' if options.dry_run else 'were'} removed ({size:,.1f} MiB), "
        f"{len(plan.kept):,} older ones are referred to, {plan.young:,} are younger than {options.older_than}"
    )


def _sweep(store: Store, tables: list[str], plan: Plan, options: Namespace, *, hours: int) -> None:
    from airflow_ml_provider.cli.gc_tables import sweep

    for table in tables:
        swept = sweep(store, table, plan.versions.get(table, ()), hours=hours, dry_run=options.dry_run)
        if swept is not None:
            beside = f", versions {', '.join(map(str, swept.versions))} kept whole" if swept.versions else ""
            done = "would be" if options.dry_run else "were"
            print(f"table {table}: {swept.files:,} files {done} removed{beside}")
