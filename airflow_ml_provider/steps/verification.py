"""Verify: computes a part of a step once more and compares it with what is known.

Of a publication that is one partition, chosen by the fingerprint; of a training, an evaluation or a validation it
is the whole, and of a fleet or a search some items or trials. Nothing that is published, registered or logged changes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl

from airflow_ml_provider.contract.arguments import (
    Arguments,
    EvaluateArguments,
    FleetArguments,
    SearchArguments,
    TrainArguments,
)
from airflow_ml_provider.contract.documents import Publication, StepResult, read_result
from airflow_ml_provider.contract.errors import DataError, InfrastructureError
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.contract.partitions import Partitions, parse_partitions
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import models, versions
from airflow_ml_provider.steps.context import Outcome, StepContext
from airflow_ml_provider.steps.documents_compared import TIMES, differences
from airflow_ml_provider.steps.labelled_rows import LabelledRows
from airflow_ml_provider.steps.pinned_tables import open_table
from airflow_ml_provider.steps.scoring import scored_batches
from airflow_ml_provider.steps.verification_scratch import ScratchStore, SilentTracker

_MOST_TOLD = 12


class NotDeterministic(DataError):
    """The same step on the same input gave something else."""

    default_retry = "not retried: it would be compared with the same result again"


def run(step: StepContext, arguments: Arguments) -> Outcome:
    """Compute once more, and compare.

    :raises NotDeterministic: it gave something else; names columns, metrics or parts of the verdict.
    """
    content = step.store.read(f"runs/{step.key}/earlier.json")
    if content is None:
        raise InfrastructureError(
            f"there is nothing to compare with: {step.store.run_uri(step.key)}/earlier.json"
        )
    earlier = read_result(content, source="earlier.json")
    if earlier.timely:
        return Outcome(summary={"verified": "nothing: what it gives also depends on when it is made"})
    what, found = _compare(step, arguments, earlier)
    if found:
        more = f"\nand {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
        raise NotDeterministic(
            f"the {step.spec.verb} step is not deterministic: computed again ({what}), "
            + "; ".join(found[:_MOST_TOLD]) + more,
            kept="what was published and registered before; nothing was changed",
            todo="take seeds from the argument seed= and moments from the data; then run it with cache='rerun'",
        )  # fmt: skip
    if what.startswith("nothing"):
        return Outcome(summary={"verified": what})
    told = "are the same when they are" if what.endswith("s") else "is the same when it is"
    return Outcome(summary={"verified": f"{what} {told} computed again"})


def _compare(step: StepContext, arguments: Arguments, earlier: StepResult) -> tuple[str, list[str]]:
    """What was computed again, and how it differs."""
    if isinstance(arguments, (FleetArguments, SearchArguments)):
        from airflow_ml_provider.steps import verification_items

        other = StepContext(step.spec, step.scratch)
        other.store = ScratchStore(step.spec.store, step.scratch / "written", frozenset())
        if isinstance(arguments, FleetArguments):
            return verification_items.fleet_again(step, other, arguments, earlier)
        return verification_items.search_again(step, other, arguments, earlier)
    sample = _sample(step, arguments)
    if sample is not None:
        arguments = msgspec.structs.replace(arguments, partitions=sample.label)
    again = _again(step, arguments, earlier)
    what = f"partition {sample.label}" if sample else "all of it"
    return what, [*_differences(step, earlier, again, sample)]


def _sample(step: StepContext, arguments: Arguments) -> Partitions | None:
    """The partition to compute, of those that are published; None for all there is."""
    given = str(getattr(arguments, "partitions", "") or "")
    if not given.strip() or not isinstance(getattr(arguments, "publish", None), Table):
        return None
    values = parse_partitions(given).values
    return parse_partitions(values[int(step.spec.fingerprint[:12] or "0", 16) % len(values)])


class Again(NamedTuple):
    """What the step gave this time.

    :param store: has what it would have published.
    :param tracker: has what it would have logged; None without a tracking server.
    """

    outcome: Outcome
    store: ScratchStore
    tracker: SilentTracker | None


def _again(step: StepContext, arguments: Arguments, earlier: StepResult) -> Again:
    publish = getattr(arguments, "publish", None)
    names = {publish.name, f"{publish.name}_quarantine"} if isinstance(publish, Table) else set()
    other = StepContext(step.spec, step.scratch)
    other.store = store = ScratchStore(step.spec.store, step.scratch / "written", frozenset(names))
    tracker = None
    if step.spec.tracking.uri:
        tracker = SilentTracker(step.spec, earlier.mlflow_run_id, earlier.model)
        other.__dict__["tracker"] = tracker
    if getattr(arguments, "shards", 1) > 1:
        arguments = msgspec.structs.replace(arguments, shards=1)
    if isinstance(arguments, EvaluateArguments):
        # The champion of then, who may not have been one.
        named = (earlier.verdict or {}).get("champion")
        found = Model(named["name"], "champion", named["version"]) if named else None
        arguments = msgspec.structs.replace(arguments, champion=found)
        if tracker is not None:
            tracker.without_champion = found is None
    verb = importlib.import_module(f"airflow_ml_provider.steps.{step.spec.verb}")
    return Again(verb.run(other, arguments), store, tracker)


def _differences(
    step: StepContext, earlier: StepResult, again: Again, sample: Partitions | None
) -> Iterator[str]:
    verb, tracker = step.spec.verb, again.tracker
    if verb in ("ingest", "features", "predict"):
        if earlier.table is not None:
            yield from _of_rows(step, again.store, earlier.table, sample)
    elif verb == "train" and tracker is not None:
        yield from _of_scores(step, earlier, tracker)
        yield from differences(earlier.metrics, tracker.metrics, "metric ")
    else:
        yield from differences(earlier.verdict or {}, again.outcome.verdict or {})


def _of_scores(step: StepContext, earlier: StepResult, tracker: SilentTracker) -> Iterator[str]:
    """Files differ by the moment that they were written at; what counts is what the two models say."""
    arguments = step.spec.typed_arguments()
    if earlier.model is None or tracker.model is None or not isinstance(arguments, TrainArguments):
        return
    known = versions.find(step, Model(earlier.model.name, version=earlier.model.version))
    if known is None:
        return
    both = [versions.fetch(step, known), models.load(tracker.model, arguments.model.name)]
    rows = LabelledRows(step, step.read(arguments.table), arguments.partitions, purpose="train on")
    differing = total = 0
    with models.repeatable_arithmetic():
        for _, (before, after) in scored_batches(rows.frame, both, []):
            total += len(before)
            differing += int(np.sum(np.asarray(before) != np.asarray(after)))
    if differing:
        yield f"the models' scores differ in {differing:,} of {total:,} training rows"


def _of_rows(
    step: StepContext, made: ScratchStore, known: Publication, sample: Partitions | None
) -> Iterator[str]:
    table = Table(known.name, known.partition_by)
    before, after = (open_table(store, table).lazy(sample) for store in (step.store, made))
    there, here = before.collect_schema(), after.collect_schema()
    if missing := sorted(set(here) - set(there)):
        yield f"columns {', '.join(missing)} are new"
    columns = [name for name in here if name in there and name not in TIMES]
    one, other = (_marks(frame, columns) for frame in (before, after))
    if one["rows"] != other["rows"]:
        yield f"{known.name} has {other['rows']:,} rows where {one['rows']:,} are published"
    elif differing := [name for name in columns if one[f"c {name}"] != other[f"c {name}"]]:
        yield f"{known.name} differs in {', '.join(differing)} ({one['rows']:,} rows)"
    elif one["all"] != other["all"]:
        yield f"{known.name} has the same values in other rows ({one['rows']:,} rows)"


def _marks(frame: pl.LazyFrame, columns: list[str]) -> dict[str, Any]:
    """Sums of hashes, which do not depend on the order of the rows: of each column, and of whole rows."""
    sums = [pl.col(name).hash(1).sum().alias(f"c {name}") for name in columns]
    rows = pl.struct(columns).hash(1).sum().alias("all")
    return frame.select(*sums, rows, pl.len().alias("rows")).collect(engine="streaming").row(0, named=True)
