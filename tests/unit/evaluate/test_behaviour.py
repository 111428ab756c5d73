"""Behavioural tests, guardrails, slices by functions and known values, with a real MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_world import World, feature_rows

from airflow_ml_provider.contract.errors import ConfigError, DataError, UserCodeError
from airflow_ml_provider.contract.gates import Gate
from airflow_ml_provider.operators import EvaluateOperator, TrainOperator
from airflow_ml_provider.steps.behaviour import TestedModel, run_tests
from airflow_ml_provider.steps.models import ScoringModel, load
from airflow_ml_provider.steps.slices import slice_texts

TRAINING, EVALUATION = "2013-01-01..2013-01-03", "2013-01-04..2013-01-05"
TESTS = '''
    import sys

    import pandas as pd
    import polars as pl

    def test_it_has_features(model):
        """It knows its features"""
        assert set(model.features) == {"distance", "night", "weather__temp", "origin"}
        assert model.name.startswith("behaved/")

    def test_either_kind_of_frame(model, rows: pd.DataFrame):
        scores = model.score(rows)
        assert scores.shape == (len(rows),)
        assert (scores == model.score(pl.from_pandas(rows))).all()
        assert "carrier" in rows.columns and "late" in rows.columns

    def test_it_is_bounded(rows: pl.DataFrame):
        assert 0 < rows.height <= 2000
'''
FAILING = '''
    import sys

    import polars as pl

    def test_longer_is_safer(model, rows: pl.DataFrame):
        """Longer flights are safer

        And more is said here.
        """
        change = (model.score(rows.with_columns(pl.col("distance") * 2)) - model.score(rows)).mean()
        assert change < 0, f"the risk changes by {change:.1f}"

    def test_carriers_in_lower_case(model, rows: pl.DataFrame):
        model.score(rows.with_columns(pl.col("carrier").str.to_lowercase()))

    def test_it_raises():
        {}["nothing"]

    def test_it_leaves():
        sys.exit(3)

    def test_with_pytest():
        import pytest
        pytest.fail("by hand")

    async def test_later():
        assert False

    def test_last():
        pass
'''
SLICES = """
    import polars as pl

    def haul(rows: pl.LazyFrame):
        return rows.select(pl.when(pl.col("distance") > 1000).then(pl.lit("long")).otherwise(pl.lit("short")))

    def short(rows: pl.DataFrame):
        return ["x"]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> World:
    """Versions 1 and 2 of ``behaved`` know their carriers."""
    world = World.at(tmp_path_factory.mktemp("behaviour"), mlflow_uri)
    world.publish(feature_rows(days=5))
    world.write("good_manners", TESTS)
    world.write("bad_manners", FAILING)
    world.write("no_manners", "x = 1")
    world.write("hauls", SLICES)
    for function in ("linear", "boosted"):
        world.train("behaved", function, TRAINING, arguments={"known_values": ["carrier", "night"]})
    return world


def evaluation(**more: Any) -> dict[str, Any]:
    return {
        "candidate": {"name": "behaved", "version": 2},
        "champion": {"name": "behaved", "version": 1},
        "table": {"name": "rows"},
        "partitions": EVALUATION,
        "gates": [{"metric": "roc_auc", "at_least": 0.5}],
        "resamples": 40,
        **more,
    }


@pytest.fixture(scope="module")
def model(world: World) -> ScoringModel:
    run = world.client.get_model_version("behaved", "2").run_id
    return load(Path(world.client.download_artifacts(run, "model")), "behaved/2")


