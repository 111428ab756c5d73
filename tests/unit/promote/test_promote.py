"""Promote, with a real MLflow: alias, ledger and tags, however often it runs and wherever it is killed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from champions import Registry
from fatal_proxy import FatalProxy, Moment
from model_world import World, feature_rows, kill_at, start

from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.history import as_of
from airflow_ml_provider.registry.ledger import Entry


def test_a_promotion_says_who_when_why_and_what_it_replaced(registry: Registry) -> None:
    registry.champion = 1
    verdict = registry.verdict(2, champion=1)
    before = datetime.now(UTC)
    result = registry.promote({"verb": "evaluate", "verdict": verdict}, reason="better in May")
    assert result.status == "success"
    assert registry.champion == 2
    found, entry = registry.explained()
    assert (found.kind, found.version, found.by) == ("external", 1, "external")
    assert (entry.sequence, entry.version, entry.previous, entry.alias) == (2, 2, 1, "champion")
    assert (entry.by, entry.reason, entry.step_key) == ("ada", "better in May", "first")
    assert entry.verdict == document_digest(verdict)
    assert Store(registry.world.store).read_json("runs/first/verdict.json") == verdict
    assert timedelta(seconds=-1) <= datetime.fromisoformat(entry.at) - before <= timedelta(seconds=60)
    tags = registry.tags(2)
    assert tags["promoted_by"] == "ada"
    assert tags["promoted_at"] == entry.at
    assert tags["replaced_version"] == "1"
    assert tags["promotion_reason"] == "better in May"
    assert result.verdict["promoted"] is True
    assert (result.model.version, result.model.alias) == (2, "champion")
    assert result.summary["replaced"] == f"{registry.name}/1"


def test_the_first_champion_replaces_nothing(registry: Registry) -> None:
    result = registry.promote(registry.verdict(1, champion=None))
    assert registry.champion == 1
    assert registry.ledger.entries()[0].previous is None
    assert result.summary["why"] == "passed 1 gates as the first, by ada"


def test_a_rejected_candidate_changes_nothing_and_is_no_failure(registry: Registry) -> None:
    registry.champion = 1
    result = registry.promote(registry.verdict(2, champion=1, decision="reject"))
    assert result.status == "success"
    assert result.summary["why"] == "not promoted: roc_auc >= 0.7 (because)"
    assert result.verdict["promoted"] is False
    assert result.model.version == registry.champion == 1
    assert registry.ledger.entries() == []


def test_promoting_again_writes_nothing_more(registry: Registry) -> None:
    verdict = registry.verdict(1, champion=None)
    first, second = registry.promote(verdict), registry.promote(verdict)
    assert first.verdict == second.verdict
    other_step = registry.promote(registry.verdict(1, champion=1), step_key="second")
    assert other_step.verdict["promoted"] is False
    assert other_step.summary["why"] == "it is champion already"
    assert len(registry.ledger.entries()) == 1


def test_a_verdict_against_a_champion_of_the_past_promotes_nothing(registry: Registry) -> None:
    registry.champion = 3
    result = registry.promote(registry.verdict(2, champion=1))
    assert result.failure.kind == "data"
    assert "when it was made, champion was version 1, and it is version 3 now" in result.failure.message
    assert "evaluate again" in result.failure.message
    assert registry.champion == 3
    assert [entry.kind for entry in registry.explained()] == ["external"]


def test_another_alias_may_be_moved_on_a_verdict_against_the_champion(registry: Registry) -> None:
    registry.champion = 1
    result = registry.promote(registry.verdict(2, champion=1), alias="canary")
    assert (result.model.version, result.model.alias) == (2, "canary")
    assert registry.client.get_model_version_by_alias(registry.name, "canary").version == "2"
    assert registry.champion == 1
    (entry,) = registry.ledger.entries()
    assert (entry.alias, entry.previous) == ("canary", None)
    registry.champion = 3
    failure = registry.promote(registry.verdict(1, champion=1), step_key="late", alias="canary").failure
    assert "champion was version 1, and it is version 3 now" in failure.message


def test_after_a_rollback_by_hand_the_same_promotion_is_a_new_one(registry: Registry) -> None:
    registry.champion = 1
    verdict = registry.verdict(2, champion=1)
    registry.promote(verdict)
    registry.champion = 1
    result = registry.promote(verdict)
    assert result.verdict["promoted"] is True
    assert [(entry.kind, entry.version) for entry in registry.explained()] == [
        ("external", 1), ("promotion", 2), ("external", 1), ("promotion", 2),
    ]  # fmt: skip
    (warning,) = result.warnings
    assert "named version 1, and the ledger said version 2: it was changed by somebody's hand" in warning
    assert "Entry 3 records that" in warning


def test_a_verdict_that_was_rolled_back_does_not_promote_again(registry: Registry) -> None:
    registry.champion = 1
    verdict = registry.verdict(2, champion=1)
    registry.promote(verdict)
    assert registry.roll_back().status == "success"
    for key in ("first", "another"):
        failure = registry.promote(verdict, step_key=key).failure
        assert failure.kind == "data"
        assert "ada rolled it back since (entry 3 of the ledger: worse at night)" in failure.message
    assert registry.champion == 1
    newer = {**registry.verdict(2, champion=1), "rows": 99}
    assert registry.promote(newer, step_key="newer").verdict["promoted"] is True


def test_a_step_whose_entry_is_there_completes_what_is_missing(registry: Registry) -> None:
    registry.champion = 1
    verdict = registry.verdict(2, champion=1)
    now = datetime.now(UTC).isoformat()
    entry = Entry(
        1, registry.name, "champion", 2, 1, now, "ada", "better", document_digest(verdict), "", "first"
    )
    assert registry.ledger.append(entry)
    assert registry.promote(verdict).verdict["promoted"] is True
    assert registry.ledger.entries() == [entry]
    assert registry.champion == 2
    assert registry.tags(2)["promoted_at"] == entry.at


def test_who_approved_is_in_the_ledger_and_a_rejection_promotes_nothing(registry: Registry) -> None:
    verdict = registry.verdict(1, champion=None)
    rejection = {"approved": False, "by": "eve", "said": "rejected by eve: not on a Friday"}
    rejected = registry.promote(verdict, approval=rejection)
    assert rejected.verdict["promoted"] is False
    assert rejected.summary["why"] == "not promoted: rejected by eve: not on a Friday"
    assert registry.ledger.entries() == []
    approval = {"approved": True, "by": "ada", "said": "approved by ada"}
    result = registry.promote(verdict, approval=approval)
    assert result.summary["approval"] == "approved by ada"
    assert registry.explained()[0].approval == approval


def test_a_promotion_may_count_from_a_moment_of_the_past(registry: Registry) -> None:
    registry.promoted(1)
    result = registry.promote(registry.verdict(2, champion=1), effective="2013-06-01")
    assert result.summary["counts from"] == "2013-06-01T00:00:00.000+00:00"
    store, june = Store(registry.world.store), datetime(2013, 6, 1, tzinfo=UTC)
    found = as_of(store, registry.name, june)
    assert found is not None
    assert (found.version, found.effective) == (2, "2013-06-01T00:00:00.000+00:00")
    assert as_of(store, registry.name, june - timedelta(seconds=1)) is None
    before = datetime.fromisoformat(registry.explained()[-1].at) - timedelta(milliseconds=1)
    assert as_of(store, registry.name, june, known_at=before) is None


@pytest.mark.parametrize(
    ("effective", "kind", "said"),
    [
        ("2013-05-01T04:59:59Z", "data", "would put knowledge of the future into the past"),
        ("2999-01-01", "config", "effective='2999-01-01' lies in the future"),
        ("June", "config", "effective= is 'June', which is not a moment"),
    ],
)
def test_a_moment_that_a_version_cannot_count_from_is_refused(
    registry: Registry, effective: str, kind: str, said: str
) -> None:
    failure = registry.promote(registry.verdict(1, champion=None), effective=effective).failure
    assert failure.kind == kind
    assert said in failure.message
    assert (registry.champion, registry.ledger.entries()) == (None, [])


def test_a_version_that_does_not_say_what_it_knows_cannot_count_from_the_past(registry: Registry) -> None:
    registry.client.delete_model_version_tag(registry.name, "1", "airflow_ml.known_until")
    failure = registry.promote(registry.verdict(1, champion=None), effective="2013-06-01").failure
    assert "does not say until when what it was trained on was known" in failure.message


def test_a_train_step_says_until_when_its_rows_were_known(world: World) -> None:
    rows = feature_rows(days=2)
    world.publish(rows)
    trained = world.train("known_until")
    tags = world.client.get_model_version("known_until", str(trained.model.version)).tags
    labelled = rows.filter(pl.col("late").is_not_null())
    assert tags["airflow_ml.known_until"] == labelled["label_known_at"].max().isoformat()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"verb": "train", "model": {}},
            "the output of a train step was given to promote; it has no verdict",
        ),
        ({"decision": "maybe"}, "not given the verdict of an evaluate step: Invalid enum value 'maybe'"),
        ({}, "Object missing required field `decision`"),
    ],
)
def test_what_is_no_verdict_is_refused(world: World, given: dict[str, Any], message: str) -> None:
    failure = world.run("promote", {"verdict": given}).failure
    assert failure is not None
    assert failure.kind == "config"
    assert message in failure.message
    assert "pass verdict=<evaluate step>.output" in failure.message


def test_an_evaluated_version_that_is_gone_is_named(registry: Registry) -> None:
    registry.client.delete_model_version(registry.name, "2")
    failure = registry.promote(registry.verdict(2, champion=None)).failure
    assert "the evaluated version" in failure.message
    assert "is gone from MLflow" in failure.message
    assert registry.champion is None
    assert registry.ledger.entries() == []


# One for each step of the protocol: the entry is written, the alias has moved, the outcome is written.
MOMENTS: tuple[tuple[str, str, Moment], ...] = (
    ("POST", "registered-models/alias", "before"),
    ("POST", "registered-models/alias", "after"),
    ("POST", "model-versions/set-tag", "before"),
)


def test_killed_anywhere_it_ends_with_one_entry_and_the_alias_moved(
    registry: Registry, tmp_path: Path
) -> None:
    registry.champion = 1
    proxy = FatalProxy(registry.world.mlflow)
    arguments = {"verdict": registry.verdict(2, champion=1)}
    spec = registry.world.spec("promote", arguments, step_key="killed", fingerprint="f", mlflow=proxy.url)
    for moment, champion, outcomes in zip(MOMENTS, (1, 2, 2), (1, 1, 2), strict=True):
        assert kill_at(proxy, moment, spec, tmp_path), moment
        assert registry.champion == champion
        assert [move.outcome is not None for move in registry.ledger.moves()].count(True) == outcomes
    process = start(spec, tmp_path)
    process.join()
    proxy.shutdown()
    assert process.exitcode == 0
    _, entry = registry.explained()
    assert (entry.version, entry.previous, entry.step_key) == (2, 1, "killed")
    assert registry.tags(2)["ledger_entry"] == "2"
