"""Train, killed at every step of its way through MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from fatal_proxy import FatalProxy, Moment
from model_world import World, feature_rows, kill_at, start

# In the order in which the requests come; each try gets further than the one before it.
MOMENTS: tuple[tuple[str, str, Moment], ...] = (
    ("POST", "runs/create", "before"),
    ("POST", "runs/create", "after"),
    ("POST", "runs/log-batch", "after"),
    ("PUT", "artifacts/model/", "before"),
    ("PUT", "artifacts/model/model.lgb", "after"),
    ("PUT", "reference_profile.json", "after"),
    ("POST", "registered-models/create", "after"),
    ("POST", "model-versions/create", "before"),
    ("POST", "model-versions/create", "after"),
    ("POST", "registered-models/alias", "before"),
    ("POST", "registered-models/alias", "after"),
    ("POST", "runs/update", "after"),
)


# Before anything is there, between the model's files, between version and alias, and after the last of them.
FEW = (MOMENTS[1], MOMENTS[4], MOMENTS[8], MOMENTS[10])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> World:
    world = World.at(tmp_path_factory.mktemp("killed"), mlflow_uri)
    world.publish(feature_rows())
    return world


@pytest.mark.parametrize("moments", [FEW, pytest.param(MOMENTS, marks=pytest.mark.slow)], ids=["few", "all"])
def test_killed_anywhere_a_training_registers_one_version_that_can_be_used(
    world: World, tmp_path: Path, moments: tuple[tuple[str, str, Moment], ...]
) -> None:
    proxy = FatalProxy(world.mlflow)
    arguments = {"function": "delay_models:boosted", "table": {"name": "rows"}, "model": {"name": "killed"}}
    spec = world.spec("train", arguments, step_key="killed", fingerprint="f", mlflow=proxy.url)
    for moment in moments:
        assert kill_at(proxy, moment, spec, tmp_path), moment
        assert not (world.folder_of("killed") / "result.json").exists()
    process = start(spec, tmp_path)
    process.join()
    proxy.shutdown()
    assert process.exitcode == 0

    (version,) = world.client.search_model_versions("name = 'killed'")
    assert world.client.get_model_version_by_alias("killed", "challenger").version == version.version == "1"
    experiment = world.client.get_experiment_by_name("tests")
    (run,) = world.client.search_runs([experiment.experiment_id], "tags.`airflow_ml.step_key` = 'killed'")
    assert run.info.status == "FINISHED"
    assert version.run_id == run.info.run_id

    undisturbed = world.train("undisturbed", "boosted")
    scores = []
    for model in ("killed", "undisturbed"):
        # Predicting verifies that the artifacts are those whose digest was registered.
        arguments = {"model": {"name": model, "version": 1}, "table": {"name": "rows"}}
        world.done("predict", {**arguments, "publish": {"name": f"by_{model}"}})
        scores.append(world.table(f"by_{model}").sort("flight_id")["score"].to_numpy().tobytes())
    assert scores[0] == scores[1]
    assert undisturbed.metrics == run.data.metrics
