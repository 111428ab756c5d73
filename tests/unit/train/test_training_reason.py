"""Why a model was trained, where people look for it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from model_world import World, feature_rows

from airflow_ml_provider.contract.documents import read_spec
from airflow_ml_provider.steps.runner import run_step


def test_the_reason_is_a_tag_of_the_run_and_of_the_version(tmp_path: Path, mlflow_uri: str) -> None:
    world = World.at(tmp_path, mlflow_uri)
    world.publish(feature_rows(2))
    arguments = {
        "function": "delay_models:linear",
        "table": {"name": "rows"},
        "model": {"name": "trained_for_a_reason"},
    }
    spec = world.spec("train", arguments)
    reason = "retrain:trained_for_a_reason 2013-06-05: the score moved"
    spec = msgspec.structs.replace(spec, run=msgspec.structs.replace(spec.run, reason=reason))

    result = run_step(read_spec(spec.encode(), source="the test"))

    assert result.status == "success", result.failure
    version = world.client.get_model_version_by_alias("trained_for_a_reason", "challenger")
    assert version.tags["airflow_ml.training_reason"] == reason
    assert world.client.get_run(result.mlflow_run_id).data.tags["airflow_ml.reason"] == reason
