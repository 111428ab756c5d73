"""Models judged on live rows: on the same rows by their shadow scores, or each on its share of a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from model_world import World, feature_rows
from predicting import prediction
from sklearn.metrics import roc_auc_score

from airflow_ml_provider.contract.documents import ModelVersion
from airflow_ml_provider.contract.errors import ConfigError, DataError, MLError
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.live_rows import LiveRows, live_rows

DAYS = "2013-01-01..2013-01-04"
FIRST, SECOND = ModelVersion("delays", 1), ModelVersion("delays", 2)
LABELS = """
    import polars as pl

    from airflow_ml_provider import FeatureSet, Label

    def rows(outcomes: pl.LazyFrame) -> pl.LazyFrame:
        return outcomes

    def late(outcomes: pl.LazyFrame) -> pl.LazyFrame:
        return outcomes.select("flight_id", "late", "landed_at")

    SET = FeatureSet(rows=rows, key=("flight_id",), prediction_time="predict_at", row_features=("distance",),
                     label=Label("late", late, known_at="landed_at"))
"""


@pytest.fixture(scope="module")
def live(world: World) -> World:
    """Predictions with a shadow and with a split, and labels that are known five hours later."""
    world.write("live_labels", LABELS)
    labelled = feature_rows().rename({"label_known_at": "landed_at"})
    assert labelled["flight_id"].equals(feature_rows(labels=False)["flight_id"])
    world.publish(labelled, table="outcomes")
    second = {"name": "delays", "version": 2}
    world.done("predict", prediction("paired", version=1, challengers=[second]))
    split = [
        {"name": "challenger", "share": 0.3, "model": second},
        {"name": "champion", "share": 0.7, "model": {"name": "delays", "version": 1}},
    ]
    world.done("predict", prediction("unpaired", split=split, salt="exp1"))
    return world


def read(
    world: World, folder: Path, table: str, models: Sequence[ModelVersion] = (SECOND, FIRST), **more: Any
) -> LiveRows:
    given = {"partitions": DAYS, "features": "live_labels:SET", "label_tables": [Table("outcomes")], **more}
    return live_rows(StepContext(world.spec("evaluate", {}), folder), Table(table), models=models, **given)


def test_candidate_and_champion_are_compared_on_the_same_rows(live: World, tmp_path: Path) -> None:
    found = read(live, tmp_path, "paired", slices=["carrier"], rows=Table("fresh"))
    truth = feature_rows().filter(pl.col("late").is_not_null()).sort("ds", "flight_id")
    assert found.paired
    assert found.frame.columns == ["ds", "flight_id", "carrier", "label"]
    assert found.frame["flight_id"].equals(truth["flight_id"])
    assert found.frame["carrier"].equals(truth["carrier"])
    assert found.frame["label"].to_list() == truth["late"].to_list()
    assert dict(found.predicted) == {"delays/2": 800, "delays/1": 800}
    assert dict(found.matured) == {"delays/2": truth.height, "delays/1": truth.height}
    predicted = truth.join(live.table("paired"), on="flight_id", maintain_order="left")
    assert found.scores["delays/1"].tolist() == predicted["score"].to_list()
    assert found.scores["delays/2"].tolist() == [one[0]["score"] for one in predicted["shadow"].to_list()]


def test_models_that_share_the_keys_are_each_judged_on_their_own(live: World, tmp_path: Path) -> None:
    found = read(live, tmp_path, "unpaired")
    predictions = live.table("unpaired")
    assert not found.paired
    assert sum(found.predicted.values()) == 800
    assert sum(found.matured.values()) == found.frame.height < 800
    for model, version in (("delays/2", 2), ("delays/1", 1)):
        own, scores = found.of(model)
        made = predictions.filter(pl.col("model_version") == version)
        assert found.predicted[model] == made.height
        assert found.matured[model] == own.height == len(scores)
        joined = own.join(made, on="flight_id", maintain_order="left")
        assert scores.tolist() == joined["score"].to_list()


def test_labels_that_mature_later_do_not_count_yet(live: World, tmp_path: Path) -> None:
    found = read(live, tmp_path, "paired", known_at="2013-01-03T05:00:00Z")
    assert found.frame["ds"].unique().sort().to_list() == ["2013-01-01", "2013-01-02", "2013-01-03"]
    assert found.predicted["delays/1"] == 800
    none = read(live, tmp_path / "again", "paired", known_at="2012-12-31T00:00:00Z")
    assert (none.frame.height, none.matured["delays/2"], none.predicted["delays/2"]) == (0, 0, 800)


def test_a_model_alone_is_judged_on_all_that_it_predicted(live: World, tmp_path: Path) -> None:
    found = read(live, tmp_path, "paired", [FIRST], partitions="2013-01-02")
    assert found.paired
    assert dict(found.predicted) == {"delays/1": 200}


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"models": [ModelVersion("delays", 9)]}, DataError, "has no predictions of model delays/9"),
        ({"slices": ["carier"], "rows": Table("fresh")}, ConfigError, "no column 'carier' .* or 'fresh'"),
        ({"slices": ["carrier"]}, ConfigError, "name the feature rows that were predicted as rows="),
        ({"table": "outcomes"}, DataError, "so it holds no predictions"),
    ],
)
def test_what_cannot_be_judged_is_said(
    live: World, tmp_path: Path, given: dict[str, Any], kind: type[MLError], message: str
) -> None:
    with pytest.raises(kind, match=f"(?s){message}") as raised:
        read(live, tmp_path, given.pop("table", "paired"), **given)
    assert raised.type is kind


# The evaluate step on live rows


def evaluation(table: str, **more: Any) -> dict[str, Any]:
    return {
        "candidate": {"name": "delays", "version": 2},
        "champion": {"name": "delays", "version": 1},
        "predictions": {"name": table},
        "rows": {"name": "fresh"},
        "tables": [{"name": "outcomes"}],
        "features": "live_labels:SET",
        "partitions": DAYS,
        "gates": [{"metric": "roc_auc", "worse_by_at_most": 0.2, "minimum_rows": 50}],
        "slices": ["carrier"],
        "resamples": 200,
        **more,
    }


def test_a_shadow_is_judged_by_the_gates_of_a_promotion(live: World) -> None:
    result = live.done("evaluate", evaluation("paired"))
    verdict = result.verdict or {}
    truth = feature_rows().filter(pl.col("late").is_not_null())
    assert verdict["rows"] == truth.height
    assert verdict["live"]["paired"] is True
    assert verdict["live"]["matured"] == {"delays/2": truth.height, "delays/1": truth.height}
    assert {each["column"] for each in verdict["slices"]} == {"carrier"}
    assert verdict["gates"][0]["passed"] is (verdict["decision"] == "promote")
    scored = live.table("paired").join(truth.select("flight_id", "late"), on="flight_id")
    shadow = scored["shadow"].list.first().struct.field("score")
    for name, scores in (("metrics", shadow), ("champion_metrics", scored["score"])):
        wanted = roc_auc_score(scored["late"].to_numpy(), scores.to_numpy())
        assert verdict[name]["roc_auc"]["value"] == pytest.approx(wanted, abs=1e-6)
    assert result.metrics["matured_share"] == pytest.approx(truth.height / 800)


def test_an_experiment_is_judged_on_rows_of_their_own(live: World) -> None:
    verdict = live.done("evaluate", evaluation("unpaired")).verdict or {}
    assert verdict["live"]["paired"] is False
    both = live.table("unpaired").join(
        feature_rows().select("flight_id", "late").drop_nulls(), on="flight_id"
    )
    for name, version in (("metrics", 2), ("champion_metrics", 1)):
        own = both.filter(pl.col("model_version") == version)
        wanted = roc_auc_score(own["late"].to_numpy(), own["score"].to_numpy())
        assert verdict[name]["roc_auc"]["value"] == pytest.approx(wanted, abs=1e-6)
    difference = verdict["differences"]["roc_auc"]
    assert difference["low"] < difference["value"] < difference["high"]


def test_a_live_evaluation_without_matured_labels_is_skipped_with_the_reason(live: World) -> None:
    result = live.run("evaluate", evaluation("paired", known_at="2012-12-31T00:00:00Z"))
    assert result.status == "skipped"
    assert "no label has matured yet" in result.reason


def test_a_verdict_on_labels_that_time_matures_says_by_when_and_can_be_computed_again(live: World) -> None:
    later = LABELS.replace('known_at="landed_at"', 'matures_after="2d"').replace(', "landed_at")', ")")
    live.write("later_labels", later)
    first = live.done("evaluate", evaluation("paired", features="later_labels:SET"), step_key="once")
    known_at = (first.verdict or {})["live"]["known_at"]
    assert known_at.endswith("Z")
    again = evaluation("paired", features="later_labels:SET", known_at=known_at)
    live.done("evaluate", again, step_key="twice")
    once, twice = (live.folder_of(key) / "verdict.json" for key in ("once", "twice"))
    assert once.read_bytes() == twice.read_bytes()


def test_a_champion_is_not_compared_with_itself(live: World) -> None:
    same = {"name": "delays", "version": 2}
    result = live.run("evaluate", evaluation("paired", champion=same))
    assert result.status == "skipped"
    assert "is the champion itself" in result.reason


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"behaviour": "some.tests"}, "look at the model itself"),
        ({"gates": [{"metric": "model_megabytes", "at_most": 5}]}, "look at the model itself"),
        ({"slices": ["pkg.mod:by"]}, "slices by columns, and 'pkg.mod:by' is a function"),
    ],
)
def test_what_only_the_model_can_show_is_refused_on_live_rows(
    live: World, given: dict[str, Any], said: str
) -> None:
    failure = live.run("evaluate", evaluation("paired", **given)).failure
    assert failure is not None
    assert said in failure.message
