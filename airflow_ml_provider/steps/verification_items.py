"""Verify a fleet or a search: some of its items or trials are run once more, and compared with its ledger.

Which ones follows from the fingerprint, so that the same verification looks at the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from airflow_ml_provider.contract.arguments import FleetArguments, SearchArguments
from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.contract.fleet_ledger import Ledger
from airflow_ml_provider.contract.fleets import base_fingerprint, show
from airflow_ml_provider.contract.identity import fingerprint
from airflow_ml_provider.contract.search_ledger import SearchLedger, study_parts
from airflow_ml_provider.steps import fleet_models
from airflow_ml_provider.steps.documents_compared import differences

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import StepResult
    from airflow_ml_provider.contract.fleets import Item, ItemRecord
    from airflow_ml_provider.steps.context import StepContext

_MOST = 3
_GONE = "nothing: what came of it is no longer in the store"

_Any = TypeVar("_Any")


def fleet_again(
    step: StepContext, other: StepContext, arguments: FleetArguments, earlier: StepResult
) -> tuple[str, list[str]]:
    """Run some items of a fleet again.

    :param other: a step with the same spec; what is written to its store goes nowhere.
    :return: what was compared, and how it differs.
    """
    from airflow_ml_provider.steps.fleet_work import Work

    ledger = Ledger(step.store, earlier.step_key, base_fingerprint(step.spec))
    done = _done_items(ledger, step.spec.fingerprint)
    if not done:
        return _GONE, []
    work = Work(other, arguments)
    found: list[str] = []
    for item, record in done:
        # Where a model lies is another place; what it is, its digest says.
        before = {name: value for name, value in (record.result or {}).items() if name != fleet_models.URI}
        try:
            after = {name: value for name, value in work.do(item).items() if name != fleet_models.URI}
        except MLError as error:
            found.append(f"item {show(item)} fails: {error.what}")
            continue
        found += [f"item {show(item)}: {one}" for one in differences(before, after)]
    return _so_many(len(done), "item"), found


def search_again(
    step: StepContext, other: StepContext, arguments: SearchArguments, earlier: StepResult
) -> tuple[str, list[str]]:
    """Run some trials of a search again; those that were given up or failed are left out.

    :param other: a step with the same spec; what is written to its store goes nowhere.
    :return: what was compared, and how it differs.
    """
    from airflow_ml_provider.steps.search_work import Work

    ledger = SearchLedger(step.store, earlier.step_key, fingerprint(study_parts(step.spec)))
    records = ledger.records()
    known = [
        (records[number], params)
        for each in ledger.rounds()
        for number, params in enumerate(each.trials, each.first)
        if number in records and records[number].state == "done"
    ]
    chosen = _sample(known, step.spec.fingerprint)[:_MOST]
    if not chosen:
        return _GONE, []
    work = Work(other, arguments)
    found: list[str] = []
    with work.ready():
        for before, params in chosen:
            after = work.do(before.number, params, None)
            name = f"trial {before.number}, {show(params)}"
            if after.error is not None:
                found.append(f"{name} fails: {after.error.message}")
                continue
            found += [f"{name}: {one}" for one in differences(before.metrics, after.metrics)]
            found += [f"{name}: report {one}" for one in differences(before.reports, after.reports)]
    return _so_many(len(chosen), "trial"), found


def _so_many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def _done_items(ledger: Ledger, mark: str) -> list[tuple[Item, ItemRecord]]:
    """Some items that are done, with what came of them."""
    return [told for told, _ in zip(_each_done(ledger, mark), range(_MOST), strict=False)]


def _each_done(ledger: Ledger, mark: str) -> Iterator[tuple[Item, ItemRecord]]:
    plan = ledger.plan()
    if plan is None:
        return
    items, size = ledger.items(plan.items_digest), plan.items_per_index
    for number in _sample(range(len(items)), mark):
        position, place = divmod(number, size)
        found = ledger.at(position, plan.indexes[position])
        if found is not None and found[1].items and found[1].items[place].state == "done":
            yield items[number], found[1].items[place]


def _sample(values: Sequence[_Any], mark: str) -> list[_Any]:
    """All of them, in an order that a fingerprint gives."""
    return random.Random(mark).sample(values, len(values))
