"""Predict, with a real MLflow: what is published, what is left alone, and what is refused."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable
from model_world import FEATURE_HASH, World, feature_rows, start
from predicting import prediction, without_time
from threadpoolctl import threadpool_limits

from airflow_ml_provider.contract.documents import StepSpec
from airflow_ml_provider.contract.store import Store, local_path

DAY = "2013-01-02"


def test_predictions_say_for_what_by_which_model_and_when(world: World) -> None:
    before = datetime.now(UTC)
    result = world.done("predict", prediction("said", DAY))
    rows = world.table("said")
    run_id = world.client.get_model_version("delays", "1").run_id
    assert rows.schema == {
        "flight_id": pl.Int64,
        "ds": pl.String,
        "predict_at": pl.Datetime("us", "UTC"),
        "score": pl.Float64,
        "model_name": pl.String,
        "model_version": pl.Int64,
        "model_run_id": pl.String,
        "feature_hash": pl.String,
        "predicted_at": pl.Datetime("us", "UTC"),
        "model_selection": pl.String,
    }
    assert rows.height == result.table.rows == result.metrics["rows"] == 200
    assert rows["ds"].unique().to_list() == [DAY]
    wanted = world.table("fresh").filter(pl.col("ds") == DAY)["flight_id"]
    assert sorted(rows["flight_id"]) == sorted(wanted)
    said = rows.select("model_name", "model_version", "model_run_id", "feature_hash", "model_selection")
    assert said.unique().rows() == [("delays", 1, run_id, FEATURE_HASH, "champion now")]
    assert before <= rows["predicted_at"].min() <= datetime.now(UTC)
    assert rows["score"].is_between(0, 1).all()
    assert result.metrics["mean_score"] == pytest.approx(rows["score"].mean())
    assert result.summary["model"] == "delays/1"
    assert result.links["Model"].endswith("#/models/delays/versions/1")


@pytest.mark.parametrize("version", [1, 2])
def test_scores_are_those_of_the_model_whatever_the_batches_and_threads(world: World, version: int) -> None:
    import mlflow

    scored = []
    # A file, which is a row group, has 200 rows.
    for rows, threads in ((7, 2), (199, 1), (201, 2), (100_000, 2)):
        with threadpool_limits(threads):
            world.done("predict", prediction(f"by_{rows}_{version}", version=version, batch_rows=rows))
        scored.append(world.table(f"by_{rows}_{version}").sort("flight_id")["score"])
    # To the last bit.
    assert all(each.to_list() == scored[0].to_list() for each in scored[1:])
    # MLflow's own way of using the model agrees.
    mlflow.set_tracking_uri(world.mlflow)
    given = world.table("fresh").sort("flight_id").with_columns(pl.col("night").cast(pl.Float64)).to_pandas()
    if version == 2:
        given["origin"] = given["origin"].astype("category")
        expected = mlflow.lightgbm.load_model("models:/delays/2").predict(
            given[["distance", "night", "weather__temp", "origin"]]
        )
    else:
        expected = mlflow.pyfunc.load_model("models:/delays/1").predict(given)[:, 1]
    assert scored[1].to_list() == pytest.approx(list(expected), abs=1e-12)


def test_a_partition_is_replaced_and_the_others_are_left_alone(world: World) -> None:
    world.done("predict", prediction("replaced"))
    before = world.table("replaced")
    result = world.done("predict", prediction("replaced", DAY, version=2))
    after = world.table("replaced")
    assert result.table.rows == 200
    others = pl.col("ds") != DAY
    assert after.filter(others).sort("flight_id").equals(before.filter(others).sort("flight_id"))
    assert after.filter(~others)["model_version"].unique().to_list() == [2]
    assert after.height == before.height == 800


def test_the_same_prediction_again_publishes_nothing(world: World) -> None:
    first = world.done("predict", prediction("again", DAY))
    before = world.table("again")
    second = world.done(
        "predict", prediction("again", DAY), step_key="another step", fingerprint=first.fingerprint
    )
    assert second.table.version == first.table.version
    assert (first.table.changed, second.table.changed) == (True, False)
    assert world.table("again").equals(before)
    assert second.metrics == first.metrics


def test_the_same_spec_by_hand_predicts_again_once_the_alias_has_moved(world: World) -> None:
    world.done("predict", prediction("followed", DAY))
    world.client.set_registered_model_alias("delays", "champion", "2")
    try:
        world.done("predict", prediction("followed", DAY))
    finally:
        world.client.set_registered_model_alias("delays", "champion", "1")
    assert world.table("followed")["model_version"].unique().to_list() == [2]


def test_a_day_without_rows_is_skipped_with_the_reason(world: World) -> None:
    result = world.run("predict", prediction("skipped", "2014-01-01"))
    assert result.status == "skipped"
    assert (
        result.reason == "there are no rows to predict in partitions 2014-01-01 of table 'fresh', version 0"
    )
    assert not (world.folder_of("").parent / "tables/skipped").exists()


def test_a_type_of_the_user_is_found_where_the_users_code_is(world: World) -> None:
    import sys

    world.write(
        "halving",
        """
        import numpy as np
        import polars as pl
        from sklearn.base import BaseEstimator, TransformerMixin
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        class Half(TransformerMixin, BaseEstimator):
            def fit(self, X, y=None):
                self.feature_names_in_ = np.array(X.columns, dtype=object)
                return self
            def transform(self, X):
                return X / 2

        def train(rows: pl.DataFrame, label):
            model = make_pipeline(Half(), LogisticRegression())
            return model.fit(rows.select("distance").to_pandas(), rows[label])
        """,
    )
    world.train("halved", "halving:train", arguments={"trusted_types": ["halving.Half"]})
    del sys.modules["halving"]
    sys.path.remove(str(world.code))
    model = {"name": "halved", "version": 1}
    assert world.done("predict", prediction("halves", model=model)).metrics["rows"] == 800


def refused(world: World, arguments: dict[str, Any]) -> tuple[str, str]:
    failure = world.run("predict", arguments).failure
    assert failure is not None
    table = Store(world.store).table_uri(arguments["publish"]["name"])
    assert not DeltaTable.is_deltatable(table)
    return failure.kind, failure.message


def test_without_a_champion_it_says_what_to_do(world: World) -> None:
    kind, message = refused(world, prediction("never", model={"name": "nobody"}))
    assert kind == "data"
    assert f"there is no model nobody@champion in MLflow at {world.mlflow}" in message
    assert "run the training DAG" in message


def test_versions_by_partition_must_be_for_the_partitions_that_are_predicted(world: World) -> None:
    each = [{"model": {"name": "delays", "version": 1}, "partitions": "2013-01-01"}]
    kind, message = refused(world, prediction("never", "2013-01-01..2013-01-02", by_partition=each))
    assert kind == "config"
    assert "the partitions that have a version each are not the partitions to predict" in message


def test_rows_of_another_feature_definition_are_refused(world: World) -> None:
    world.publish(feature_rows(labels=False), table="others", feature_hash="beef" * 16)
    kind, message = refused(world, prediction("never", table={"name": "others"}))
    assert kind == "data"
    assert "'others' were built by the feature definition beefbeefbeef" in message
    assert "delays/1 was trained on f00df00df00d" in message
    assert "train and promote a version on rows of the new one" in message


def test_a_feature_that_has_changed_its_type_is_refused(world: World) -> None:
    world.publish(
        feature_rows(labels=False).with_columns(origin=pl.lit(1), distance=pl.lit("far")), table="typed"
    )
    kind, message = refused(world, prediction("never", table={"name": "typed"}))
    assert kind == "data"
    assert "distance (text now), origin (number now)" in message


def test_a_failure_halfway_leaves_the_table_as_it_was(world: World) -> None:
    world.done("predict", prediction("halfway"))
    before = world.table("halfway")
    broken = feature_rows(labels=False).with_columns(
        night=pl.when(pl.col("ds") == "2013-01-03")
        .then(pl.lit(float("inf")))
        .otherwise(pl.col("night").cast(float))
    )
    world.publish(broken, table="broken")
    failure = world.run("predict", prediction("halfway", table={"name": "broken"}, batch_rows=50)).failure
    assert failure is not None
    assert "could not score rows" in failure.message
    assert world.table("halfway").equals(before)


def kill_when(happened: Callable[[], bool], spec: StepSpec, folder: Path) -> bool:
    """Start a step and kill it as soon as something has happened; whether it was still running."""
    process = start(spec, folder)
    while process.is_alive() and not happened():
        time.sleep(0.0005)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def test_killed_anywhere_and_tried_again_the_table_is_that_of_an_undisturbed_run(
    world: World, tmp_path: Path
) -> None:
    world.publish(feature_rows(days=4, rows_a_day=500, labels=False), table="many")
    arguments = prediction("killed", table={"name": "many"}, batch_rows=20)
    undisturbed = world.done("predict", {**arguments, "publish": {"name": "undisturbed"}})
    assert undisturbed.table.rows == 2_000
    new = without_time(world.table("undisturbed"))
    world.done("predict", {**arguments, "model": {"name": "delays", "version": 2}})
    old = without_time(world.table("killed"))

    folder = local_path(Store(world.store).table_uri("killed"))
    spec = world.spec("predict", arguments, step_key="killed", fingerprint="f")
    scratch = f"{spec.step_key}-*"
    known = {path for path in folder.rglob("*") if path.is_file()}

    def new_files(pattern: str) -> bool:
        return any(path not in known for path in folder.glob(pattern) if path.is_file())

    moments: dict[str, Callable[[], bool]] = {
        "it writes rows": lambda: new_files("ds=*/*"),
        "it has committed": lambda: new_files("_delta_log/*.json"),
    }
    for moment, happened in moments.items():
        assert kill_when(happened, spec, tmp_path), moment
        now = without_time(world.table("killed"))
        assert now.equals(new if moment == "it has committed" else old), moment
        known |= {path for path in folder.glob("ds=*/*") if path.is_file()}
        for left in Path(tempfile.gettempdir()).glob(scratch):
            shutil.rmtree(left)
    committed = DeltaTable(folder).version()
    process = start(spec, tmp_path)
    process.join()
    assert process.exitcode == 0
    assert without_time(world.table("killed")).equals(new)
    assert DeltaTable(folder).version() == committed
