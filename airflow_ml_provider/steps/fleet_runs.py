"""The items of a fleet as child runs of its MLflow run, with parameters, metrics and state.

Three requests an item, some at once. Beyond :data:`MOST` items no list of runs is read by anybody; the table of
results, which the fleet's run has in any case, is then all that is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.fleets import item_digest
from airflow_ml_provider.steps.groups import ALL_ROWS, named
from airflow_ml_provider.steps.tracking import TAG

if TYPE_CHECKING:
    from airflow_ml_provider.contract.fleets import Item, ItemRecord
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.tracking import TrackedRun

MOST = 1_000
# An MLflow server answers some at once; more would wait there.
_AT_ONCE = 8
_PAGE = 1_000
_PARENT, _ITEM = "mlflow.parentRunId", TAG + "item_digest"


def log_children(step: StepContext, parent: TrackedRun, records: Iterable[tuple[Item, ItemRecord]]) -> int:
    """Log each item that ran as a child run; one that an earlier try has logged is left. Gives how many there are."""
    there = _there(step, parent)
    ran = [(item, record) for item, record in records if record.state in ("done", "failed")]
    if not ran:
        return 0
    with step.progress("child runs", len(ran)) as progress, ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(partial(_log, step, parent, there), *zip(*ran, strict=True)):
            progress.advance(1)
    return len(ran)


def _log(
    step: StepContext,
    parent: TrackedRun,
    there: Mapping[str, tuple[str, str]],
    item: Item,
    record: ItemRecord,
) -> None:
    digest, client = item_digest(item), step.tracker.client
    status = "FINISHED" if record.state == "done" else "FAILED"
    run_id, ended = there.get(digest, ("", ""))
    if ended == status:
        return
    with step.tracker.speaking("log the run of an item"):
        if not run_id:
            name = "all rows" if ALL_ROWS in item else named(item.values())
            tags = {_PARENT: parent.run_id, _ITEM: digest}
            run_id = client.create_run(parent.experiment_id, run_name=name, tags=tags).info.run_id
    numbers = {name: value for name, value in record.result.items() if _is_number(value)}
    texts = {TAG + name: value for name, value in record.result.items() if isinstance(value, str)}
    if record.error is not None:
        texts[TAG + "error"] = f"{record.error.error}: {record.error.message}"
    step.tracker.log(run_id, params=item, metrics={**numbers, "seconds": record.seconds}, tags=texts)
    with step.tracker.speaking("end the run of an item"):
        client.set_terminated(run_id, status)


def _there(step: StepContext, parent: TrackedRun) -> dict[str, tuple[str, str]]:
    """The children that there are: an item's digest to run and status."""
    return {
        run.data.tags.get(_ITEM, ""): (run.info.run_id, run.info.status) for run in _children(step, parent)
    }


def _children(step: StepContext, parent: TrackedRun) -> Iterator[Any]:
    token: str | None = None
    while token != "":
        with step.tracker.speaking("look for the runs of items"):
            page = step.tracker.client.search_runs(
                [parent.experiment_id], f"tags.`{_PARENT}` = '{parent.run_id}'", max_results=_PAGE,
                page_token=token,
            )  # fmt: skip
        yield from page
        token = page.token or ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
