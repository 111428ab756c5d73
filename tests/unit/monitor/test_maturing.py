"""Labels that arrive later: what is judged when, and which days are looked at again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake
from monitor_world import FIRST_DAY, HASH, LABELS, PUBLISH, TABLES, World, flights, said

from airflow_ml_provider.contract.documents import StepResult

Monitor = Callable[..., StepResult]
AGAIN: dict[str, Any] = {**PUBLISH, **TABLES, "revisit": "14d"}
NOON = FIRST_DAY + timedelta(hours=12)


def label(text: str) -> str:
    """The feature set with another label."""
    return LABELS.replace('Label("late", late, known_at="landed_at")', f'Label("late", late, {text})')


def seen_again(result: StepResult) -> dict[str, Any]:
    assert result.status == "success", result.failure
    return dict((result.verdict or {})["again"])


def test_a_day_is_judged_again_when_its_labels_arrive_and_never_when_none_did(
    world: World, monitor: Monitor
) -> None:
    days = [flights(0), flights(1), flights(2)]
    world.publish(days[0], landed=False)
    world.land(days[0], by=NOON)
    first = monitor("2013-06-01", **AGAIN)
    before = world.found()

    world.publish(days[1], landed=False)
    world.land(days[0])
    world.land(days[1])
    second = monitor("2013-06-02", **AGAIN)
    after = world.found().filter(pl.col("ds") == "2013-06-01")

    world.publish(days[2], landed=False)
    world.land(days[2])
    third = monitor("2013-06-03", **AGAIN)

    assert seen_again(first) == {}
    assert (first.verdict or {})["by_partition"]["2013-06-01"]["matured"] == 280
    found = seen_again(second)["2013-06-01"]
    assert (found["matured_before"], found["matured"], found["predicted"]) == (280, 360, 400)
    assert second.summary["looked at again"] == "2013-06-01 (280 to 360 labels)"
    assert second.table is not None
    assert second.table.partitions == "2013-06-01..2013-06-02"
    score = pl.col("is_score")
    assert after.filter(score)["matured"].to_list() == [360]
    assert after.filter(score)["matured_share"].to_list() == [0.9]
    assert after.filter(score)["roc_auc"].to_list() == [found["roc_auc"]]
    assert after.filter(score)["roc_auc"].to_list() != before.filter(score)["roc_auc"].to_list()
    judged = ("matured", "matured_share", "roc_auc", "log_loss", "brier_score")
    assert after.drop(judged).equals(before.drop(judged))
    # Forty cancelled flights a day never get a label.
    assert seen_again(third) == {}
    assert third.table is not None
    assert third.table.partitions == "2013-06-03"


def test_a_day_beyond_the_age_is_not_looked_at_again(world: World, monitor: Monitor) -> None:
    world.publish(flights(0), landed=False)
    world.land(flights(0), by=NOON)
    monitor("2013-06-01", **AGAIN)
    world.publish(flights(3), landed=False)
    world.land(flights(0))
    world.land(flights(3))

    assert seen_again(monitor("2013-06-04", **{**AGAIN, "revisit": "2d"})) == {}
    assert list(seen_again(monitor("2013-06-04", **{**AGAIN, "revisit": "3d"}))) == ["2013-06-01"]


def test_a_day_looked_at_again_decides_nothing_about_drift(world: World, monitor: Monitor) -> None:
    world.publish(flights(0, moved=1.0), landed=False)
    world.land(flights(0, moved=1.0), by=NOON)
    assert (monitor("2013-06-01", **AGAIN).verdict or {})["drifted"] is True
    world.publish(flights(1), landed=False)
    world.land(flights(0, moved=1.0))
    world.land(flights(1))

    result = monitor("2013-06-02", **AGAIN)

    assert list(seen_again(result)) == ["2013-06-01"]
    assert (result.verdict or {})["drifted"] is False
    assert world.found().filter(pl.col("ds") == "2013-06-01")["drifted"].sum() == 3


def test_a_try_after_one_that_had_published_says_the_same(world: World, monitor: Monitor) -> None:
    world.publish(flights(0), landed=False)
    world.land(flights(0), by=NOON)
    monitor("2013-06-01", fingerprint="one", **AGAIN)
    world.publish(flights(1), landed=False)
    # Even when no label is missing any more.
    landed = flights(0).with_columns(pl.col("late").fill_null(0), pl.col("landed_at").fill_null(FIRST_DAY))
    world.land(landed)
    world.land(flights(1))

    first = monitor("2013-06-02", fingerprint="two", **AGAIN)
    again = monitor("2013-06-02", fingerprint="two", **AGAIN)

    assert seen_again(first)["2013-06-01"]["matured"] == 400
    assert again.verdict == first.verdict
    assert first.table is not None
    assert again.table is not None
    assert (first.table.changed, again.table.changed) == (True, False)
    assert again.table.version == first.table.version


def test_a_day_that_was_predicted_again_is_left_to_a_run_of_its_own(world: World, monitor: Monitor) -> None:
    world.publish(flights(0), landed=False)
    world.land(flights(0), by=NOON)
    monitor("2013-06-01", **AGAIN)
    made = pl.read_delta(world.store.table_uri("predictions")).with_columns(model_version=pl.lit(4, pl.Int64))
    write_deltalake(
        world.store.table_uri("predictions"), made.to_arrow(), mode="overwrite", partition_by=["ds"]
    )
    world.publish(flights(1), landed=False)
    world.land(flights(0))
    world.land(flights(1))

    result = monitor("2013-06-02", **AGAIN)

    assert seen_again(result) == {}
    assert result.warnings == (
        "2013-06-01 was predicted again since it was monitored and is not looked at again: run the monitor "
        "step for it",
    )


def test_partitions_that_are_no_times_cannot_be_looked_at_again(world: World, monitor: Monitor) -> None:
    airports = flights(0).with_columns(ds=pl.lit("EWR")), flights(1).with_columns(ds=pl.lit("JFK"))
    world.publish(*airports)
    monitor("EWR", **PUBLISH, **TABLES)
    assert "'JFK' is no time, so it has no start" in said(monitor("JFK", **AGAIN))


def test_looking_again_needs_what_was_published_and_labels(world: World, monitor: Monitor) -> None:
    world.publish(flights(0))
    assert "give publish= (the findings' table) and tables=" in said(monitor(revisit="14d"))
    assert "revisit: 'two weeks' is not an age" in said(monitor(**{**AGAIN, "revisit": "two weeks"}))


def test_the_report_says_what_was_looked_at_again(world: World, monitor: Monitor) -> None:
    world.publish(flights(0), landed=False)
    world.land(flights(0), by=NOON)
    monitor("2013-06-01", **AGAIN)
    world.publish(flights(1), landed=False)
    world.land(flights(0))
    world.land(flights(1))

    result = monitor("2013-06-02", **AGAIN)

    page = (world.store.read(f"runs/{result.step_key}/report.html") or b"").decode()
    assert "Earlier partitions, looked at again" in page
    assert (result.metrics["predicted"], result.metrics["matured"]) == (400, 360)
    assert (result.metrics["matured_share"], result.metrics["looked_at_again"]) == (0.9, 1)
    assert result.summary["labels"] == "360 of 400 matured (90.0%)"


@pytest.mark.parametrize(
    ("text", "known_at", "matured"),
    [
        # Predicted at midnight; by then each label of a flight that flew is there.
        ('matures_after="30h"', "2013-06-02T05:59:59Z", 0),
        ('matures_after="30h"', "2013-06-02T06:00:00Z", 360),
        # At the later of the two: 280 landed after 6 hours, 80 after 36.
        ('known_at="landed_at", matures_after="12h"', "2013-06-01T11:59:59Z", 0),
        ('known_at="landed_at", matures_after="12h"', "2013-06-01T12:00:00Z", 280),
        ('known_at="landed_at", matures_after="12h"', "2013-06-02T12:00:00Z", 360),
    ],
)
def test_a_label_counts_once_it_has_matured(
    world: World,
    monitor: Monitor,
    user_code: Callable[..., str],
    text: str,
    known_at: str,
    matured: int,
) -> None:
    user_code(labels=label(text))
    world.publish(flights(0))

    performance = (monitor(**TABLES, known_at=known_at).verdict or {})["performance"]

    assert performance["matured"] == matured


def test_without_a_moment_a_label_that_matures_by_time_matures_as_time_goes_by(
    world: World, monitor: Monitor, user_code: Callable[..., str]
) -> None:
    user_code(labels=label('matures_after="30d"'))
    now = datetime.now(UTC)
    recent = flights(1).with_columns(predict_at=pl.lit(now).dt.cast_time_unit("us"))
    world.publish(flights(0), recent)

    found = (monitor("2013-06-01..2013-06-02", **TABLES).verdict or {})["by_partition"]

    assert {day: part["matured"] for day, part in found.items()} == {"2013-06-01": 360, "2013-06-02": 0}


def test_predictions_without_their_time_cannot_mature_by_time(
    world: World, monitor: Monitor, user_code: Callable[..., str]
) -> None:
    user_code(labels=label('matures_after="30d"'))
    world.publish(flights(0))
    timeless = pl.read_delta(world.store.table_uri("predictions")).drop("predict_at")
    write_deltalake(
        world.store.table_uri("predictions"), timeless.to_arrow(), mode="overwrite",
        partition_by=["ds"], schema_mode="overwrite",
    )  # fmt: skip

    message = said(monitor(**TABLES))

    assert "the predictions have no column 'predict_at' with the prediction time" in message
    assert HASH[:12] not in message
