"""A model for each of many items: kept, verified, as good as a single training's, and the best registered."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fleet_world import Fleet
from model_world import World, feature_rows

from airflow_ml_provider.contract.documents import StepSpec
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.fleets import item_digest, item_seed
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import fleet_models, models
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.labelled_rows import LabelledRows

ROUTES = [{"origin": origin, "num_leaves": leaves} for origin in ("EWR", "JFK") for leaves in (4, 7)]
ORIGINS = """
    import lightgbm
    from delay_models import boosted

    def by_origin(rows, features, label, params, seed, item):
        assert (rows["origin"] == item["origin"]).all()
        return boosted(rows, features, label, params, seed), {"own": params["num_leaves"]}
"""


@pytest.fixture
def world(tmp_path: Path, mlflow_uri: str) -> World:
    world = World.at(tmp_path, mlflow_uri)
    world.publish(feature_rows())
    return world


@pytest.fixture
def trainings(world: World) -> Fleet:
    return Fleet(world.store, world.code, world.mlflow)


def training(**given: Any) -> dict[str, Any]:
    return {"trains": True, "table": {"name": "rows"}, **given}


def scores(store: str, result: dict[str, Any], rows: pl.DataFrame, to: Path) -> bytes:
    model = fleet_models.load(Store(store), result, to)
    return model.scores(rows.select(model.inputs.expressions())).tobytes()


def test_a_model_of_a_fleet_predicts_what_a_single_trainings_does(
    world: World, trainings: Fleet, tmp_path: Path
) -> None:
    items = [{"num_leaves": 4}, {"num_leaves": 7}]
    given = training(items=items, params={"feature_fraction": 0.5}, seed=3)
    trainings.done("delay_models:boosted", **given)
    spec = trainings.spec("delay_models:boosted", **given)
    rows = labelled(spec, tmp_path)
    for number, (item, record) in enumerate(trainings.records(spec)):
        arguments = {"params": {"feature_fraction": 0.5, **item}}
        seed = item_seed(3, item_digest(item))
        single = world.train(f"single-{number}", "boosted", arguments=arguments, seed=seed)
        folder = Path(world.client.download_artifacts(single.mlflow_run_id, "model"))
        model = models.load(folder, "single")
        assert (
            scores(world.store, record.result, rows, tmp_path / f"fleet-{number}")
            == model.scores(rows.select(model.inputs.expressions())).tobytes()
        )
        assert record.result["train_roc_auc"] == pytest.approx(single.metrics["train_roc_auc"], abs=0)
        assert record.result["flavor"] == "lightgbm"


def test_each_item_trains_on_the_rows_it_selects_and_may_measure_for_itself(trainings: Fleet) -> None:
    (trainings.code / "origins.py").write_text(
        textwrap.dedent(ORIGINS)
        .replace("rows,", "rows: pd.DataFrame,", 1)
        .replace("import lightgbm", "import pandas as pd")
    )
    given = training(items=ROUTES, publish={"name": "fitted", "partition_by": None})
    result = trainings.done("origins:by_origin", **given)
    found = trainings.table("fitted")
    assert found["own"].to_list() == [4, 7, 4, 7]
    by_origin = trainings.table("rows").filter(pl.col("late").is_not_null()).group_by("origin").len()
    counts = dict(by_origin.iter_rows())
    assert found["train_rows"].to_list() == [counts[item["origin"]] for item in ROUTES]
    assert found["model_uri"].n_unique() == 4
    place = trainings.ledger(trainings.spec("origins:by_origin", **given)).folder
    assert found["model_uri"][0].endswith(f"{place}/models/{item_digest(ROUTES[0])}")
    assert result.model is None


def test_a_model_that_was_changed_is_not_loaded(trainings: Fleet, tmp_path: Path) -> None:
    given = training(items=[{"num_leaves": 4}])
    trainings.done("delay_models:boosted", **given)
    [result] = trainings.results(trainings.spec("delay_models:boosted", **given))
    place = Store(trainings.store)
    path = f"{place.relative(result['model_uri'])}/model.lgb"
    place.write(path, (place.read(path) or b"") + b"\n")
    with pytest.raises(DataError, match="is not what was kept there"):
        fleet_models.load(place, result, tmp_path / "model")


def test_one_run_in_mlflow_has_the_sums_and_the_results(world: World, trainings: Fleet) -> None:
    result = trainings.done("delay_models:boosted", **training(items=ROUTES[:2], seed=5))
    run = world.client.get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["items_done"] == 2
    assert run.data.metrics["train_roc_auc_max"] >= run.data.metrics["train_roc_auc_mean"]
    artifact = pl.read_csv(world.client.download_artifacts(result.mlflow_run_id, "results.csv"))
    assert artifact["num_leaves"].to_list() == [4, 7]
    experiment = world.client.get_experiment_by_name("fleets")
    mine = f"tags.`airflow_ml.fingerprint` = '{result.fingerprint}'"
    assert len(world.client.search_runs([experiment.experiment_id], mine)) == 1


def test_the_best_items_model_becomes_the_challenger(world: World, trainings: Fleet) -> None:
    items = [{"num_leaves": leaves, "learning_rate": 0.3} for leaves in (2, 15)]
    given = training(items=items, best="train_roc_auc", model={"name": "best"}, seed=9)
    result = trainings.done("delay_models:boosted", **given)
    assert result.model is not None
    version = world.client.get_model_version_by_alias("best", "challenger")
    assert int(version.version) == result.model.version == 1
    assert version.tags["airflow_ml.item"] == '{"learning_rate": 0.3, "num_leaves": 15}'
    assert result.summary["best item"].startswith('{"learning_rate": 0.3, "num_leaves": 15')
    # Predicting verifies that the artifacts are those whose digest was registered.
    predict = {
        "model": {"name": "best", "version": 1},
        "table": {"name": "rows"},
        "publish": {"name": "by_best"},
    }
    world.done("predict", predict)
    run = world.client.get_run(result.mlflow_run_id)
    assert run.data.params["num_leaves"] == "15"
    again = trainings.done("delay_models:boosted", **given)
    assert again.model == result.model
    assert len(world.client.search_model_versions("name = 'best'")) == 1


def test_items_of_different_rows_have_no_best(trainings: Fleet) -> None:
    given = training(items=ROUTES, best="train_roc_auc", model={"name": "none"})
    result = trainings.run("delay_models:boosted", **given)
    assert result.failure is not None
    assert "compares items that train on different rows: they select them by origin" in result.failure.message


def labelled(spec: StepSpec, scratch: Path) -> pl.DataFrame:
    step = StepContext(spec, scratch)
    return LabelledRows(step, step.read(Table("rows")), "", purpose="score").frame.collect()
