"""Features: rows with what was known about them at their prediction time, and the proof of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from airflow_ml_provider.contract.arguments import FeaturesArguments
from airflow_ml_provider.contract.features import FeatureSet
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.store import is_local
from airflow_ml_provider.steps import (
    feature_build,
    feature_definition,
    functions,
    leakage,
    maturity,
    replay,
    tables,
)  # fmt: skip
from airflow_ml_provider.steps.context import Outcome, Skipped, StepContext
from airflow_ml_provider.steps.feature_build import Built, Wanted
from airflow_ml_provider.steps.feature_definition import Roles
from airflow_ml_provider.steps.feature_inputs import Inputs
from airflow_ml_provider.steps.leakage import Checked
from airflow_ml_provider.steps.out_of_core import connect

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import Publication
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.pinned_tables import PinnedTable

# A leak does its harm in training: rows with labels are replayed, rows to predict are made by the same code.
_REPLAYED_MOMENTS = 3
# Every view reads its tables again: up to this size a table is fetched once, into the scratch folder. A table
# of few files on local disk is as quickly read where it is.
_FETCHED_BYTES = 1 << 30
_FEW_FILES = 50


def run(step: StepContext, arguments: FeaturesArguments) -> Outcome:
    """Build the feature rows of partitions, prove that they hold nothing from the future, publish them."""
    features = feature_definition.load(step, arguments.features)
    label = feature_build.labelled(features) if arguments.labels else None
    partitions = step.partitions(arguments.partitions)
    pinned = {table.name: step.read(table) for table in arguments.tables}
    mark = feature_definition.feature_hash(features, arguments.features, step.spec.code.roots)
    versions = {name: table.version for name, table in pinned.items()}
    content = document_digest([step.spec.fingerprint, versions, mark])
    # Labels that mature by time alone: how many have is part of the content, and known when they are built.
    by_time = label is not None and label.matures_after is not None and not arguments.known_at.strip()
    done = tables.already_published(step.store, arguments.publish, partitions, content)
    if done and not by_time:
        return Outcome(
            table=done, summary={"rows": done.rows, "already published": f"version {done.version}"}
        )

    wanted = Wanted(
        arguments.publish.partition_by,
        partitions,
        labels=arguments.labels,
        known_at=maturity.latest(label, arguments.known_at) if label else None,
    )
    with _engine(step, features, pinned, arguments) as engine:
        found = engine.build_and_prove(wanted, _Progress(step), moments=_REPLAYED_MOMENTS)
        if found is None:
            where = f"{wanted.partition_by}={partitions.label}" if partitions else "the tables"
            raise Skipped(f"no rows to build in {where}: {functions.name_of(features.rows)} gives none")
        built, checked, replayed = found
        _warn(step, built, checked)
        Roles.of(features, arguments.features, mark, wanted.partition_by).write(
            step.store, arguments.publish.name
        )
        if by_time:
            content = document_digest([content, built.count])
        publication = engine.publish(built, mark, arguments, partitions, content)
    return Outcome(
        table=publication,
        metrics={"rows": built.count, "features": len(features.features), "facts": checked.facts}
        | ({"matured_share": built.count / built.asked} if label else {})
        | {f"without_{view}": share for view, share in checked.without_fact.items()},
        summary=_summary(built, checked, replayed, mark),
        timely=by_time,
    )


class _Engine(Protocol):
    """Where rows are built and published."""

    def build_and_prove(
        self, wanted: Wanted, say: Callable[[str], None], *, moments: int
    ) -> tuple[Built, Checked, int] | None:
        """The rows, what the proof of times looked at, and how many rows were replayed; None without rows."""

    def publish(
        self,
        built: Any,
        mark: str,
        arguments: FeaturesArguments,
        partitions: Partitions | None,
        content: str,
    ) -> Publication:
        """Replace the partitions by the rows, in one commit."""


def _engine(
    step: StepContext, features: FeatureSet, pinned: Mapping[str, PinnedTable], arguments: FeaturesArguments
) -> AbstractContextManager[_Engine]:
    """The one that the functions ask for."""
    if feature_definition.asks_for_spark(features):
        from airflow_ml_provider.steps.spark_features import OnSpark

        return OnSpark.of(step, features, pinned, arguments.publish.name)
    inputs = Inputs({name: _fetched(step, table) for name, table in pinned.items()}, step.scratch)
    return nullcontext(_OnThisMachine(step, features, inputs))


@dataclass(frozen=True)
class _OnThisMachine:
    step: StepContext
    features: FeatureSet
    inputs: Inputs

    def build_and_prove(
        self, wanted: Wanted, say: Callable[[str], None], *, moments: int
    ) -> tuple[Built, Checked, int] | None:
        with connect(self.step.scratch) as connection:
            folder = self.step.scratch / "build"
            with self.step.progress("rows joined with views") as progress:
                built = feature_build.build(
                    self.features, self.inputs, wanted, connection, folder, say, progress.advance
                )
            if built is None:
                return None
            checked = leakage.check_times(built)
            say(f"proved that none of {checked.facts:,} facts is newer than its row's prediction time")
            replayed = 0
            if self.features.as_known and wanted.labels:
                again = replay.here(built, self.inputs, connection)
                replayed = replay.replay(built, again, moments=moments, say=say)
        return built, checked, replayed

    def publish(
        self,
        built: Built,
        mark: str,
        arguments: FeaturesArguments,
        partitions: Partitions | None,
        content: str,
    ) -> Publication:
        batches = tables.batches_of(built.published(mark))
        return tables.publish(
            self.step,
            arguments.publish,
            batches,
            partitions=partitions,
            content=content,
            suite=arguments.suite,
        )


def _fetched(step: StepContext, table: PinnedTable) -> pl.LazyFrame:
    sizes = pl.DataFrame(table.delta.get_add_actions())["size_bytes"]
    near = is_local(table.uri) and len(sizes) <= _FEW_FILES
    if near or sizes.sum() > _FETCHED_BYTES:
        return table.lazy()
    path = step.scratch / f"table-{table.name}.parquet"
    table.lazy().sink_parquet(path, compression="lz4")
    return pl.scan_parquet(path)


class _Progress:
    """Progress lines with the seconds since the start."""

    def __init__(self, step: StepContext) -> None:
        self._step = step
        self._started = time.monotonic()

    def __call__(self, said: str) -> None:
        self._step.log.info("%s (%.1f s)", said, time.monotonic() - self._started)


def _warn(step: StepContext, built: Built, checked: Checked) -> None:
    for view, count in built.timeless.items():
        step.warn(f"view {view!r}: {count:,} facts have no event or no knowledge time and are not used")
    if checked.labels_before:
        step.warn(
            f"{checked.labels_before:,} of {built.count:,} rows have a label that was already known at their "
            f"prediction time: {built.features.prediction_time!r} is too late, or there is nothing to predict"
        )
    if built.wanted.labels:
        for feature, auc in leakage.too_good(built).items():
            step.warn(
                f"feature {feature!r} by itself predicts the label with an AUC of {auc:.3f} (above "
                f"{leakage.TOO_GOOD:.2f}): check that its value is known at the prediction time"
            )


def _summary(built: Built, checked: Checked, replayed: int, mark: str) -> dict[str, object]:
    summary: dict[str, object] = {"rows": built.count, "features": len(built.features.features)}
    if built.wanted.labels:
        summary["rows without a known label, left out"] = built.asked - built.count
        summary["labels matured"] = f"{built.count:,} of {built.asked:,} ({built.count / built.asked:.1%})"
    summary["rows without a fact, by view"] = {
        view: f"{share:.1%}" for view, share in checked.without_fact.items()
    }
    summary["proof"] = f"{checked.facts:,} facts are no newer than their rows' prediction times" + (
        f"; {replayed} rows replayed from what was known then, all the same" if replayed else ""
    )
    summary["feature definition"] = mark[:12]
    return summary
