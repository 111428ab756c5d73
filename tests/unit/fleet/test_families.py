"""A model for each group of rows, registered as one: routed, verified, the same twice, and used as any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest
from fleet_world import Fleet
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from model_world import World, feature_rows

from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.contract.fleets import item_digest
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.steps import fleet_models, models
from airflow_ml_provider.steps.family import Members
from airflow_ml_provider.steps.models import ScoringModel

CODE = """
    import pandas as pd
    from delay_models import boosted, linear
    from pathlib import Path

    def for_carrier(rows: pd.DataFrame, features, label, params, seed, item):
        with (Path(__file__).parent / "calls").open("a") as calls:
            calls.write(f"{item.get('carrier', 'all')}\\n")
        if (Path(__file__).parent / "bad").exists() and item.get("carrier") == "B6":
            raise ValueError("no B6 today")
        assert set(rows["carrier"]) == ({item["carrier"]} if "carrier" in item else {"AA", "B6", "UA", "XX"})
        return boosted(rows, features, label, params, seed)

    def mixed(rows: pd.DataFrame, features, label, params, seed, item):
        import polars as pl
        if item["carrier"] == "AA":
            return linear(pl.from_pandas(rows), features, label, params, seed)
        return boosted(rows, features, label, params, seed)
"""


def family_of(name: str, function: str = "for_carrier", **given: Any) -> dict[str, Any]:
    """A training of a model for each carrier; XX has five rows."""
    return {
        "function": f"by_group:{function}", "trains": True, "table": {"name": "rows"}, "groups": ["carrier"],
        "minimum_rows": 20, "model": {"name": name}, "items_per_index": 2,
        # A worker takes seconds to start, and one is enough for most.
        "parallelism": 1, **given,
    }  # fmt: skip


def few(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with a carrier that has five."""
    first = pl.int_range(pl.len()) < 5
    return rows.with_columns(carrier=pl.when(first).then(pl.lit("XX")).otherwise("carrier"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> World:
    world = World.at(tmp_path_factory.mktemp("families"), mlflow_uri)
    world.write("by_group", CODE)
    world.publish(few(feature_rows()))
    return world


@pytest.fixture
def trainings(world: World) -> Fleet:
    (world.code / "calls").unlink(missing_ok=True)
    return Fleet(world.store, world.code, world.mlflow)


@pytest.fixture(scope="module")
def trained(world: World) -> StepResult:
    """A family of three carriers, the champion-to-be of this module."""
    fleet = Fleet(world.store, world.code, world.mlflow)
    return fleet.done(
        "by_group:for_carrier", **arguments("families", known_values=["origin"], parallelism=2), seed=4
    )


def arguments(name: str, **given: Any) -> dict[str, Any]:
    found = family_of(name, **given)
    del found["function"]
    return found


def loaded(world: World, run_id: str, to: Path) -> ScoringModel:
    mlflow.set_tracking_uri(world.mlflow)
    folder = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="model", dst_path=str(to))
    return models.load(Path(folder), "the family")


def features_of(model: ScoringModel, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(model.inputs.expressions())


def test_each_row_is_scored_by_the_model_of_its_group(
    world: World, trainings: Fleet, trained: StepResult, tmp_path: Path
) -> None:
    rows = world.table("rows").filter(pl.col("carrier") != "XX")
    family = loaded(world, trained.mlflow_run_id, tmp_path)
    found = family.scores(features_of(family, rows))
    spec = trainings.spec("by_group:for_carrier", **arguments("families"), seed=4)
    for item, record in trainings.records(spec):
        alone = fleet_models.load(Store(world.store), record.result, tmp_path / item_digest(item))
        own = rows.with_row_index("at").filter(carrier=item["carrier"])
        assert found[own["at"].to_numpy()].tobytes() == alone.scores(features_of(alone, own)).tobytes()
    assert trained.summary["done"] == 3
    assert trained.summary["groups left out"] == "1: XX (5 rows)"


def test_the_version_says_what_it_is_and_the_alias_and_the_profile_are_as_of_any_model(
    world: World, trained: StepResult
) -> None:
    version = world.client.get_model_version_by_alias("families", "challenger")
    said = {name.removeprefix("airflow_ml."): value for name, value in version.tags.items()}
    told = ("groups_by", "groups", "groups_failed", "groups_left_out", "fallback", "flavor")
    assert [said[name] for name in told] == ["carrier", "3", "0", "1", "refuse", "family"]
    assert trained.model is not None
    assert int(version.version) == trained.model.version
    kept = {file.path for file in world.client.list_artifacts(trained.mlflow_run_id)}
    assert {"reference_profile.json", "groups.json", "results.csv", "fingerprint.json"} <= kept
    run = world.client.get_run(trained.mlflow_run_id)
    assert run.data.metrics["train_rows"] > 700
    assert run.data.metrics["train_roc_auc"] > 0.7


def test_each_model_is_a_child_run_of_the_trainings_run(world: World, trained: StepResult) -> None:
    experiment = world.client.get_experiment_by_name("fleets")
    found = world.client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{trained.mlflow_run_id}'"
    )
    assert sorted(run.info.run_name for run in found) == ["AA", "B6", "UA"]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert all(run.data.metrics["train_rows"] > 200 for run in found)
    assert {run.data.params["carrier"] for run in found} == {"AA", "B6", "UA"}


@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=8), shuffled=st.integers(0, 99))
def test_predictions_do_not_depend_on_batches_or_the_order_of_rows(
    world: World, trained: StepResult, sizes: list[int], shuffled: int, tmp_path_factory: Any
) -> None:
    family = _once(world, trained, tmp_path_factory)
    rows = features_of(family, world.table("rows").filter(pl.col("carrier") != "XX"))
    whole = family.scores(rows)
    order = np.random.default_rng(shuffled).permutation(rows.height)
    found, start = [], 0
    for size in [*sizes, rows.height]:
        found.append(family.scores(rows[order[start : start + size]]))
        start += size
    assert np.concatenate(found).tobytes() == whole[order].tobytes()


