"""Training, evaluation and promotion of an unchanged pipeline: no step computes, and MLflow is as it was asked for."""

from __future__ import annotations

import pytest
from memo_world import Pipeline, run
from model_world import World

from airflow_ml_provider.contract.errors import DataError


def test_the_second_run_of_an_unchanged_pipeline_computes_nothing(world: World) -> None:
    pipeline = Pipeline(world, "memo_pipeline")
    first = pipeline.run("run_1")
    assert pipeline.compute.verbs == ["train", "evaluate", "promote", "predict"]
    version = world.client.get_model_version_by_alias("memo_pipeline", "champion").version
    again = pipeline.run("run_2")
    assert pipeline.compute.verbs == ["train", "evaluate", "promote", "predict"]
    assert {output["cache"]["decision"] for output in again.values()} == {"hit"}
    # The candidate is the champion by now; the verdict that made it so is the one that counts.
    assert again["evaluate"]["verdict"] == first["evaluate"]["verdict"]
    assert again["promote"]["verdict"]["reason"] == "it is champion already"
    assert world.client.get_model_version_by_alias("memo_pipeline", "champion").version == version
    assert len(world.client.search_model_versions("name = 'memo_pipeline'")) == 1
    tags = world.client.get_run(first["train"]["mlflow_run_id"]).data.tags
    assert tags["airflow_ml.cache"] == "miss: this task has not computed it before"
    assert tags["airflow_ml.reused_by"] == "run run_2 of pipeline_memo_pipeline, task train"


def test_the_challenger_is_pointed_to_again_when_another_training_came_between(world: World) -> None:
    one = Pipeline(world, "memo_alias")
    other = Pipeline(world, "memo_alias", hyperparameters={"C": 0.5})
    run(one.train, "run_1")
    run(other.train, "run_1b")
    assert world.client.get_model_version_by_alias("memo_alias", "challenger").version == "2"
    again = run(one.train, "run_2")
    assert again["cache"]["decision"] == "hit"
    assert again["model"]["version"] == 1
    assert world.client.get_model_version_by_alias("memo_alias", "challenger").version == "1"


def test_a_model_version_that_was_deleted_is_trained_again(world: World) -> None:
    pipeline = Pipeline(world, "memo_deleted")
    run(pipeline.train, "run_1")
    world.client.delete_model_version("memo_deleted", "1")
    again = run(pipeline.train, "run_2")
    assert again["cache"]["why"] == "the model memo_deleted/1 is gone from MLflow"
    assert again["model"]["version"] == 2


def test_a_training_is_verified_without_a_new_version_and_one_with_noise_is_found_out(world: World) -> None:
    calm = Pipeline(world, "memo_calm")
    run(calm.train, "run_1")
    calm.train.cache = "verify"
    assert run(calm.train, "run_2")["cache"]["decision"] == "verified"
    world.write(
        "memo_noisy",
        """
        import os
        import polars as pl
        from delay_models import boosted

        def train(rows, features, label, params, seed):
            drawn = int.from_bytes(os.urandom(2))
            return boosted(rows, features, label, params, drawn), {"drawn": drawn}

        train.__annotations__ = boosted.__annotations__
        """,
    )
    noisy = Pipeline(world, "memo_noise", function="memo_noisy:train")
    run(noisy.train, "run_1")
    noisy.train.cache = "verify"
    with pytest.raises(DataError, match="the train step is not deterministic") as caught:
        run(noisy.train, "run_2")
    assert "the models' scores differ in " in str(caught.value)
    assert "metric drawn: " in str(caught.value)
    for model in ("memo_calm", "memo_noise"):
        assert len(world.client.search_model_versions(f"name = '{model}'")) == 1


def test_an_evaluation_and_predictions_are_verified_as_they_are(world: World) -> None:
    pipeline = Pipeline(world, "memo_verified")
    outputs = pipeline.run("run_1")
    scored = world.table("scores")
    for task in (pipeline.evaluate, pipeline.predict):
        task.cache = "verify"
        again = run(task, "run_2", outputs=outputs)
        assert again["cache"]["decision"] == "verified", task.task_id
    assert world.table("scores").equals(scored)
    assert pipeline.compute.verbs[4:] == ["evaluate?", "predict?"]
