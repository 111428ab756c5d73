"""Rollback, with a real MLflow: which version, who and why, and what the version left behind had predicted."""

from __future__ import annotations

import polars as pl
import pytest
from champions import Registry

from airflow_ml_provider.contract.store import Store


def predicted(registry: Registry, table: str, *rows: tuple[str, int]) -> None:
    """Publish predictions: a day and the version that predicted it."""
    frame = pl.DataFrame(
        {
            "ds": [day for day, _ in rows],
            "model_name": [registry.name] * len(rows),
            "model_version": [version for _, version in rows],
            "score": [0.5] * len(rows),
        }
    )
    uri = Store(registry.world.store).table_uri(table)
    frame.write_delta(uri, mode="overwrite", delta_write_options={"partition_by": ["ds"]})


def test_a_rollback_says_who_why_and_what_it_left(registry: Registry) -> None:
    registry.promoted(1)
    registry.promoted(2)
    result = registry.roll_back()
    assert result.status == "success"
    assert registry.champion == 1
    entry = registry.explained()[-1]
    assert (entry.kind, entry.version, entry.previous) == ("rollback", 1, 2)
    assert (entry.by, entry.reason, entry.step_key) == ("ada", "worse at night", "back")
    assert (result.model.name, result.model.version, result.model.alias) == (registry.name, 1, "champion")
    assert result.verdict["rolled_back"] is result.verdict["moved"] is True
    assert (result.verdict["replaced"], result.verdict["ledger_entry"]) == (2, 3)
    assert registry.tags(2)["rolled_back_by"] == "ada"
    assert registry.tags(2)["rollback_reason"] == registry.tags(1)["rollback_reason"] == "worse at night"
    assert registry.tags(1)["rolled_back_to_at"] == entry.at


def test_again_goes_further_back_and_at_the_end_there_is_nothing(registry: Registry) -> None:
    for version in (1, 2, 3):
        registry.promoted(version)
    assert [registry.roll_back(f"back-{n}").model.version for n in (1, 2)] == [2, 1]
    failure = registry.roll_back("back-3").failure
    assert failure.kind == "data"
    assert "had no champion before version 1, so there is none to go back to" in failure.message
    assert registry.champion == 1


def test_a_rollback_that_is_tried_again_or_cleared_goes_back_once(registry: Registry) -> None:
    for version in (1, 2, 3):
        registry.promoted(version)
    first, again = registry.roll_back(), registry.roll_back()
    assert first.verdict == again.verdict
    assert registry.champion == 2
    registry.champion = 3
    cleared = registry.roll_back()
    assert (registry.champion, cleared.verdict["moved"]) == (3, False)
    assert "the alias 'champion' has moved on since this rollback (entry 4)" in cleared.warnings[-1]
    assert len(registry.explained()) == 5


def test_of_two_that_mean_the_same_one_goes_back_and_the_other_says_so(registry: Registry) -> None:
    for version in (1, 2, 3):
        registry.promoted(version)
    registry.roll_back("one", leaves=3)
    failure = registry.roll_back("two", leaves=3).failure
    assert "champion was version 3; it is version 2 now (entry 4 of the ledger, by ada" in failure.message
    assert registry.champion == 2


def test_a_version_may_be_named(registry: Registry) -> None:
    for version in (1, 2, 3):
        registry.promoted(version)
    assert registry.roll_back(to=1).model.version == registry.champion == 1
    assert "version 1 of" in (failure := registry.roll_back("again", to=1).failure).message
    assert "is champion already" in failure.message


def test_a_version_that_is_gone_is_named_with_those_that_are_there(registry: Registry) -> None:
    for version in (1, 2, 3):
        registry.promoted(version)
    registry.client.delete_model_version(registry.name, "2")
    failure = registry.roll_back().failure
    assert failure.kind == "data"
    assert f"version 2 of {registry.name!r} is not in MLflow" in failure.message
    assert "champions before it were 1" in failure.message
    assert registry.champion == 3
    assert registry.roll_back("named", to=1).model.version == 1


def test_a_version_that_no_train_step_registered_is_refused(registry: Registry) -> None:
    registry.promoted(1)
    registry.promoted(2)
    registry.client.delete_model_version_tag(registry.name, "1", "airflow_ml.artifact_digest")
    failure = registry.roll_back().failure
    assert "was not registered by a train step: it has no tag airflow_ml.artifact_digest" in failure.message
    assert registry.champion == 2


def test_a_champion_that_was_deleted_is_recorded_and_rolled_back_from(registry: Registry) -> None:
    registry.promoted(1)
    registry.promoted(2)
    registry.client.delete_model_version(registry.name, "2")
    assert registry.champion is None
    result = registry.roll_back(to=1)
    assert registry.champion == 1
    assert [(entry.kind, entry.version) for entry in registry.explained()] == [
        ("promotion", 1), ("promotion", 2), ("external", None), ("rollback", 1),
    ]  # fmt: skip
    assert "named no version, and the ledger said version 2" in result.warnings[0]


def test_a_rollback_after_somebodys_hand_goes_back_to_before_the_hand(registry: Registry) -> None:
    registry.promoted(1)
    registry.champion = 3
    assert registry.roll_back().model.version == 1
    assert [entry.kind for entry in registry.explained()] == ["promotion", "external", "rollback"]


def test_nobody_rolls_back_without_a_reason(registry: Registry) -> None:
    registry.promoted(1)
    registry.promoted(2)
    failure = registry.roll_back(reason="  ").failure
    assert failure.kind == "config"
    assert "nobody said why" in failure.message
    assert registry.champion == 2


def test_the_partitions_that_the_version_left_had_predicted_are_listed(registry: Registry) -> None:
    registry.promoted(1)
    registry.promoted(2)
    days = [("2013-06-01", 1), ("2013-06-02", 2), ("2013-06-03", 2), ("2013-06-04", 2), ("2013-06-04", 2)]
    predicted(registry, "night", *days)
    predicted(registry, "noon", ("2013-06-07", 2), ("2013-06-04", 1))
    tables = [{"name": "night"}, {"name": "noon"}, {"name": "nowhere"}]
    result = registry.roll_back(predictions=tables)
    assert result.verdict["affected"] == [
        {"table": "night", "version": 0, "partitions": "2013-06-02..2013-06-04", "rows": 4},
        {"table": "noon", "version": 0, "partitions": "2013-06-07", "rows": 1},
    ]
    assert result.verdict["affected_partitions"] == "2013-06-02,2013-06-03,2013-06-04,2013-06-07"
    assert result.warnings == ("there is no table 'nowhere', so nothing in it is affected",)


def test_a_table_without_predictions_is_refused_before_anything_moves(registry: Registry) -> None:
    registry.promoted(1)
    registry.promoted(2)
    uri = Store(registry.world.store).table_uri("planes")
    pl.DataFrame({"tailnum": ["N1"]}).write_delta(uri, mode="overwrite")
    failure = registry.roll_back(predictions=[{"name": "planes"}]).failure
    assert "'planes' is not a table of predictions: it has no column model_name" in failure.message
    assert registry.champion == 2


@pytest.mark.parametrize("effective", ["2013-06-01", ""])
def test_a_rollback_may_count_from_a_moment_of_the_past(registry: Registry, effective: str) -> None:
    registry.promoted(1)
    registry.promoted(2)
    registry.roll_back(effective=effective)
    assert registry.explained()[-1].effective == ("2013-06-01T00:00:00.000+00:00" if effective else "")
