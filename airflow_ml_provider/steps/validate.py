"""Validate: a Great Expectations suite over a pinned table version, as a gate and as a verdict.

The same evaluation audits rows that a step is about to publish: they lie aside, where no reader of the table
sees them, and stay there when they fail.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from deltalake import DeltaTable

from airflow_ml_provider.contract.arguments import ValidateArguments
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import data_docs
from airflow_ml_provider.steps.context import Outcome, Skipped
from airflow_ml_provider.steps.data_docs import DATA_DOCS
from airflow_ml_provider.steps.delta import storage_options
from airflow_ml_provider.steps.expectations import evaluate, named_columns
from airflow_ml_provider.steps.pinned_tables import PinnedTable
from airflow_ml_provider.steps.suites import load_suite
from airflow_ml_provider.steps.tracking import TAG

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

    from airflow_ml_provider.steps.context import StepContext

_EXAMPLES = 5
_MOST_TEXT = 200


class ExpectationsFailed(DataError):
    """Rows are not as a suite expects them; ``verdict`` and ``links`` become part of the step's result."""

    def __init__(self, what: str, verdict: dict[str, Any], links: dict[str, str], **parts: str) -> None:
        super().__init__(what, **parts)
        self.verdict = verdict
        self.links = links


def run(step: StepContext, arguments: ValidateArguments) -> Outcome:
    """Evaluate the suite; the output stands for the version that was checked, for downstream steps to read.

    Data Docs and the verdict are kept with the step, and in MLflow where a tracking server is configured.

    :raises ExpectationsFailed: expectations failed and ``fail`` is set.
    :raises Skipped: the partitions have no rows.
    """
    pinned = step.read(arguments.table)
    partitions = step.partitions(arguments.partitions)
    published = pinned.published(partitions)
    label = partitions.label if partitions else ""
    if not published.rows:
        raise Skipped(f"table {pinned.name} version {pinned.version} has no rows{_in(pinned, label)}")
    suite = load_suite(step, arguments.suite)
    what = f"table {pinned.name}@{pinned.version}"
    result = _evaluate(step, suite, pinned.lazy(partitions), published.rows, what)
    verdict = _verdict(result, pinned, label, published.rows)
    page = data_docs.render(result, f"{suite.name} over {what}", _facts(step, verdict))
    links = {"Data Docs": step.keep_document(DATA_DOCS, page)}
    run_id = _track(step, verdict, page, links)
    if arguments.fail and not verdict["success"]:
        raise ExpectationsFailed(
            f"{_headline(verdict)} over {what}{_in(pinned, label)}:\n{_failures(verdict)}",
            verdict,
            links,
            kept=f"the table is as it was; Data Docs: {links['Data Docs']}",
            todo="correct the rows at their source and publish them again, or change the suite",
        )
    metrics = {"rows": float(published.rows), "evaluated": verdict["evaluated"], "failed": verdict["failed"]}
    summary = {
        "table": f"{pinned.name}@{pinned.version}",
        "partitions": label or "all",
        "rows": published.rows,
        "verdict": _headline(verdict),
    }
    return Outcome(
        table=published, verdict=verdict, metrics=metrics, summary=summary, links=links, mlflow_run_id=run_id
    )


def audit(step: StepContext, suite: str, target: Table, aside: str) -> None:
    """Evaluate a suite over rows that wait for their publication.

    :param aside: the URI of the Delta table they are in.
    :raises ExpectationsFailed: they are not as expected; they stay where they are.
    """
    staged = PinnedTable(target, aside, DeltaTable(aside, storage_options=storage_options(aside)))
    frame = staged.lazy()
    rows = frame.select(pl.len()).collect().item()
    loaded = load_suite(step, suite)
    what = f"the new rows of table {target.name}"
    result = _evaluate(step, loaded, frame, rows, what)
    label = str(step.spec.arguments.get("partitions") or "")
    verdict = _verdict(result, staged, label, rows)
    page = data_docs.render(result, f"{loaded.name} over {what}", _facts(step, verdict))
    links = {"Data Docs": step.keep_document(DATA_DOCS, page)}
    if not verdict["success"]:
        where = f" in {target.partition_by} = {label}" if label and target.partition_by else ""
        raise ExpectationsFailed(
            f"{_headline(verdict)} over {what}{where}, which are not published:\n{_failures(verdict)}",
            verdict,
            links,
            kept=f"table {target.name} is as it was; the rows are kept aside in {aside}; "
            f"Data Docs: {links['Data Docs']}",
            todo="correct the source and run the step again, or change the suite",
        )
    step.audit_verdict, step.audit_links = verdict, links
    step.log.info("audited %s rows of %s: %s", f"{rows:,}", target.name, _headline(verdict))


