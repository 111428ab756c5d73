"""Features on Spark: a set whose functions ask for Spark frames, built by executors and proved as any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_ml_provider.steps import functions, leakage, spark_publish, spark_session, spark_tables
from airflow_ml_provider.steps.feature_build import Built, Wanted
from airflow_ml_provider.steps.feature_definition import functions_of, plain
from airflow_ml_provider.steps.replay import replay
from airflow_ml_provider.steps.spark_aside import Aside
from airflow_ml_provider.steps.spark_build import SparkBuilt, as_known, build
from airflow_ml_provider.steps.spark_inputs import SparkInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    from airflow_ml_provider.contract.arguments import FeaturesArguments
    from airflow_ml_provider.contract.documents import Publication
    from airflow_ml_provider.contract.features import FeatureSet
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.leakage import Checked
    from airflow_ml_provider.steps.pinned_tables import PinnedTable


@dataclass(frozen=True)
class OnSpark:
    """Builds and publishes the rows of one step on Spark.

    :param inputs: the tables.
    :param aside: where files are laid down meanwhile.
    """

    step: StepContext
    features: FeatureSet
    inputs: SparkInputs
    aside: Aside

    @classmethod
    @contextmanager
    def of(
        cls, step: StepContext, features: FeatureSet, pinned: Mapping[str, PinnedTable], publish: str
    ) -> Iterator[OnSpark]:
        """With Spark running."""
        first = functions_of(features)[0]
        with spark_session.session(step, f"{functions.name_of(first)} asks for a Spark frame") as spark:
            modules = {plain(function).__module__ for function in functions_of(features)}
            spark_session.send_code(spark, step, modules)
            frames = {name: spark_tables.read(spark, table) for name, table in pinned.items()}
            aside = Aside.of(spark, step, publish)
            try:
                yield cls(step, features, SparkInputs(spark, frames), aside)
            finally:
                aside.remove()

    def build_and_prove(
        self, wanted: Wanted, say: Callable[[str], None], *, moments: int
    ) -> tuple[SparkBuilt, Checked, int] | None:
        """The rows, what the proof of times looked at, and how many rows were replayed; None without rows.

        :param moments: at how many prediction times rows are replayed.
        """
        built = build(self.features, self.inputs, wanted, self.aside, say)
        if built is None:
            return None
        checked = leakage.check_times(built)
        say(f"proved that none of {checked.facts:,} facts is newer than its row's prediction time")
        replayed = 0
        if self.features.as_known and wanted.labels:

            def again(_: int, at: datetime, only: pl.DataFrame) -> Built | None:
                cut = as_known(self.features, self.inputs, at)
                then = Wanted(wanted.partition_by, wanted.partitions, only=only)
                return build(self.features, cut, then, self.aside, lambda _: None)

            replayed = replay(built, again, moments=moments, say=say)
        return built, checked, replayed

    def publish(
        self,
        built: SparkBuilt,
        mark: str,
        arguments: FeaturesArguments,
        partitions: Partitions | None,
        content: str,
    ) -> Publication:
        """Replace the partitions by the rows, in one commit."""
        return spark_publish.publish(
            self.step,
            arguments.publish,
            built.published_frame(mark),
            partitions=partitions,
            content=content,
            suite=arguments.suite,
            aside=self.aside,
        )
