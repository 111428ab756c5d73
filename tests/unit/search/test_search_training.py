"""A search for the best training: the model that a single training would give, and what MLflow has of it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from model_world import World, feature_rows
from search_world import Search

from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.steps import models

LEAVES = {"num_leaves": {"type": "integers", "low": 2, "high": 31, "log": True}}
TRAININGS = """
    import lightgbm
    import numpy as np
    import pandas as pd
    from sklearn.metrics import log_loss

    def train(rows: pd.DataFrame, features, label, params, seed, trial):
        fit, rest = rows[rows["ds"] < "2013-01-04"], rows[rows["ds"] >= "2013-01-04"]
        held_out = rest[features].astype({"origin": "category"})
        data = lightgbm.Dataset(fit[features].astype({"origin": "category"}), fit[label])
        settings = {"objective": "binary", "seed": seed, "deterministic": True, "force_row_wise": True,
                    "verbose": -1, "num_threads": 1, **params}
        model = lightgbm.Booster(settings, data)
        for step in range(1, 9):
            model.update()
            loss = log_loss(rest[label], model.predict(held_out))
            trial.report(loss, step)
            if trial.should_stop():
                raise RuntimeError("told to stop")
        return model, {"log_loss": loss, "leaves": params["num_leaves"]}
"""


@pytest.fixture(scope="module")
def searched(mlflow_uri: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Search, StepResult]:
    """A search over trainings that was run to its end."""
    world = World.at(tmp_path_factory.mktemp("searched"), mlflow_uri)
    world.publish(feature_rows())
    world.write("searched_trainings", TRAININGS)
    search = Search(world.store, world.code, world.mlflow)
    return world, search, search.done("searched_trainings:train", **given())


def given(**more: Any) -> dict[str, Any]:
    return {
        "space": LEAVES, "metric": "-log_loss", "trials": 14, "batch": 5, "sampler": "tpe", "seed": 4,
        "table": {"name": "rows"}, "model": {"name": "searched"}, "params": {"learning_rate": 0.2},
        "pruner": {"type": "percentile", "startup_trials": 3}, **more,
    }  # fmt: skip


def test_the_best_trial_is_trained_again_and_is_the_challenger(
    searched: tuple[World, Search, StepResult], tmp_path: Path
) -> None:
    world, search, result = searched
    spec = search.spec("searched_trainings:train", **given())
    done = {n: record for n, record in search.records(spec).items() if record.state == "done"}
    best = min(done, key=lambda number: (done[number].metrics["log_loss"], number))
    version = world.client.get_model_version_by_alias("searched", "challenger")
    assert result.model is not None
    assert int(version.version) == result.model.version == 1
    assert version.tags["airflow_ml.search_trial"] == str(best)
    assert float(version.tags["airflow_ml.search_value"]) == done[best].metrics["log_loss"]
    run = world.client.get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED"
    # The refit has measured the same as the trial: same rows, parameters and seed.
    assert run.data.metrics["log_loss"] == done[best].metrics["log_loss"] == result.metrics["best_log_loss"]
    assert run.data.metrics["train_roc_auc"] == result.metrics["train_roc_auc"]
    # And it is, byte for byte, what a single training gives with these parameters.
    params = {"learning_rate": 0.2, **result.summary["best parameters"]}
    single = world.train(
        "by_itself", "searched_trainings:train", arguments={"params": params}, seed=4, step_key="by-itself"
    )
    rows = world.table("rows")
    scores = []
    for number, run_id in enumerate((result.mlflow_run_id, single.mlflow_run_id)):
        folder = tmp_path / str(number)
        folder.mkdir()
        model = models.load(Path(world.client.download_artifacts(run_id, "model", str(folder))), run_id)
        scores.append(model.scores(rows.select(model.inputs.expressions())).tobytes())
    assert scores[0] == scores[1]


def test_mlflow_has_every_trial_in_one_runs_history_and_the_best_as_runs_of_their_own(
    searched: tuple[World, Search, StepResult],
) -> None:
    world, search, result = searched
    records = search.records(search.spec("searched_trainings:train", **given()))
    done = [record for record in records.values() if record.state == "done"]
    assert 3 < len(done) < 14
    history = world.client.get_metric_history(result.mlflow_run_id, "trial_log_loss")
    assert {(point.step, point.value) for point in history} == {
        (record.number, record.metrics["log_loss"]) for record in done
    }
    assert len(history) == len(done)
    points = world.client.get_metric_history(result.mlflow_run_id, "best_log_loss")
    best = [point.value for point in sorted(points, key=lambda point: point.step)]
    assert best == sorted(best, reverse=True)
    assert best[-1] == min(record.metrics["log_loss"] for record in done)
    experiment = world.client.get_experiment_by_name("searches")
    own = world.client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{result.mlflow_run_id}'"
    )
    assert len(own) == min(10, len(done))
    assert {int(run.data.tags["airflow_ml.trial"]) for run in own} <= {record.number for record in done}
    kept = {each.path for each in world.client.list_artifacts(result.mlflow_run_id, "search")}
    assert {"search/history.png", "search/slices.png", "search/trials.parquet", "search/report.html"} <= kept
    table = pl.read_parquet(world.client.download_artifacts(result.mlflow_run_id, "search/trials.parquet"))
    assert table["state"].value_counts().sort("state").rows() == [
        ("done", len(done)),
        ("stopped", 14 - len(done)),
    ]


def test_a_retry_after_the_model_was_registered_makes_nothing_twice(
    searched: tuple[World, Search, StepResult],
) -> None:
    world, search, result = searched
    history = world.client.get_metric_history(result.mlflow_run_id, "trial_log_loss")
    again = search.done("searched_trainings:train", **given())
    assert (again.model, again.mlflow_run_id) == (result.model, result.mlflow_run_id)
    assert len(world.client.search_model_versions("name = 'searched'")) == 1
    assert len(world.client.get_metric_history(again.mlflow_run_id, "trial_log_loss")) == len(history)


def test_a_search_needs_a_tracking_server_to_register_a_model_and_says_so_at_once(
    searched: tuple[World, Search, StepResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, search, _ = searched
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    alone = Search(f"{search.store}-alone", search.code)
    assert "needs MLflow and no tracking server is configured" in alone.failed(
        "searched_trainings:train", **given()
    )
