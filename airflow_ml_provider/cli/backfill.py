"""``airflow-ml backfill plan|run|status``: make partitions that are missing or out of date, a few at a time."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from airflow_ml_provider.cli.backfill_options import choice_of
from airflow_ml_provider.cli.trigger_options import client_of
from airflow_ml_provider.contract.errors import ConfigError, DataError, MLError

if TYPE_CHECKING:
    from airflow_ml_provider.cli.airflow_client import AirflowClient
    from airflow_ml_provider.cli.backfill_document import Plan
    from airflow_ml_provider.contract.store import Store


def run(options: argparse.Namespace) -> int:
    """Carry the command out; gives the exit code."""
    actions = {"plan": _plan, "run": _run, "status": _status}
    try:
        return actions[options.action](options)
    except MLError as error:
        print(f"airflow-ml backfill: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, EOFError):
        print("\ninterrupted: nothing further is started", file=sys.stderr)
        return 130


def _plan(options: argparse.Namespace) -> int:
    from airflow_ml_provider.cli import backfill_document, backfill_plan, backfill_text

    store, choice = _store(options), choice_of(options)
    found = backfill_plan.make_plan(_client(options), store, choice, options.code)
    kept = backfill_document.latest(store, choice)
    found.plan_id = backfill_document.next_id(store, choice)
    if kept is not None and not kept.finished_at:
        found.notes.append(
            f"`run` goes on with the plan {kept.plan_id}, made {kept.made_at}; --afresh takes this one"
        )
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        print(backfill_text.plan_text(found, options.wave, all_lines=options.all))
    return 0


def _run(options: argparse.Namespace) -> int:
    from airflow_ml_provider.cli import backfill_document, backfill_plan, backfill_run, backfill_text

    client, store, choice = _client(options), _store(options), choice_of(options)
    limits = backfill_run.Limits(
        wave=options.wave,
        max_failures=options.max_failures,
        retry_failed=options.retry_failed,
        poll=options.poll,
    )
    if not options.dry_run and backfill_run.is_paused(client, options.dag):
        raise ConfigError(
            f"the DAG {options.dag} is paused: its runs would wait",
            kept="nothing was started",
            todo="unpause it; note that this also starts the runs that its schedule has due",
        )
    plan = backfill_document.latest(store, choice)
    if plan is not None and not plan.finished_at and not options.afresh:
        _say(options, f"going on with the plan {plan.plan_id}, made {plan.made_at}")
        _say(options, backfill_text.status_text(plan, each=False))
    else:
        plan = backfill_plan.make_plan(client, store, choice, options.code)
        plan.plan_id, plan.reason = backfill_document.next_id(store, choice), options.reason
        _say(options, backfill_text.plan_text(plan, options.wave))
    if options.dry_run:
        for item in plan.todo:
            print(json.dumps(backfill_run.body_of(plan, item)))
        return 0
    if not plan.todo:
        _say(options, "there is nothing to run")
        return _reconciled(options, client, plan, plan, "")
    _confirm(options, len(plan.todo))
    work = backfill_run.Backfill(client, store, plan, limits, lambda line: _say(options, line))
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        stopped = work.carry_out()
    except KeyboardInterrupt:
        backfill_document.save(store, plan)
        running = [item.run_id for item in plan.todo if item.progress == "submitted"]
        print(
            f"\ninterrupted: {len(running)} runs go on in Airflow, nothing further is started.\n"
            "The same command goes on from here; `airflow-ml backfill status` says how far it is.",
            file=sys.stderr,
        )
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    again = backfill_plan.make_plan(client, store, choice, options.code)
    return _reconciled(options, client, plan, again, stopped)


def _status(options: argparse.Namespace) -> int:
    from airflow_ml_provider.cli import backfill_plan, backfill_run, backfill_text

    client, store = _client(options), _store(options)
    plan = _kept(store, options)
    backfill_run.Backfill(client, store, plan, backfill_run.Limits(), lambda line: None).look()
    if not options.reconcile and not options.report:
        print(msgspec.json.encode(plan).decode() if options.json else backfill_text.status_text(plan))
        return 0
    return _reconciled(options, client, plan, backfill_plan.make_plan(client, store, plan.choice), "")


def _reconciled(
    options: argparse.Namespace, client: AirflowClient, plan: Plan, again: Plan, stopped: str
) -> int:
    from airflow_ml_provider.cli import backfill_report

    found = backfill_report.reconcile(client, plan, again, stopped)
    print(msgspec.json.encode(found).decode() if options.json else backfill_report.report_text(found))
    code = 0 if found.as_planned else 1
    if options.report:
        try:
            Path(options.report).parent.mkdir(parents=True, exist_ok=True)
            text = backfill_report.report_markdown(found)
            Path(options.report).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            print(f"{options.report} cannot be written: {error.strerror}", file=sys.stderr)
            code = code or ConfigError.exit_code
    return code


def _kept(store: Store, options: argparse.Namespace) -> Plan:
    from airflow_ml_provider.cli import backfill_document

    ids: Iterable[str] = [options.plan] if options.plan else sorted(
        Path(path).stem for path in store.paths("backfills") if path.endswith(".json")
    )  # fmt: skip
    plans = [plan for plan in (backfill_document.load(store, name) for name in ids) if plan is not None]
    plans = [
        plan
        for plan in plans
        if plan.choice.dag_id == options.dag
        and options.first in ("", plan.choice.first)
        and options.last in ("", plan.choice.last)
    ]
    if not plans:
        raise DataError(
            f"there is no backfill of {options.dag} in {store.uri}",
            kept="everything",
            todo="check --from, --to, --store",
        )
    return max(plans, key=lambda plan: (plan.made_at, plan.plan_id))


def _client(options: argparse.Namespace) -> AirflowClient:
    return client_of(options, lambda line: print(line, file=sys.stderr))


def _store(options: argparse.Namespace) -> Store:
    from airflow_ml_provider.contract.store import Store

    return Store(options.store or os.environ.get("AIRFLOW__ML__STORE", ""))


def _confirm(options: argparse.Namespace, count: int) -> None:
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{count} runs would be started, and there is nobody to ask", todo="say --yes")
    if input(f"start {count} runs? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ConfigError("not confirmed", kept="nothing was started")


def _say(options: argparse.Namespace, line: str) -> None:
    print(line, file=sys.stderr if options.json else sys.stdout, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
