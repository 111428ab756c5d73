"""Train, with a real MLflow: what is kept, what is refused, and what a second try does."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

import mlflow
import mlflow.pyfunc
import pandas as pd
import polars as pl
import pytest
from model_world import FEATURE_HASH, World, feature_rows
from threadpoolctl import threadpool_limits

from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.steps.__main__ import report


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> World:
    world = World.at(tmp_path_factory.mktemp("train"), mlflow_uri)
    world.publish(feature_rows())
    return world


@pytest.fixture(scope="module")
def trained(world: World) -> StepResult:
    arguments = {"params": {"C": 0.5, "note": ["a", 1]}}
    return world.train("kept", partitions="2013-01-01..2013-01-03", arguments=arguments, seed=7)


def artifact(world: World, run_id: str, name: str) -> Path:
    return Path(world.client.download_artifacts(run_id, name))


def test_a_trained_model_is_the_challenger_with_all_it_comes_from(world: World, trained: StepResult) -> None:
    version = world.client.get_model_version_by_alias("kept", "challenger")
    assert int(version.version) == trained.model.version == 1
    assert version.run_id == trained.model.run_id == trained.mlflow_run_id
    tags = {key.removeprefix("airflow_ml."): value for key, value in version.tags.items()}
    assert tags["feature_hash"] == FEATURE_HASH
    assert tags["features"] == "flights.features:LATE_ARRIVAL"
    assert tags["tables"] == "rows@0"
    assert tags["partitions"] == "2013-01-01..2013-01-03"
    assert tags["fingerprint"] == trained.fingerprint
    assert tags["step_key"] == trained.step_key
    assert tags["flavor"] == "sklearn"
    assert tags["code_commit"] == "abc123"
    assert len(tags["artifact_digest"]) == 64


def test_its_run_has_parameters_metrics_dataset_and_documents(world: World, trained: StepResult) -> None:
    run = world.client.get_run(trained.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"function": "delay_models:linear", "seed": "7", "C": "0.5", "note": '["a", 1]'}
    assert 0.7 < run.data.metrics["train_roc_auc"] < 0.9
    assert run.data.metrics["train_rows"] == trained.summary["rows"]
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"
    assert run.data.tags["mlflow.source.name"] == "delay_models:linear"
    assert run.data.tags["mlflow.user"] == "ada"
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("rows", "v0")
    assert json.loads(dataset.dataset.source)["delta_table_version"] == 0
    profile = json.loads(artifact(world, run.info.run_id, "reference_profile.json").read_text())
    assert set(profile["columns"]) == {"distance", "night", "weather__temp", "origin", "score"}
    assert profile["rows"] == trained.summary["rows"]
    kinds = {name: column["kind"] for name, column in profile["columns"].items()}
    assert (kinds["night"], kinds["origin"], kinds["score"]) == ("numeric", "categorical", "numeric")
    roles = json.loads(artifact(world, run.info.run_id, "feature_rows.json").read_text())
    assert roles["key"] == ["flight_id"]
    assert trained.links["MLflow run"].endswith(run.info.run_id)


def test_mlflow_shows_its_signature_and_can_use_it(world: World, trained: StepResult) -> None:
    page = f"{world.mlflow}/model-versions/get-artifact?name=kept&version=1&path=MLmodel"
    with urllib.request.urlopen(page) as answer:
        assert b"signature" in answer.read()
    mlflow.set_tracking_uri(world.mlflow)
    model = mlflow.pyfunc.load_model("models:/kept/1")
    assert model.metadata.get_input_schema().input_names() == ["distance", "night", "weather__temp", "origin"]
    assert [str(kind) for kind in model.metadata.get_input_schema().input_types()].count(
        "DataType.string"
    ) == 1
    requirements = artifact(world, trained.mlflow_run_id, "model/requirements.txt").read_text()
    assert "scikit-learn==" in requirements
    assert "skops==" in requirements
    example = model.input_example
    assert isinstance(example, pd.DataFrame)
    assert model.predict(example).shape == (5, 2)


@pytest.mark.parametrize("function", ["linear", "boosted"])
def test_the_same_training_twice_gives_the_same_scores_byte_for_byte(world: World, function: str) -> None:
    scores = []
    for attempt, threads in enumerate((1, 3)):
        name = f"twice_{function}"
        with threadpool_limits(threads):
            result = world.train(name, function, seed=5, step_key=f"{name}-{attempt}", fingerprint=name)
            publish = {"name": f"{name}_{attempt}"}
            arguments = {"model": {"name": name, "version": result.model.version}, "publish": publish}
            world.done("predict", {**arguments, "table": {"name": "rows"}})
        predictions = world.table(publish["name"]).sort("ds", "flight_id")
        assert predictions["model_version"].unique().to_list() == [attempt + 1]
        scores.append(predictions["score"].to_numpy().tobytes())
    assert len(scores[0]) == 800 * 8
    assert scores[0] == scores[1]


def test_a_function_that_draws_without_a_seed_is_repeatable_all_the_same(world: World) -> None:
    world.write(
        "drawing",
        """
        import random
        import numpy as np
        import polars as pl
        from sklearn.linear_model import LogisticRegression

        def train(rows: pl.DataFrame, label):
            weights = np.random.rand(rows.height) + random.random()
            return LogisticRegression().fit(rows.select("distance").to_pandas(), rows[label], weights)
        """,
    )
    losses = [
        world.train("drawn", "drawing:train", seed=seed, step_key=f"drawn-{n}").metrics["train_log_loss"]
        for n, seed in enumerate((1, 1, 2))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_a_second_try_takes_the_version_of_the_first_and_trains_nothing(world: World) -> None:
    first = world.train("again", step_key="again", seed=11)
    calls = sys.modules["delay_models"].CALLS
    before = len(calls)
    world.client.delete_registered_model_alias("again", "challenger")
    second = world.train("again", step_key="again", seed=11)
    assert len(calls) == before
    assert second.model == first.model
    assert second.metrics == first.metrics
    assert world.client.get_model_version_by_alias("again", "challenger").version == "1"
    assert len(world.client.search_model_versions("name = 'again'")) == 1


def test_a_late_second_try_leaves_the_alias_with_the_newer_version(world: World) -> None:
    world.train("late_try", step_key="older")
    newer = world.train("late_try", step_key="newer")
    retried = world.train("late_try", step_key="older")
    assert retried.model.version == 1
    assert "stays at the newer version 2" in retried.warnings[0]
    assert (
        int(world.client.get_model_version_by_alias("late_try", "challenger").version) == newer.model.version
    )


def test_a_model_may_come_with_metrics_and_use_fewer_features_in_its_own_order(world: World) -> None:
    world.write(
        "fewer",
        """
        import pandas as pd
        from lightgbm import LGBMClassifier

        def train(rows: pd.DataFrame, label, seed):
            model = LGBMClassifier(n_estimators=3, random_state=seed, verbose=-1)
            return model.fit(rows[["weather__temp", "distance"]], rows[label]), {"own": 1}
        """,
    )
    result = world.train("fewer", "fewer:train")
    assert result.metrics["own"] == 1.0
    mlflow.set_tracking_uri(world.mlflow)
    described = mlflow.models.get_model_info("models:/fewer/1")
    assert described.signature.inputs.input_names() == ["weather__temp", "distance"]
    assert set(described.flavors) == {"lightgbm", "python_function"}
    assert described.metadata["airflow_ml"]["features"] == ["weather__temp", "distance"]


def test_rows_come_sorted_and_without_what_is_known_with_the_label(
    world: World,
) -> None:
    world.write(
        "looking",
        """
        import polars as pl
        from delay_models import linear

        def train(rows: pl.DataFrame, features, label, params, seed):
            assert rows.equals(rows.sort("ds", "flight_id"))
            assert rows.schema["night"] == pl.Float64
            assert rows.schema["origin"] == pl.String
            assert rows[label].null_count() == 0
            assert "label_known_at" not in rows.columns and "carrier" in rows.columns
            return linear(rows, features, label, params, seed)
        """,
    )
    assert world.train("looked", "looking:train").summary["rows"] < 800


@pytest.mark.parametrize(
    ("rows", "partitions", "message"),
    [
        (
            lambda f: f.with_columns(late=pl.lit(None, pl.Int64)),
            "",
            "the label 'late' is null in all 800 rows",
        ),
        (lambda f: f.with_columns(late=pl.lit(1)), "", "the label 'late' is 1 in all 800 labelled rows"),
        (lambda f: f.with_columns(late=pl.col("late") * 2), "", "is neither 0 nor 1 in"),
        (lambda f: f.drop("late", "label_known_at"), "", "built without labels"),
        (lambda f: f, "2014-01-01", "there are no rows in table 'bad', version"),
        (lambda f: f.with_columns(distance=pl.col("predict_at")), "", "distance (Datetime("),
    ],
    ids=["all null", "one class", "no label", "without labels", "no rows", "a time"],
)
def test_rows_that_nothing_can_be_learnt_from_are_refused(world: World, rows, partitions, message) -> None:  # type: ignore[no-untyped-def]
    world.publish(rows(feature_rows()), table="bad")
    arguments = {"function": "delay_models:linear", "table": {"name": "bad"}, "model": {"name": "never"}}
    result = world.run("train", {**arguments, "partitions": partitions})
    assert result.failure is not None
    assert result.failure.kind == "data"
    assert message in result.failure.message


BAD_CODE = """
    import lightgbm
    import mlflow.pyfunc
    import numpy as np
    import polars as pl
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    def raises(rows: pl.DataFrame):
        return {}["the answer"]

    def wrongly_annotated(rows: dict):
        ...

    def wants_more(rows: pl.DataFrame, fetaures):
        ...

    def nothing(rows: pl.DataFrame):
        ...

    class Guess(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return [0.5] * len(model_input)

    def pickled(rows: pl.DataFrame):
        return Guess()

    def with_lambda(rows: pl.DataFrame, label):
        model = make_pipeline(FunctionTransformer(lambda x: x), LogisticRegression())
        return model.fit(rows.select("distance").to_pandas(), rows[label])

    class Half(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None):
            self.feature_names_in_ = np.array(X.columns, dtype=object)
            return self
        def transform(self, X):
            return X / 2

    def with_own_type(rows: pl.DataFrame, label):
        given = rows.select("distance").to_pandas()
        return make_pipeline(Half(), LogisticRegression()).fit(given, rows[label])

    def no_probabilities(rows: pl.DataFrame, label):
        return Ridge().fit(rows.select("distance").to_pandas(), rows[label])

    def leaky(rows: pl.DataFrame, label):
        return LogisticRegression().fit(rows.select("distance", "flight_id").to_pandas(), rows[label])

    def cannot_be_missing(rows: pl.DataFrame, label):
        complete = rows.drop_nulls()
        return LogisticRegression().fit(complete.select("weather__temp").to_pandas(), complete[label])

    def encoded_outside(rows: pl.DataFrame, features, label):
        given = rows.select(features).with_columns(pl.col("origin").cast(pl.Categorical).to_physical())
        return lightgbm.train({"objective": "binary", "verbose": -1},
                              lightgbm.Dataset(given.to_pandas(), rows[label].to_numpy()), 2)

    def no_probability(rows: pl.DataFrame, label):
        data = lightgbm.Dataset(rows.select("distance").to_pandas(), rows[label].to_numpy() * 9.0 - 4)
        return lightgbm.train({"objective": "regression", "verbose": -1}, data, 30)

    def bad_metric(rows: pl.DataFrame, label):
        return LogisticRegression(), {"roc": "good"}
"""


@pytest.fixture(scope="module")
def bad_code(world: World) -> World:
    world.write("bad_code", BAD_CODE)
    return world


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        ("raises", "user", "bad_code:raises raised KeyError: 'the answer'"),
        ("wrongly_annotated", "user", "pl.LazyFrame, pl.DataFrame, pd.DataFrame"),
        ("wants_more", "user", "did you mean 'features'?"),
        ("wants_more", "user", "values: features, label, params, seed"),
        ("raise", "user", "did you mean 'raises'?"),
        ("nothing", "config", "the training function gave nothing (None)"),
        ("pickled", "config", "bad_code.Guess, and there is no way to keep that without pickle"),
        ("pickled", "config", "give a model of sklearn, lightgbm, xgboost, catboost, pytorch"),
        ("with_lambda", "config", "cannot be saved without pickle"),
        ("with_own_type", "config", 'TrainOperator(trusted_types=["bad_code.Half"])'),
        ("no_probabilities", "user", "a Ridge, has no predict_proba"),
        ("leaky", "user", "fitted with columns that are no features: flight_id"),
        ("cannot_be_missing", "user", "with the features weather__temp: ValueError: Input X contains NaN"),
        ("encoded_outside", "user", "text is what it is given in origin"),
        ("no_probability", "data", "gave scores that are no probabilities"),
        ("bad_metric", "user", "bad_code:bad_metric gave the metric 'roc' as 'good', not as a number"),
    ],
)  # fmt: skip
def test_code_that_gives_no_usable_model_is_told_what_to_do(
    bad_code: World, function: str, kind: str, message: str
) -> None:
    arguments = {"function": f"bad_code:{function}", "table": {"name": "rows"}, "model": {"name": "never"}}
    result = bad_code.run("train", arguments)
    assert result.failure is not None
    assert result.failure.kind == kind
    assert message in result.failure.message
    if result.mlflow_run_id:
        assert bad_code.client.get_run(result.mlflow_run_id).info.status == "FAILED"
    assert not [m for m in bad_code.client.search_registered_models() if m.name == "never"]


def test_the_traceback_of_the_user_comes_first(bad_code: World, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"function": "bad_code:raises", "table": {"name": "rows"}, "model": {"name": "never"}}
    assert report(bad_code.run("train", arguments)) == 65
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "bad_code.py" in lines[1]
    assert 'return {}["the answer"]' in lines[2]
    assert lines[-3].startswith("user error: bad_code:raises raised KeyError")


def test_a_type_that_is_trusted_by_name_is_kept_and_loaded(bad_code: World) -> None:
    trusted = {"trusted_types": ["bad_code.Half"]}
    result = bad_code.train("own_type", "bad_code:with_own_type", arguments=trusted)
    assert result.metrics["train_roc_auc"] > 0.6


def test_a_tracking_server_that_does_not_answer_is_named_and_worth_a_retry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    arguments = {"function": "delay_models:linear", "table": {"name": "rows"}, "model": {"name": "never"}}
    result = world.run("train", arguments, mlflow="http://127.0.0.1:9")
    assert result.failure is not None
    assert result.failure.kind == "transient"
    assert "MLflow at http://127.0.0.1:9 is not reachable" in result.failure.message
    assert "check that the server runs" in result.failure.message


def test_a_model_name_may_have_blanks_and_quotes(world: World) -> None:
    name = "it's 100 % a model"
    assert world.train(name).model.version == 1
    assert world.client.get_model_version_by_alias(name, "challenger").version == "1"
