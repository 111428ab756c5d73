"""The monitor step, with real tables, a real MLflow and a model's profiles kept in its training run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from monitor_world import HASH, LABELS, PUBLISH, TABLES, World, flights, profile_of_may, said

from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.steps.profiles import build_profile


def test_an_ordinary_day_is_calm(world: World, monitor: Callable[..., StepResult]) -> None:
    world.publish(flights(0))

    result = monitor(**PUBLISH)

    assert result.status == "success", result.failure
    verdict = result.verdict or {}
    assert (verdict["drifted"], verdict["decided"], verdict["reasons"]) == (False, True, [])
    assert verdict["drifted_features"] == []
    assert 0 < verdict["score_psi"] < verdict["score_psi_limit"]
    assert verdict["model"] == {"name": "flight_delays", "version": 3, "run_id": world.run_id}
    assert result.summary["verdict"] == "calm"
    assert result.metrics["drifted"] == 0


def test_a_strange_day_has_drifted_and_the_step_succeeds(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0, moved=1.0))

    result = monitor()

    assert result.status == "success", result.failure
    verdict = result.verdict or {}
    assert verdict["drifted"] is True
    assert verdict["drifted_features"] == ["carrier", "delay"]
    assert verdict["share"] == pytest.approx(2 / 3, abs=1e-6)
    assert verdict["reasons"] == [
        f"the score moved: PSI {verdict['score_psi']:.2f}, usual is up to {verdict['score_psi_limit']:.2f} "
        "(and most of all carrier, delay)",
        "2 of 3 features moved, more than 50%: carrier, delay",
    ]
    assert result.summary["verdict"].startswith("drifted: the score moved")


def test_features_that_may_drift_are_ignored(world: World, monitor: Callable[..., StepResult]) -> None:
    world.publish(flights(0, moved=1.0))

    verdict = monitor(ignore=["carrier"]).verdict or {}

    assert verdict["drifted_features"] == ["delay"]
    assert verdict["features"] == 2
    assert len(verdict["reasons"]) == 1


def test_what_was_found_is_published_by_partition_and_column(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0), flights(1, moved=1.0))

    result = monitor("2013-06-01..2013-06-02", **PUBLISH, **TABLES)

    assert result.table is not None
    assert (result.table.rows, result.table.partitions) == (8, "2013-06-01..2013-06-02")
    found = world.found()
    assert found["column"].to_list() == ["carrier", "delay", "distance", "score"] * 2
    assert found.filter(pl.col("drifted"))["ds"].unique().to_list() == ["2013-06-02"]
    assert found["test"].to_list() == ["chi2", "ks", "ks", "ks"] * 2
    assert found["model_version"].unique().to_list() == [3]
    scores = found.filter(pl.col("is_score"))
    assert scores["matured"].to_list() == [360, 360]
    assert scores["roc_auc"].is_between(0.5, 1).all()
    assert found.filter(~pl.col("is_score"))["matured"].null_count() == 6
    assert (found["psi"] > found["psi_limit"]).to_list() == found["drifted"].to_list()


def test_a_rerun_changes_nothing_and_a_second_run_replaces_its_partition(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0), flights(1))
    first = monitor("2013-06-01", fingerprint="one", **PUBLISH)
    again = monitor("2013-06-01", fingerprint="one", **PUBLISH)
    monitor("2013-06-02", fingerprint="two", **PUBLISH)
    monitor("2013-06-01", fingerprint="three", max_psi=0.5, **PUBLISH)

    assert first.table is not None
    assert again.table is not None
    assert (first.table.changed, again.table.changed) == (True, False)
    assert again.table.version == first.table.version
    assert again.mlflow_run_id == first.mlflow_run_id
    assert again.verdict == first.verdict
    assert world.found().group_by("ds").len().sort("ds").rows() == [("2013-06-01", 4), ("2013-06-02", 4)]


def test_the_same_input_gives_the_same_report_byte_for_byte(
    world: World, monitor: Callable[..., StepResult], store: str
) -> None:
    world.publish(flights(0, moved=1.0), flights(1))
    pages = []
    for _ in range(2):
        result = monitor("2013-06-01,2013-06-02", **TABLES)
        pages.append(Store(store).read(f"runs/{result.step_key}/report.html"))

    assert pages[0] == pages[1]
    assert pages[0] is not None
    page = pages[0].decode()
    for part in ("Drifted", "2013-06-01", "flight_delays/3", "How the predictions turned out", "Kolmogorov"):
        assert part in page
    assert page.count("<svg") == 4


def test_the_report_and_the_numbers_are_in_mlflow(
    world: World, monitor: Callable[..., StepResult], tmp_path: Path, mlflow_uri: str
) -> None:
    world.publish(flights(0, moved=1.0))

    result = monitor(**TABLES)

    run = world.client.get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["drifted"] == 1
    assert run.data.metrics["psi.delay"] > 0.25
    assert run.data.metrics["roc_auc"] == result.metrics["roc_auc"]
    assert run.data.params["max_psi"] == "0.25"
    assert run.data.tags["airflow_ml.model"] == "flight_delays/3"
    page = world.client.download_artifacts(result.mlflow_run_id, "report.html", str(tmp_path))
    assert b"<!doctype html>" in Path(page).read_bytes()
    assert result.links["Report"].startswith(mlflow_uri)
    assert result.links["Report"].endswith(f"{result.mlflow_run_id}/artifacts/report.html")


def test_only_labels_known_by_the_moment_count_and_the_others_are_counted_as_without_label(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0))

    early = (monitor(**TABLES, known_at="2013-06-01T12:00:00Z").verdict or {})["performance"]
    late = (monitor(**TABLES, known_at="2013-06-03").verdict or {})["performance"]
    ever = (monitor(**TABLES).verdict or {})["performance"]

    assert (early["predicted"], early["matured"], early["without_label"]) == (400, 280, 120)
    assert (late["matured"], late["share"], late["without_label"]) == (360, 0.9, 40)
    assert ever == late
    assert 0.5 < late["roc_auc"]["low"] < late["roc_auc"]["value"] < late["roc_auc"]["high"] < 1


def test_performance_is_judged_on_exactly_the_rows_with_a_label(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    day = flights(0)
    world.publish(day)
    known = day.drop_nulls("late")

    performance = (monitor(**TABLES).verdict or {})["performance"]

    expected = {
        "roc_auc": roc_auc_score(known["late"], known["score"]),
        "log_loss": log_loss(known["late"], known["score"]),
        "brier_score": brier_score_loss(known["late"], known["score"]),
    }
    assert {name: performance[name]["value"] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert performance["positives"] == known["late"].sum()


def test_a_poor_auc_on_matured_labels_is_drift(world: World, monitor: Callable[..., StepResult]) -> None:
    world.publish(flights(0))

    verdict = monitor(**TABLES, min_roc_auc=0.99).verdict or {}

    assert verdict["drifted"] is True
    auc = verdict["performance"]["roc_auc"]["value"]
    assert verdict["reasons"] == [f"ROC AUC on 360 matured labels is {auc:.3f}, below 0.99"]


def test_too_few_matured_labels_give_no_metrics_and_no_verdict_on_them(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0))

    result = monitor(**TABLES, min_roc_auc=0.99, minimum_rows=361)

    performance = (result.verdict or {})["performance"]
    assert performance["matured"] == 360
    assert "roc_auc" not in performance
    assert (result.verdict or {})["drifted"] is False


def test_a_day_with_too_few_rows_gets_no_verdict(world: World, monitor: Callable[..., StepResult]) -> None:
    world.publish(flights(0, rows=30, moved=1.0))

    result = monitor(**PUBLISH)

    verdict = result.verdict or {}
    assert (verdict["drifted"], verdict["decided"]) == (False, False)
    assert result.summary["verdict"] == "no verdict: fewer than 200 rows"
    assert world.found()["drifted"].null_count() == 4


def test_each_partition_is_compared_with_the_model_that_predicted_it(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    other = str(world.client.create_run(world.experiment).info.run_id)
    world.client.log_dict(other, profile_of_may("ds", moved=1.0), "reference_profile.json")
    world.publish(flights(0, moved=1.0), version=3)
    world.publish(flights(1, moved=1.0), version=4, run_id=other)

    result = monitor("2013-06-01..2013-06-02", **PUBLISH)

    verdict = result.verdict or {}
    assert {day: found["drifted"] for day, found in verdict["by_partition"].items()} == {
        "2013-06-01": True, "2013-06-02": False,
    }  # fmt: skip
    assert verdict["worst_partition"] == "2013-06-01"
    assert all(reason.startswith("2013-06-01: ") for reason in verdict["reasons"])
    assert world.found().group_by("ds").agg(pl.col("model_version").unique()).sort("ds").rows() == [
        ("2013-06-01", [3]), ("2013-06-02", [4]),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "monitored"), [("champion", 3), ("4", 5)])
def test_of_models_that_share_the_keys_the_champion_is_monitored_or_the_one_with_most(
    world: World, monitor: Callable[..., StepResult], name: str, monitored: int
) -> None:
    day = flights(0)
    few = pl.int_range(pl.len()) % 4 == 0
    world.publish(day)
    version = pl.when(few).then(3).otherwise(5).cast(pl.Int64)
    variant = pl.when(few).then(pl.lit(name)).otherwise(pl.lit("challenger"))
    made = pl.read_delta(world.store.table_uri("predictions")).sort("flight_id")
    split = made.with_columns(model_version=version, variant=variant)
    write_deltalake(
        world.store.table_uri("predictions"), split.to_arrow(), mode="overwrite", schema_mode="overwrite",
        partition_by=["ds"],
    )  # fmt: skip

    result = monitor(**TABLES, minimum_rows=50)

    assert result.warnings == ()
    verdict = result.verdict or {}
    rows = {3: 100, 5: 300}[monitored]
    assert (verdict["model"]["version"], verdict["rows"]) == (monitored, rows)
    mine = split.filter(pl.col("model_version") == monitored).join(day.drop_nulls("late"), on="flight_id")
    assert verdict["performance"]["predicted"] == rows
    assert verdict["performance"]["matured"] == mine.height


def test_a_model_that_was_never_evaluated_is_compared_by_its_training_scores(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0), run_id=world.train(score=False))
    assert (monitor().verdict or {})["drifted"] is False


def test_a_reference_without_partitions_is_compared_by_the_threshold_alone(
    world: World, monitor: Callable[..., StepResult], store: str
) -> None:
    world.publish(flights(0), run_id=world.train(by=None))

    result = monitor()

    verdict = result.verdict or {}
    assert 0.25 < verdict["score_psi_limit"] < 0.35
    assert result.warnings == (
        "the reference of flight_delays/3 has 0 partitions, too few to tell how much single partitions "
        "usually differ: max_psi decides by itself and may call every partition drifted",
    )
    page = Store(store).read(f"runs/{result.step_key}/report.html") or b""
    assert b"0 partitions, too few to tell what is usual, so 0.25 is used by itself" in page


def test_held_out_rows_of_few_partitions_borrow_what_is_usual_from_the_training_rows(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    run_id = world.train(score=False)
    week = pl.concat([flights(-n) for n in range(1, 8)]).lazy()
    world.client.log_dict(run_id, dict(build_profile(week, ["score"], by="ds")), "score_profile.json")
    world.publish(flights(0), run_id=run_id)

    result = monitor()

    assert result.warnings == ()
    usual = profile_of_may("ds")["columns"]["score"]["usual"]["p95"]
    assert usual < (result.verdict or {})["score_psi_limit"] < usual + 0.1


def test_a_partition_without_predictions_is_skipped(world: World, monitor: Callable[..., StepResult]) -> None:
    world.publish(flights(0))

    result = monitor("2013-07-01")

    assert result.status == "skipped"
    assert result.reason == "table 'predictions' has no predictions for ds = 2013-07-01"


def test_missing_days_of_a_range_are_left_out_and_named(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0), flights(2))

    result = monitor("2013-06-01..2013-06-03", **PUBLISH)

    assert result.warnings == ("no predictions for ds = 2013-06-02: left out",)
    assert (result.verdict or {})["partitions"] == "2013-06-01,2013-06-03"


def test_without_partitions_the_whole_table_is_looked_at(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0), flights(1))

    verdict = monitor("").verdict or {}

    assert list(verdict["by_partition"]) == ["2013-06-01", "2013-06-02"]
    assert verdict["partitions"] == "2013-06-01..2013-06-02"


def test_more_predictions_than_feature_rows_are_warned_about(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0))
    world.write("rows", flights(0, rows=1).select(pl.lit(HASH).alias("feature_hash"), *ROWS))
    assert monitor().warnings == ("2013-06-01 has 400 predictions and 401 feature rows",)


ROWS = ("flight_id", "ds", "predict_at", "distance", "delay", "carrier")


def test_predictions_whose_feature_rows_are_gone_are_refused(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0), flights(1))
    DeltaTable(world.store.table_uri("rows")).delete("ds = '2013-06-01'")
    assert "2013-06-01 was predicted, and table 'rows' has no feature rows there" in said(monitor())


def test_a_partition_predicted_by_two_models_is_refused(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0), version=3)
    world.publish(flights(0, rows=401), version=4)

    message = said(monitor())

    assert (
        "ds = 2013-06-01 of table 'predictions' was predicted more than once: by flight_delays/3" in message
    )
    assert "run the predict step for this partition again" in message


def test_feature_rows_of_another_definition_than_the_predictions_are_refused(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0))
    changed = pl.read_delta(world.store.table_uri("predictions")).with_columns(feature_hash=pl.lit("a" * 64))
    write_deltalake(
        world.store.table_uri("predictions"), changed.to_arrow(), mode="overwrite", partition_by=["ds"]
    )

    message = said(monitor())

    assert "was predicted from features aaaaaaaaaaaa, and table 'rows' holds features ffffffffffff" in message


def test_a_model_without_a_reference_profile_is_named(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    run_id = world.train(reference=False, score=False)
    world.publish(flights(0), run_id=run_id)

    message = said(monitor())

    assert f"model flight_delays/3 (run {run_id}) has no reference profile to compare with" in message
    assert "train it with the train step" in message


def test_a_profile_of_another_format_is_refused(world: World, monitor: Callable[..., StepResult]) -> None:
    run_id = world.train(score=False)
    world.client.log_dict(run_id, {**profile_of_may("ds"), "format": 9}, "score_profile.json")
    world.publish(flights(0), run_id=run_id)

    assert "score_profile.json of flight_delays/3 has format 9; this installation reads format 1" in said(
        monitor()
    )


def test_a_training_run_that_is_gone_is_named(world: World, monitor: Callable[..., StepResult]) -> None:
    world.publish(flights(0), run_id="0" * 32)
    assert f"list the files of run {'0' * 32}, which trained flight_delays/3" in said(monitor())


def test_ignoring_an_unknown_feature_is_refused_with_the_nearest(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0))

    message = said(monitor(ignore=["carriers"]))

    assert "ignore names 'carriers', which is no feature of flight_delays/3" in message
    assert "did you mean 'carrier'?" in message


def test_a_table_that_holds_no_predictions_is_refused(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0))

    message = said(monitor(predictions={"name": "flights"}))

    assert "table 'flights' has no column 'model_name', so it holds no predictions" in message


def test_a_feature_set_without_label_has_no_performance(
    world: World, monitor: Callable[..., StepResult]
) -> None:
    world.publish(flights(0))
    message = said(monitor(**TABLES, features="labels:NO_LABEL"))
    assert "the feature set 'labels:NO_LABEL' declares no label" in message


def test_a_moment_that_is_none_is_refused(world: World, monitor: Callable[..., StepResult]) -> None:
    world.publish(flights(0))
    assert "known_at is 'yesterday', not a moment" in said(monitor(**TABLES, known_at="yesterday"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("late=pl.lit(2)", "label 'late' has the value 2; performance is reported for labels of 0 and 1"),
        ("flight_id=pl.lit('0-7')", "labels:late gives 360 labels for flight_id='0-7'"),
        ("landed_at=pl.lit('noon')", "column 'landed_at' of labels:late is of type String, not a timestamp"),
    ],
)
def test_labels_that_cannot_be_judged_are_refused(
    world: World, monitor: Callable[..., StepResult], user_code: Callable[..., str], change: str, message: str
) -> None:
    user_code(labels=LABELS.replace("flights.select", f"flights.with_columns({change}).select"))
    world.publish(flights(0))
    assert message in said(monitor(**TABLES))


def test_a_label_function_that_leaves_a_column_out_is_told_which(
    world: World, monitor: Callable[..., StepResult], user_code: Callable[..., str]
) -> None:
    user_code(labels=LABELS.replace('"late", "landed_at")', '"late")'))
    world.publish(flights(0))
    assert "labels:late gives no column 'landed_at', which the feature set declares" in said(
        monitor(**TABLES)
    )


def test_the_traceback_of_a_label_function_that_raises_is_the_users_own(
    world: World, monitor: Callable[..., StepResult], user_code: Callable[..., str]
) -> None:
    user_code(labels=LABELS.replace('.select("flight_id", "late"', '.select("flight_id", "lat"'))
    world.publish(flights(0))

    result = monitor(**TABLES)

    assert result.failure is not None
    assert result.failure.kind == "user"
    assert "labels:late raised ColumnNotFoundError" in result.failure.message