def _once(world: World, trained: StepResult, factory: Any, held: list[ScoringModel] = []) -> ScoringModel:  # noqa: B006
    if not held:
        held.append(loaded(world, trained.mlflow_run_id, factory.mktemp("family")))
    return held[0]


def test_members_that_do_not_fit_in_memory_are_loaded_again(
    world: World, trained: StepResult, tmp_path: Path
) -> None:
    family = loaded(world, trained.mlflow_run_id, tmp_path)
    rows = features_of(family, world.table("rows").filter(pl.col("carrier") != "XX"))
    small = Members(family.native.folder, most_loaded=1)
    assert small.scores(rows).tobytes() == family.scores(rows).tobytes()
    assert len(small._loaded) == 1


def test_rows_of_an_unknown_group_are_refused_with_their_groups_and_counts(
    world: World, trained: StepResult
) -> None:
    result = world.run("predict", predicting("families", trained, "refused"), step_key="refused")
    assert result.failure is not None
    assert result.failure.kind == "data"
    assert "no model for 5 rows of 1 groups by carrier: XX (5 rows)" in result.failure.message
    assert not Path(Store(world.store).table_uri("refused").removeprefix("file://")).exists()


def predicting(name: str, result: StepResult, publish: str, **more: Any) -> dict[str, Any]:
    assert result.model is not None
    return {
        "model": {"name": name, "version": result.model.version}, "table": {"name": "rows"},
        "publish": {"name": publish}, **more,
    }  # fmt: skip


def test_a_family_without_a_score_for_unknown_groups_predicts_and_is_evaluated_on_the_rest(
    world: World, trainings: Fleet
) -> None:
    result = trainings.done("by_group:for_carrier", **arguments("with_null", fallback="null"), seed=4)
    done = world.done("predict", predicting("with_null", result, "nulls"), step_key="nulls")
    found = world.table("nulls").join(world.table("rows").select("flight_id", "carrier"), on="flight_id")
    assert found.filter(pl.col("score").is_null())["carrier"].unique().to_list() == ["XX"]
    assert found["score"].null_count() == 5
    assert done.metrics["rows"] == 800
    assert done.metrics["mean_score"] == pytest.approx(found["score"].mean())
    asked = {"candidate": {"name": "with_null", "version": 1}, "table": {"name": "rows"}, "resamples": 20}
    judged = world.done("evaluate", asked, step_key="judged")
    labelled = world.table("rows").filter(pl.col("late").is_not_null() & (pl.col("carrier") != "XX"))
    assert judged.verdict is not None
    assert judged.verdict["rows"] == labelled.height
    assert any("without a score" in each for each in judged.warnings)


def test_a_model_of_all_rows_scores_unknown_groups_where_that_is_the_fallback(
    world: World, trainings: Fleet, tmp_path: Path
) -> None:
    given = arguments("with_all", fallback="all")
    result = trainings.done("by_group:for_carrier", **given, seed=4)
    # Those of the carriers that the fleet without the fallback has are another step's; here all are trained.
    assert "all" in trainings.calls()
    family = loaded(world, result.mlflow_run_id, tmp_path)
    strange = world.table("rows").with_columns(carrier=pl.lit("ZZ"))
    scored = family.scores(features_of(family, strange))
    records = trainings.records(trainings.spec("by_group:for_carrier", **given, seed=4))
    [everything] = [record.result for item, record in records if "all_rows" in item]
    alone = fleet_models.load(Store(world.store), everything, tmp_path / "alone")
    assert scored.tobytes() == alone.scores(features_of(alone, strange)).tobytes()
    nobody = strange.with_columns(carrier=pl.lit(None, pl.String))
    assert family.scores(features_of(family, nobody)).tobytes() == scored.tobytes()