def _evaluate(
    step: StepContext, suite: ExpectationSuite, frame: pl.LazyFrame, rows: int, what: str
) -> ExpectationSuiteValidationResult:
    with step.progress("expectations", len(suite.expectations)) as progress:
        return evaluate(suite, frame, rows, what=what, advance=progress.advance)


def _verdict(
    result: ExpectationSuiteValidationResult, table: PinnedTable, label: str, rows: int
) -> dict[str, Any]:
    statistics = result.statistics
    return {
        "success": bool(result.success),
        "suite": result.suite_name,
        "table": table.name,
        "version": table.version,
        "partitions": label,
        "rows": rows,
        "evaluated": statistics["evaluated_expectations"],
        "failed": statistics["unsuccessful_expectations"],
        "expectations": [_told(one) for one in result.results],
    }


def _told(one: ExpectationValidationResult) -> dict[str, Any]:
    config: Any = one.expectation_config
    found = one.result
    told = {
        "type": config.type,
        "kwargs": {key: value for key, value in config.kwargs.items() if key != "batch_id"},
        "success": bool(one.success),
        "observed": found.get("observed_value"),
        "unexpected_count": found.get("unexpected_count"),
        "unexpected_percent": found.get("unexpected_percent"),
        "examples": _distinct(found.get("partial_unexpected_list") or []),
    }
    told["observed"] = _short(told["observed"])
    return dict(json.loads(json.dumps(told, default=str)))


def _distinct(values: Sequence[Any]) -> list[Any]:
    """A few values, each once."""
    return list({json.dumps(value, default=str): value for value in values if value is not None}.values())[
        :_EXAMPLES
    ]


def _short(value: Any) -> Any:
    """An observed value as it is, or its text cut: a set of all distinct values has no place in a verdict."""
    text = json.dumps(value, default=str)
    return json.loads(text) if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "..."


def _headline(verdict: Mapping[str, Any]) -> str:
    if verdict["failed"]:
        return f"{verdict['failed']} of {verdict['evaluated']} expectations of {verdict['suite']!r} failed"
    return f"all {verdict['evaluated']} expectations of {verdict['suite']!r} passed"


def _failures(verdict: Mapping[str, Any]) -> str:
    lines = []
    for one in verdict["expectations"]:
        if one["success"]:
            continue
        columns = named_columns(one["kwargs"])
        line = f"  {one['type']}({columns}): "
        if one["unexpected_count"]:
            percent = one["unexpected_percent"]
            line += f"{one['unexpected_count']:,} unexpected of {verdict['rows']:,} rows"
            line += f" ({percent:.3g} %)" if percent is not None else ""
            line += f", such as {', '.join(map(repr, one['examples'][:3]))}" if one["examples"] else ""
        else:
            line += f"observed {one['observed']}" if one["observed"] is not None else "does not hold"
        lines.append(line)
    return "\n".join(lines)


def _facts(step: StepContext, verdict: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "suite": verdict["suite"],
        "table": f"{verdict['table']} version {verdict['version']}",
        "partitions": verdict["partitions"] or "all",
        "rows": verdict["rows"],
        "step": step.key,
    }


def _in(table: PinnedTable, label: str) -> str:
    return f" in {table.partition_by} = {label}" if label else ""


def _track(step: StepContext, verdict: Mapping[str, Any], page: bytes, links: dict[str, str]) -> str:
    """Keep the verdict in MLflow too, where it is used; a validation needs none. Gives the run's id."""
    if not (step.spec.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")):
        return ""
    tracker = step.tracker
    documents = {DATA_DOCS: page, "verdict.json": json.dumps(verdict, indent=1).encode()}
    with tracker.run(f"validate {verdict['table']}") as run:
        tracker.log(
            run.run_id,
            params={"suite": verdict["suite"], "table": f"{verdict['table']}@{verdict['version']}"},
            metrics={"rows": verdict["rows"], "evaluated": verdict["evaluated"], "failed": verdict["failed"]},
            tags={f"{TAG}success": str(verdict["success"]).lower()},
        )
        for name, content in documents.items():
            path = step.scratch / name
            path.write_bytes(content)
            tracker.log_file(run.run_id, path)
    links |= {"Data Docs": tracker.run_url(run, DATA_DOCS), "MLflow run": tracker.run_url(run)}
    return run.run_id