def module(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(name)


def test_each_test_is_a_line_of_the_verdict(world: World) -> None:
    verdict = world.done("evaluate", evaluation(behaviour="good_manners")).verdict
    assert verdict["decision"] == "promote"
    assert [(line["test"], line["text"], line["passed"]) for line in verdict["behaviour"]] == [
        ("test_it_has_features", "It knows its features", True),
        ("test_either_kind_of_frame", "either kind of frame", True),
        ("test_it_is_bounded", "it is bounded", True),
    ]


def test_one_failed_line_rejects_and_the_others_are_still_run(world: World) -> None:
    result = world.done("evaluate", evaluation(behaviour="bad_manners"), step_key="bad-manners")
    assert result.verdict["decision"] == "reject"
    lines = {line["test"]: line for line in result.verdict["behaviour"]}
    assert lines["test_longer_is_safer"]["text"] == "Longer flights are safer"
    assert lines["test_longer_is_safer"]["message"].startswith("the risk changes by 0.")
    refused = lines["test_carriers_in_lower_case"]["message"]
    assert refused.startswith("raised DataError: model behaved/2 has not seen carrier '")
    assert lines["test_it_raises"]["message"] == "raised KeyError: 'nothing'"
    assert lines["test_it_leaves"]["message"] == "raised SystemExit: 3"
    assert lines["test_with_pytest"]["message"] == "raised Failed: by hand"
    assert lines["test_later"]["message"] == "it is asynchronous, and was not run"
    assert [name for name, line in lines.items() if line["passed"]] == ["test_last"]
    assert "Longer flights are safer: the risk changes by" in result.summary["failed gates"]
    page = (world.folder_of("bad-manners") / "report.html").read_text()
    assert "Rejected" in page
    assert "Longer flights are safer" in page


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"behaviour": "no_manners"}, "config", "the module 'no_manners' has no behavioural test"),
        ({"behaviour": "manners"}, "user", "there is no module 'manners'"),
        ({"behaviour": "good_manners:test_it_is_bounded"}, "config", "name the module: 'good_manners'"),
        ({"slices": ["hauls:short"]}, "user", "hauls:short gave 1 texts for"),
        ({"slices": ["hauls:long"]}, "user", "has no 'long'"),
        ({"measured": {"milliseconds": 1}}, "config", "measured names 'milliseconds'"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(world: World, change: Any, kind: str, message: str) -> None:
    failure = world.run("evaluate", evaluation(**change)).failure
    assert failure is not None
    assert failure.kind == kind
    assert message in failure.message


def test_a_test_that_asks_for_what_is_not_there_is_a_mistake_and_no_outcome(model: ScoringModel) -> None:
    def test_other(champion: Any) -> None:
        """It asks for another model"""

    with pytest.raises(UserCodeError, match="asks for 'champion', which is not available here"):
        run_tests([test_other], model, feature_rows(days=1))


def test_the_same_functions_run_without_an_evaluation(world: World, model: ScoringModel) -> None:
    tests = module("good_manners")
    tests.test_it_has_features(TestedModel(model))
    tests.test_either_kind_of_frame(TestedModel(model), feature_rows(days=1).to_pandas())


def test_a_function_slices_the_rows_and_a_gate_may_ask_by_it(world: World) -> None:
    gates = [{"metric": "brier_score", "harm_limit": 0.05, "slice_by": "hauls:haul", "minimum_rows": 20}]
    verdict = world.done("evaluate", evaluation(gates=gates, slices=["origin"])).verdict
    hauls = [each for each in verdict["slices"] if each["column"] == "hauls:haul"]
    assert {each["value"] for each in hauls} == {"long", "short"}
    assert sum(each["rows"] for each in hauls) == verdict["rows"]
    rules = verdict["gates"][0]["rules"]
    assert {rule["value"] for rule in rules} == {"long", "short"}
    assert all(rule["adjusted_p"] >= rule["p"] > 0 for rule in rules)
    # Two groups at a level of 2.5 % need 79 resamples to be decided; 40 were asked for.
    assert (verdict["resamples"], verdict["asked_resamples"]) == (79, 40)


def test_a_slice_may_be_given_in_any_form_with_a_text_a_row() -> None:
    rows = pl.DataFrame({"a": [1, 2, 3]}).lazy()
    for give in (
        lambda rows: rows.select(pl.col("a").cast(pl.String)),
        lambda rows: rows.collect()["a"],
        lambda rows: rows.collect()["a"].to_numpy(),
        lambda rows: rows.collect()["a"].to_pandas().set_axis([7, 8, 9]),
        lambda rows: ["1", "2", "3"],
    ):

        def sliced(rows: pl.LazyFrame, give: Any = give) -> Any:
            return give(rows)

        assert slice_texts(sliced, "m:sliced", rows).to_list() == ["1", "2", "3"]
    for wrong in (lambda rows: "abc", lambda rows: rows.with_columns(b=1), lambda rows: None):

        def unsliced(rows: pl.LazyFrame, wrong: Any = wrong) -> Any:
            return wrong(rows)

        with pytest.raises(UserCodeError, match=r"m:unsliced gave .*which is no text for each row"):
            slice_texts(unsliced, "m:unsliced", rows)


def test_guardrails_measure_the_model_and_a_measured_latency_makes_the_verdict_repeatable(
    world: World,
) -> None:
    gates = [
        {"metric": "milliseconds_per_1000_rows", "at_most": 60_000},
        {"metric": "model_megabytes", "at_most": 0.001},
    ]
    verdict = world.done("evaluate", evaluation(gates=gates), step_key="measured").verdict
    assert verdict["measured"]["milliseconds_per_1000_rows"] > 0
    folder = Path(
        world.client.download_artifacts(world.client.get_model_version("behaved", "2").run_id, "model")
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert verdict["measured"]["model_megabytes"] == pytest.approx(size / 1e6, abs=1e-6)
    assert [gate["passed"] for gate in verdict["gates"]] == [True, False]
    world.done("evaluate", evaluation(gates=gates, measured=verdict["measured"]), step_key="recomputed")
    first, second = (
        (world.folder_of(key) / "verdict.json").read_bytes() for key in ("measured", "recomputed")
    )
    assert first == second


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    resamples=st.integers(1, 60),
    margin=st.floats(0, 0.1),
    name=st.sampled_from(["better_by_at_least", "worse_by_at_most", "harm_limit"]),
    slices=st.sampled_from([[], ["origin"], ["night", "hauls:haul"]]),
)
def test_a_verdict_computed_again_from_its_own_words_is_the_same_to_the_byte(
    world: World, seed: int, resamples: int, margin: float, name: str, slices: list[str]
) -> None:
    gate = {"metric": "log_loss", name: margin, "slice_by": slices[0] if slices else None}
    asked = evaluation(gates=[gate], slices=slices, resamples=resamples)
    verdict = world.done("evaluate", asked, seed=seed, step_key="spoken").verdict
    first = (world.folder_of("spoken") / "verdict.json").read_bytes()
    again = {
        "candidate": {"name": verdict["model"]["name"], "version": verdict["model"]["version"]},
        "champion": {"name": verdict["champion"]["name"], "version": verdict["champion"]["version"]},
        "table": {"name": verdict["table"], "version": verdict["version"]},
        "partitions": verdict["partitions"],
        "gates": [each["terms"] for each in verdict["gates"]],
        "slices": list(dict.fromkeys(each["column"] for each in verdict["slices"])),
        "resamples": verdict["asked_resamples"],
        "measured": verdict["measured"],
    }
    world.done("evaluate", again, seed=verdict["seed"], step_key="spoken-again")
    assert (world.folder_of("spoken-again") / "verdict.json").read_bytes() == first
    assert json.loads(first) == verdict


def test_rows_with_a_value_that_was_not_trained_on_are_refused_with_the_values_and_their_number(
    world: World,
) -> None:
    strange = feature_rows(days=1).with_columns(
        carrier=pl.when(pl.int_range(pl.len()) < 7).then(pl.lit("zz")).otherwise("carrier")
    )
    world.publish(strange, table="strange")
    arguments = {
        "model": {"name": "behaved", "version": 2},
        "table": {"name": "strange"},
        "publish": {"name": "out"},
    }
    failure = world.run("predict", arguments).failure
    assert failure is not None
    assert failure.kind == "data"
    assert "model behaved/2 has not seen carrier 'zz' (7 rows); nothing was scored" in failure.message


def test_known_values_are_kept_with_the_model_and_a_missing_value_is_none_of_them(
    model: ScoringModel,
) -> None:
    assert model.known_values["carrier"] == ("AA", "B6", "UA")
    # A flag is a number to the model, and known as one, whichever it is in the rows.
    assert model.known_values["night"] == ("0.0", "1.0")
    rows = feature_rows(days=1)
    tested = TestedModel(model)
    assert tested.score(rows.with_columns(carrier=pl.lit(None, pl.String))).shape == (rows.height,)
    assert tested.score(rows.with_columns(weather__temp=pl.lit(None))).shape == (rows.height,)
    with pytest.raises(DataError, match="the rows lack carrier, whose values"):
        tested.score(rows.drop("carrier"))
    with pytest.raises(DataError, match="no column for the features distance"):
        tested.score(rows.drop("distance"))
    with pytest.raises(DataError, match="a list was given to score"):
        tested.score([1])


def test_known_values_of_a_column_that_is_not_there_are_refused(world: World) -> None:
    arguments = {
        "function": "delay_models:boosted", "table": {"name": "rows"}, "model": {"name": "unbehaved"},
        "known_values": ["carier"],
    }  # fmt: skip
    failure = world.run("train", arguments).failure
    assert failure is not None
    assert failure.kind == "config"
    assert "did you mean 'carrier'?" in failure.message


def test_the_operators_say_what_is_wrong_where_the_dag_is_written() -> None:
    given = {"candidate": "m/1", "table": "rows"}
    with pytest.raises(ConfigError, match="names a function"):
        EvaluateOperator(task_id="e", behaviour="flights.behaviour:test_x", **given)
    operator = EvaluateOperator(
        task_id="e", behaviour="flights.behaviour", slices=["origin", "hauls:haul"],
        gates=[Gate("roc_auc", harm_limit=0.1, slice_by="hauls:haul")], **given,
    )  # fmt: skip
    assert list(operator.entry_points()) == ["hauls:haul", "flights.behaviour:tests"]
    train = {"function": "m:f", "table": "rows", "model": "m"}
    with pytest.raises(ConfigError, match="known_values is the text 'carrier'"):
        TrainOperator(task_id="t", known_values="carrier", **train)
    with pytest.raises(ConfigError, match="is for a single training"):
        TrainOperator(task_id="t", known_values=["carrier"], function="m:f", table="rows", over=[{"a": 1}])