@pytest.mark.slow
def test_the_same_training_twice_has_the_same_digest_whatever_the_library(
    world: World, trainings: Fleet
) -> None:
    digests = []
    for _ in range(2):
        trainings.forget()
        trainings.done("by_group:mixed", **arguments("twice"), seed=7)
        version = world.client.get_model_version_by_alias("twice", "challenger")
        digests.append(version.tags["airflow_ml.artifact_digest"])
        world.client.set_tag(version.run_id, "airflow_ml.step_key", "of the past")
    assert int(version.version) == 2
    assert digests[0] == digests[1]


def test_a_family_that_was_changed_is_not_loaded(world: World, trainings: Fleet, trained: StepResult) -> None:
    run = world.client.get_run(trained.mlflow_run_id)
    result = trainings.done("by_group:for_carrier", **arguments("changed"), seed=11)
    place = world.client.download_artifacts(result.mlflow_run_id, "model/family.json")
    path = Path(place)
    path.write_bytes(path.read_bytes().replace(b'"refuse"', b'"null"'))
    world.client.log_artifact(result.mlflow_run_id, str(path), "model")
    failed = world.run("predict", predicting("changed", result, "never"), step_key="never")
    assert failed.failure is not None
    assert "are not those that were registered" in failed.failure.message
    assert run.info.run_id != result.mlflow_run_id


def test_a_retry_trains_only_the_missing_models_and_registers_once(world: World, trainings: Fleet) -> None:
    (world.code / "bad").touch()
    given = arguments("retried")
    failed = trainings.run("by_group:for_carrier", **given, seed=21)
    assert failed.failure is not None
    assert "1 of 3 items failed" in failed.failure.message
    (world.code / "bad").unlink()
    result = trainings.done("by_group:for_carrier", **given, seed=21)
    assert trainings.calls() == {"AA": 1, "B6": 2, "UA": 1}
    again = trainings.done("by_group:for_carrier", **given, seed=21)
    assert again.model == result.model
    assert trainings.calls() == {"AA": 1, "B6": 2, "UA": 1}
    assert len(world.client.search_model_versions("name = 'retried'")) == 1


def test_a_group_that_may_fail_has_no_model_and_is_told(
    world: World, trainings: Fleet, tmp_path: Path
) -> None:
    (world.code / "bad").touch()
    try:
        result = trainings.done("by_group:for_carrier", **arguments("lossy", max_failed=1), seed=22)
    finally:
        (world.code / "bad").unlink()
    version = world.client.get_model_version_by_alias("lossy", "challenger")
    assert (version.tags["airflow_ml.groups"], version.tags["airflow_ml.groups_failed"]) == ("2", "1")
    family = loaded(world, result.mlflow_run_id, tmp_path)
    lost = features_of(family, world.table("rows").filter(carrier="B6"))
    with pytest.raises(DataError, match="groups by carrier: B6 "):
        family.scores(lost)


def test_a_family_is_judged_against_a_family(world: World, trained: StepResult) -> None:
    world.client.set_registered_model_alias("families", "champion", str(trained.model.version))  # type: ignore[union-attr]
    world.publish(feature_rows(seed=1), table="fresh")
    asked = {
        "candidate": {"name": "families", "alias": "challenger"}, "table": {"name": "fresh"},
        "gates": [{"metric": "roc_auc", "at_least": 0.6}, {"metric": "model_megabytes", "at_most": 20}],
        "slices": ["carrier"], "resamples": 20,
    }  # fmt: skip
    judged = world.done("evaluate", asked, step_key="against")
    assert judged.verdict is not None
    assert judged.verdict["decision"] == "promote"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"groups": ["carier"]}, "over='carier' is no column"),
        ({"groups": ["weather__temp"]}, "is a column of Float64"),
        ({"minimum_rows": 100_000}, "none of the 4 groups by carrier"),
        ({"groups": ["late"]}, "over='late' is no column"),
        ({"best": "train_roc_auc"}, "registered as one"),
    ],
)
def test_what_is_no_grouping_is_refused_before_anything_runs(
    trainings: Fleet, wrong: dict[str, Any], said: str
) -> None:
    result = trainings.run("by_group:for_carrier", **arguments("wrong", **wrong), seed=31)
    assert result.failure is not None
    assert said in result.failure.message
    assert not trainings.calls()
