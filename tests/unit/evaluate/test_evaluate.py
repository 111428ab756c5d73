"""Evaluate, with a real MLflow: the verdict, what it rests on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from model_world import World, feature_rows
from sklearn.metrics import roc_auc_score

from airflow_ml_provider.contract.documents import StepResult

TRAINING, EVALUATION = "2013-01-01..2013-01-04", "2013-01-05..2013-01-08"
GATES = [{"metric": "roc_auc", "at_least": 0.6}, {"metric": "roc_auc", "worse_by_at_most": 0.1}]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> World:
    """Version 1 of ``judged`` is a good linear model, 2 a boosted one, 3 a guess; none is champion."""
    world = World.at(tmp_path_factory.mktemp("evaluate"), mlflow_uri)
    world.publish(feature_rows(days=8))
    for function in ("linear", "boosted", "guess"):
        world.train("judged", function, TRAINING)
    return world


def evaluation(
    candidate: int, champion: int | None = None, *, model: str = "judged", **more: Any
) -> dict[str, Any]:
    return {
        "candidate": {"name": model, "version": candidate},
        "champion": champion and {"name": "judged", "version": champion},
        "table": {"name": "rows"},
        "partitions": EVALUATION,
        "gates": GATES,
        "resamples": 60,
        **more,
    }


@pytest.fixture(scope="module")
def compared(world: World) -> StepResult:
    slices = ["origin", "carrier", "night"]
    return world.done("evaluate", evaluation(2, champion=1, slices=slices), seed=4, step_key="compared")


def artifact(world: World, run_id: str, name: str) -> Path:
    return Path(world.client.download_artifacts(run_id, name))


def test_the_first_candidate_ever_is_judged_by_itself(world: World) -> None:
    result = world.done("evaluate", evaluation(1))
    assert result.verdict["decision"] == "promote"
    assert result.verdict["champion"] is None
    assert result.verdict["differences"] is None
    assert [gate["reason"] for gate in result.verdict["gates"]][1] == "there is no champion yet"
    assert result.summary["champion"] == "none yet"
    assert result.model.version == 1


def test_both_are_measured_on_the_same_labelled_rows(world: World, compared: StepResult) -> None:
    verdict = compared.verdict
    labelled = world.table("rows").filter(pl.col("late").is_not_null() & (pl.col("ds") >= "2013-01-05"))
    assert verdict["rows"] == labelled.height
    assert verdict["positives"] == labelled["late"].sum()
    assert (verdict["table"], verdict["version"], verdict["partitions"]) == ("rows", 0, EVALUATION)
    for number, name in ((2, "metrics"), (1, "champion_metrics")):
        publish = {"name": f"scores_{number}"}
        model = {"name": "judged", "version": number}
        world.done("predict", {"model": model, "table": {"name": "rows"}, "publish": publish})
        scored = labelled.join(world.table(publish["name"]).select("flight_id", "score"), on="flight_id")
        expected = roc_auc_score(scored["late"].to_numpy(), scored["score"].to_numpy())
        auc = verdict[name]["roc_auc"]
        assert auc["value"] == pytest.approx(expected, abs=1e-6)
        assert auc["low"] < auc["value"] < auc["high"]
    difference = verdict["differences"]["roc_auc"]
    between = verdict["metrics"]["roc_auc"]["value"] - verdict["champion_metrics"]["roc_auc"]["value"]
    assert difference["value"] == pytest.approx(between, abs=2e-6)
    # Paired: the models see the same rows, so their difference is known better than either.
    own = verdict["metrics"]["roc_auc"]
    assert difference["high"] - difference["low"] < own["high"] - own["low"]


def test_slices_part_the_rows(compared: StepResult) -> None:
    slices = compared.verdict["slices"]
    expected = {"origin": {"EWR", "JFK", "LGA"}, "carrier": {"AA", "B6", "UA"}, "night": {"0", "1"}}
    for column, values in expected.items():
        of_column = [each for each in slices if each["column"] == column]
        assert {each["value"] for each in of_column} == values
        assert sum(each["rows"] for each in of_column) == compared.verdict["rows"]
        assert sum(each["positives"] for each in of_column) == compared.verdict["positives"]
        assert all(each["roc_auc"]["low"] < each["roc_auc"]["high"] for each in of_column)


def test_the_same_again_gives_the_same_verdict_byte_for_byte(world: World, compared: StepResult) -> None:
    arguments = evaluation(2, champion=1, slices=["origin", "carrier", "night"])
    again = world.done("evaluate", arguments, seed=4, step_key="again", fingerprint="other")
    assert again.mlflow_run_id != compared.mlflow_run_id
    first, second = (world.folder_of(key) for key in ("compared", "again"))
    assert (first / "verdict.json").read_bytes() == (second / "verdict.json").read_bytes()
    assert (first / "report.html").read_bytes() == (second / "report.html").read_bytes()
    assert json.loads((first / "verdict.json").read_text()) == compared.verdict
    seeded = world.done("evaluate", arguments, seed=5, step_key="otherwise")
    assert seeded.verdict["metrics"] != compared.verdict["metrics"]


def test_the_report_shows_gates_curves_slices_and_importance(world: World, compared: StepResult) -> None:
    page = artifact(world, compared.mlflow_run_id, "report.html").read_text()
    assert page == (world.folder_of("compared") / "report.html").read_text()
    banner, gate = "Every gate passed: promote", "roc_auc &gt;= 0.6"
    parts = (
        "ROC curve",
        "Calibration",
        "By carrier",
        "Permutation importance",
        "Contributions to the score",
        "weather__temp",
    )
    for words in ("judged/2 against champion 1", banner, gate, *parts):
        assert words in page, words
    assert page.count("<svg") == 6
    assert "<script" not in page
    assert compared.links["Report"].endswith(f"{compared.mlflow_run_id}/artifacts/report.html")


def test_mlflow_has_the_numbers_and_the_candidate_its_held_out_scores(
    world: World, compared: StepResult
) -> None:
    run = world.client.get_run(compared.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["roc_auc"] == compared.metrics["roc_auc"]
    assert {"champion_log_loss", "difference_brier_score"} <= set(run.data.metrics)
    assert run.inputs.dataset_inputs[0].tags[0].value == "evaluation"
    assert json.loads(artifact(world, run.info.run_id, "verdict.json").read_text()) == compared.verdict
    profile = json.loads(artifact(world, compared.model.run_id, "score_profile.json").read_text())
    assert profile["rows"] == compared.verdict["rows"]
    assert sum(profile["columns"]["score"]["counts"]) == compared.verdict["rows"]


def test_a_rejected_candidate_is_no_failure(world: World) -> None:
    gates = [*GATES, {"metric": "roc_auc", "at_least": 0.5, "slice_by": "origin"}]
    result = world.done("evaluate", evaluation(3, champion=1, gates=gates))
    verdict = result.verdict
    assert verdict["decision"] == "reject"
    assert [gate["passed"] for gate in verdict["gates"]] == [False, False, True]
    assert "may be worse by" in verdict["gates"][1]["reason"]
    assert "roc_auc >= 0.6: 0.5000 is not at least 0.6" in result.summary["failed gates"]


def test_the_champion_is_found_by_its_alias_and_may_be_the_candidate(world: World) -> None:
    world.client.set_registered_model_alias("judged", "champion", "2")
    try:
        verdict = world.done("evaluate", evaluation(2)).verdict
    finally:
        world.client.delete_registered_model_alias("judged", "champion")
    assert verdict["champion"] == verdict["model"]
    assert verdict["decision"] == "promote"
    assert verdict["differences"]["log_loss"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_rows_of_another_feature_definition_are_refused(world: World) -> None:
    world.publish(feature_rows(), table="others", feature_hash="beef" * 16)
    result = world.run("evaluate", evaluation(1, table={"name": "others"}, partitions=""))
    assert result.failure is not None
    assert result.failure.kind == "data"
    assert "definition beefbeefbeef of flights.features:LATE_ARRIVAL" in result.failure.message
    assert "judged/1 was trained on f00df00df00d of flights.features:LATE_ARRIVAL" in result.failure.message


def test_a_champion_of_another_feature_definition_fails_the_gates_against_it(world: World) -> None:
    world.client.set_model_version_tag("judged", "1", "airflow_ml.feature_hash", "beef" * 16)
    try:
        result = world.done("evaluate", evaluation(2, champion=1))
    finally:
        world.client.set_model_version_tag("judged", "1", "airflow_ml.feature_hash", "f00d" * 16)
    assert result.verdict["decision"] == "reject"
    assert result.verdict["champion"]["version"] == 1
    assert result.verdict["champion_metrics"] is None
    assert [gate["passed"] for gate in result.verdict["gates"]] == [True, False]
    assert "trained on another feature definition" in result.warnings[0]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"slices": ["orign"]}, "config", "did you mean 'origin'?"),
        ({"slices": ["distance"], "partitions": ""}, "config", "different values; a slice has at most 1,000"),
        ({"partitions": "2014-01-01"}, "data", "there are no rows in table 'rows', version 0"),
        ({"candidate": {"name": "judged", "version": 99}}, "data", "there is no model judged/99 to evaluate"),
        ({"candidate": {"name": "nobody"}}, "data", "there is no model nobody@champion to evaluate"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    world: World, change: dict[str, Any], kind: str, message: str
) -> None:
    result = world.run("evaluate", {**evaluation(1), **change})
    assert result.failure is not None
    assert result.failure.kind == kind
    assert message in result.failure.message


def test_rows_that_the_candidate_has_seen_and_missing_gates_are_told(world: World) -> None:
    result = world.done("evaluate", evaluation(1, partitions="2013-01-04..2013-01-05", gates=[]))
    for words in ("no gate was given", "judged/1 was trained on some of these rows"):
        assert any(words in warning for warning in result.warnings), words
    assert result.verdict["decision"] == "promote"


def test_artifacts_that_somebody_changed_are_not_loaded(world: World, tmp_path: Path) -> None:
    trained = world.train("tampered", "boosted", TRAINING)
    path = artifact(world, trained.mlflow_run_id, "model/model.lgb")
    (tmp_path / "model.lgb").write_bytes(path.read_bytes().replace(b"leaf_value=", b"leaf_value=9"))
    world.client.log_artifact(trained.mlflow_run_id, str(tmp_path / "model.lgb"), "model")
    result = world.run("evaluate", evaluation(1, model="tampered"))
    assert result.failure is not None
    assert result.failure.kind == "data"
    assert "artifacts of model tampered/1 are not those that were registered" in result.failure.message
    assert "They were not loaded" in result.failure.message


def test_a_version_registered_by_hand_is_refused_with_the_reason(world: World) -> None:
    run = world.client.create_run("0")
    world.client.create_registered_model("by_hand")
    world.client.create_model_version("by_hand", f"{run.info.artifact_uri}/model", run.info.run_id)
    result = world.run("evaluate", evaluation(1, model="by_hand"))
    assert result.failure is not None
    assert "by_hand/1 was not registered by a train step" in result.failure.message


def test_importance_is_the_loss_when_a_feature_is_shuffled_and_zero_for_one_that_is_not_used() -> None:
    import lightgbm

    from airflow_ml_provider.steps.flavors import flavor_named
    from airflow_ml_provider.steps.importance import permutation_importance
    from airflow_ml_provider.steps.models import Inputs, ScoringModel

    random = np.random.default_rng(0)
    rows = pl.DataFrame({name: random.normal(size=2000) for name in ("much", "little", "none")})
    odds = 2 * rows["much"] + 0.5 * rows["little"]
    labels = (random.random(2000) < 1 / (1 + np.exp(-odds.to_numpy()))).astype(np.int8)
    fitted = rows.with_columns(none=pl.lit(0.0)).to_numpy()
    data = lightgbm.Dataset(fitted, labels, feature_name=rows.columns)
    booster = lightgbm.train({"objective": "binary", "verbose": -1}, data, 20)
    inputs = Inputs.of(rows.columns, rows.schema)
    model = ScoringModel("m", flavor_named("lightgbm"), booster, inputs)
    found = permutation_importance(model, rows, labels, seed=1)
    assert [each.feature for each in found] == ["much", "little", "none"]
    assert found[0].drop > 0.2 > found[1].drop > 0
    assert (found[2].drop, found[2].low, found[2].high) == (0.0, 0.0, 0.0)
    assert found == permutation_importance(model, rows, labels, seed=1)
    assert permutation_importance(model, rows, np.ones(2000, np.int8), seed=1) == []
