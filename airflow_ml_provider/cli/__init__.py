"""``airflow-ml``: the provider from a shell; only ``doctor`` needs Airflow."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from airflow_ml_provider import __version__
from airflow_ml_provider.cli import backfill_options, gc, ledger, rollback, trigger_options


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``airflow-ml``."""
    parser = argparse.ArgumentParser(prog="airflow-ml", description="Machine-learning steps, run by hand.")
    parser.add_argument("--version", action="version", version=f"airflow-ml-provider {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run_step = commands.add_parser(
        "run-step",
        help="run one step by its spec, without Airflow",
        description="Runs one of the eight steps by its spec: the same code as in a DAG. The spec is a JSON "
        "file with verb, store and arguments (the spec.json of any earlier run works too). The exit code "
        "is 0, or tells the kind of failure: 64 configuration, 65 user code, 66 data, 70 infrastructure, "
        "75 transient, 76 preempted.",
    )
    run_step.add_argument("--spec", required=True, metavar="FILE", help="path or URI of the spec")
    run_step.add_argument(
        "--again", action="store_true", help="run even if an earlier run of the same spec has a result"
    )
    doctor = commands.add_parser(
        "doctor",
        help="check a deployment beforehand",
        description="Checks what steps will need, and says what to do about what is missing: configuration, store, "
        "MLflow, the cluster and our permissions there, and the image. Runs where Airflow runs. The exit code is 0 "
        "when all is fine, else 1.",
    )
    doctor.add_argument(
        "--compute",
        default="",
        help='"local", "kubernetes" or "package.module:name"; as configured when left out',
    )
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    doctor.add_argument("--no-pod", action="store_true", help="do not try the image in a pod or process")
    trigger_options.add(commands)
    backfill_options.add(commands)
    ledger.add(commands)
    rollback.add(commands)
    gc.add(commands)
    options = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names and logs come from elsewhere, and a build server's terminal may not have their letters.
            stream.reconfigure(errors="backslashreplace")
    if options.command == "doctor":
        from airflow_ml_provider.cli.doctor import run as run_doctor

        return run_doctor(options)
    if options.command == "trigger":
        from airflow_ml_provider.cli.trigger import run as run_trigger

        return run_trigger(options)
    if options.command == "backfill":
        from airflow_ml_provider.cli.backfill import run as run_backfill

        return run_backfill(options)
    if options.command == "ledger":
        return ledger.run(options)
    if options.command == "rollback":
        return rollback.run(options)
    if options.command == "gc":
        return gc.run(options)
    from airflow_ml_provider.steps.__main__ import run

    return run(options.spec, again=options.again)


if __name__ == "__main__":
    sys.exit(main())
