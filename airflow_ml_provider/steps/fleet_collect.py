"""What came of a fleet's indexes, read from the ledger, published and summed up."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.fleets import ItemRecord, item_digest
from airflow_ml_provider.contract.store import join
from airflow_ml_provider.steps import fleet_results
from airflow_ml_provider.steps.context import Outcome
from airflow_ml_provider.steps.fleet_results import Results
from airflow_ml_provider.steps.fleet_summary import Summary

if TYPE_CHECKING:
    import polars as pl

    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.contract.fleet_ledger import Ledger
    from airflow_ml_provider.contract.fleets import Item, PlanDocument
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.tracking import TrackedRun


def collect(
    step: StepContext, arguments: FleetArguments, ledger: Ledger, plan: PlanDocument, items: list[Item]
) -> Outcome:
    """Sum up a fleet, publish its results if asked to, and log it.

    :raises MLError: too many items failed, or some did not run; nothing is published then.
    """
    summary = Summary(arguments, len(items))
    results = Results(step.scratch / "results", items)
    for item, record in records(ledger, plan, items):
        results.add(item, summary.add(item, record))
    frame = results.frame() if arguments.publish is not None or _is_tracked(step) else None
    failed = summary.error(join(step.store.uri, ledger.folder))
    outcome = Outcome(metrics=summary.numbers(), summary=summary.facts())
    run = step.tracker.run(f"fleet {arguments.function}") if _is_tracked(step) else nullcontext()
    with run as tracked:
        if tracked is not None and frame is not None:
            _log(step, arguments, tracked, summary, frame)
            outcome.links["MLflow run"] = step.tracker.run_url(tracked)
            outcome.mlflow_run_id = tracked.run_id
        if failed is not None:
            raise failed
        if summary.failed:
            step.warn(f"{summary.failed:,} of {summary.items:,} items failed, which may be; see the summary")
        if frame is not None and arguments.publish is not None:
            outcome.table = fleet_results.publish(step, arguments, results, frame)
        if arguments.groups and tracked is not None:
            _register_family(step, arguments, tracked, outcome, records(ledger, plan, items))
        elif arguments.best and tracked is not None:
            from airflow_ml_provider.steps import fleet_best

            outcome.model = fleet_best.register(step, arguments, tracked, summary.best)
            outcome.links["Model"] = step.tracker.model_url(outcome.model)
    return outcome


def _register_family(
    step: StepContext,
    arguments: FleetArguments,
    tracked: TrackedRun,
    outcome: Outcome,
    found: Iterator[tuple[Item, ItemRecord]],
) -> None:
    from airflow_ml_provider.steps import fleet_family, fleet_runs, groups

    all_records = list(found)
    of_rows = groups.of_rows(step, arguments)
    outcome.summary |= of_rows.facts()
    if len(all_records) <= fleet_runs.MOST:
        fleet_runs.log_children(step, tracked, all_records)
    outcome.model = fleet_family.register(step, arguments, tracked, of_rows, all_records)
    outcome.links["Model"] = step.tracker.model_url(outcome.model)


def records(ledger: Ledger, plan: PlanDocument, items: list[Item]) -> Iterator[tuple[Item, ItemRecord]]:
    """Each item with its record, in order; one of an index without a document is missing."""
    entries = ledger.entries()
    paths = (entries[index].path if index in entries else "" for index in plan.indexes)
    size = plan.items_per_index
    for position, document in enumerate(ledger.read_all(paths)):
        own = items[position * size : (position + 1) * size]
        found = document.items if document else ()
        for number, item in enumerate(own):
            yield item, found[number] if found else ItemRecord(item_digest(item))


def _is_tracked(step: StepContext) -> bool:
    return bool(step.spec.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI"))


def _log(
    step: StepContext, arguments: FleetArguments, tracked: TrackedRun, summary: Summary, frame: pl.LazyFrame
) -> None:
    params: dict[str, Any] = {}
    if not arguments.best and not arguments.groups:
        # Otherwise the run gets those of the best item, or of the family.
        own = {k: v if isinstance(v, str) else json.dumps(v) for k, v in arguments.params.items()}
        params = {"function": arguments.function, "seed": step.spec.seed, **own}
    tags = {"mlflow.source.name": arguments.function, "mlflow.source.type": "JOB"}
    step.tracker.log(tracked.run_id, params=params, metrics=summary.numbers(), tags=tags)
    path = step.scratch / "results.csv"
    frame.sink_csv(path)
    step.tracker.log_file(tracked.run_id, path)
