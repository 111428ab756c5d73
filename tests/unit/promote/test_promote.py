"""Promote, with a real MLflow: alias, ledger and tags, however often it runs and wherever it is killed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest
from fatal_proxy import FatalProxy, Moment
from model_world import World, kill_at, start

from airflow_ml_provider.contract.identity import digest, document_digest
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.ledger import Entry, Ledger


class Registry:
    """A registered model with some versions."""

    def __init__(self, world: World, name: str, versions: int = 3) -> None:
        self.world, self.name, self.client = world, name, world.client
        self.ledger = Ledger(Store(world.store), name)
        self.client.create_registered_model(name)
        for _ in range(versions):
            run = self.client.create_run("0")
            self.client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)

    @property
    def champion(self) -> int | None:
        try:
            return int(self.client.get_model_version_by_alias(self.name, "champion").version)
        except mlflow.exceptions.RestException:
            return None

    @champion.setter
    def champion(self, version: int) -> None:
        self.client.set_registered_model_alias(self.name, "champion", str(version))

    def verdict(self, version: int, champion: int | None, decision: str = "promote") -> dict[str, Any]:
        passed = decision == "promote"
        return {
            "decision": decision,
            "model": {"name": self.name, "version": version, "run_id": "r"},
            "champion": champion and {"name": self.name, "version": champion, "run_id": "r"},
            "rows": 10,
            "gates": [{"gate": "roc_auc >= 0.7", "passed": passed, "value": 0.6, "reason": "because"}],
        }

    def promote(self, verdict: dict[str, Any], step_key: str = "first", **arguments: Any) -> Any:
        return self.world.run(
            "promote", {"verdict": verdict, **arguments}, step_key=step_key, fingerprint="f"
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> World:
    return World.at(tmp_path_factory.mktemp("promote"), mlflow_uri)


@pytest.fixture
def registry(world: World, request: pytest.FixtureRequest) -> Registry:
    return Registry(world, digest(request.node.name)[:12])


def test_a_promotion_says_who_when_why_and_what_it_replaced(registry: Registry) -> None:
    registry.champion = 1
    verdict = registry.verdict(2, champion=1)
    before = datetime.now(UTC)
    result = registry.promote({"verb": "evaluate", "verdict": verdict}, reason="better in May")
    assert result.status == "success"
    assert registry.champion == 2
    (entry,) = registry.ledger.entries()
    assert (entry.sequence, entry.version, entry.previous, entry.alias) == (1, 2, 1, "champion")
    assert (entry.by, entry.reason, entry.step_key) == ("ada", "better in May", "first")
    assert entry.verdict == document_digest(verdict)
    assert Store(registry.world.store).read_json("runs/first/verdict.json") == verdict
    assert timedelta(seconds=-1) <= datetime.fromisoformat(entry.at) - before <= timedelta(seconds=60)
    tags = registry.client.get_model_version(registry.name, "2").tags
    assert tags["airflow_ml.promoted_by"] == "ada"
    assert tags["airflow_ml.promoted_at"] == entry.at
    assert tags["airflow_ml.replaced_version"] == "1"
    assert tags["airflow_ml.promotion_reason"] == "better in May"
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
    assert registry.ledger.entries() == []


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


def written(
    registry: Registry,
    version: int,
    previous: int | None,
    step_key: str,
    verdict: Any,
    at: str = "2013-05-01T06:00:00Z",
) -> Entry:
    """An entry as a step leaves it that is killed right after writing it."""
    entry = Entry(
        sequence=len(registry.ledger.entries()) + 1,
        model=registry.name,
        alias="champion",
        version=version,
        previous=previous,
        at=at,
        by="ada",
        reason="better",
        verdict=document_digest(verdict),
        verdict_uri="",
        step_key=step_key,
    )
    assert registry.ledger.append(entry)
    return entry


@pytest.mark.parametrize("moved", [False, True], ids=["before the alias moved", "before the tags"])
def test_a_step_that_died_after_its_entry_completes_what_is_missing(registry: Registry, moved: bool) -> None:
    registry.champion = 1
    verdict = registry.verdict(2, champion=1)
    entry = written(registry, 2, 1, "first", verdict)
    if moved:
        registry.champion = 2
    result = registry.promote(verdict)
    assert result.verdict["promoted"] is True
    assert registry.champion == 2
    assert registry.ledger.entries() == [entry]
    tags = registry.client.get_model_version(registry.name, "2").tags
    assert tags["airflow_ml.promoted_at"] == entry.at


def test_after_a_rollback_by_hand_the_same_promotion_is_a_new_one(registry: Registry) -> None:
    registry.champion = 1
    verdict = registry.verdict(2, champion=1)
    registry.promote(verdict)
    registry.champion = 1
    assert registry.promote(verdict).verdict["promoted"] is True
    assert registry.champion == 2
    assert [entry.sequence for entry in registry.ledger.entries()] == [1, 2]


def test_an_unfinished_promotion_of_another_step_is_waited_for(registry: Registry) -> None:
    registry.champion = 1
    verdict = registry.verdict(3, champion=1)
    written(registry, 3, 1, "other", verdict, at=datetime.now(UTC).isoformat())
    result = registry.promote(registry.verdict(2, champion=1))
    assert result.failure.kind == "transient"
    assert "entry 1 of the ledger promotes version 3, and its step other" in result.failure.message
    assert registry.champion == 1
    registry.promote(verdict, step_key="other")
    assert "it is version 3 now" in registry.promote(registry.verdict(2, champion=1)).failure.message


def test_one_that_was_killed_long_ago_is_not_waited_for_and_does_not_come_back(registry: Registry) -> None:
    registry.champion = 1
    forgotten = registry.verdict(3, champion=1)
    written(registry, 3, 1, "other", forgotten)
    assert registry.promote(registry.verdict(2, champion=1)).verdict["promoted"] is True
    assert "it is version 2 now" in registry.promote(forgotten, step_key="other").failure.message
    assert registry.champion == 2
    assert [entry.version for entry in registry.ledger.entries()] == [3, 2]


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


MOMENTS: tuple[tuple[str, str, Moment], ...] = (
    ("GET", "registered-models/alias", "after"),
    ("POST", "registered-models/alias", "before"),
    ("POST", "registered-models/alias", "after"),
    ("POST", "model-versions/set-tag", "before"),
    ("POST", "model-versions/set-tag", "after"),
)


def test_killed_anywhere_it_ends_with_one_entry_and_the_alias_moved(
    registry: Registry, tmp_path: Path
) -> None:
    registry.champion = 1
    proxy = FatalProxy(registry.world.mlflow)
    arguments = {"verdict": registry.verdict(2, champion=1)}
    spec = registry.world.spec("promote", arguments, step_key="killed", fingerprint="f", mlflow=proxy.url)
    for moment in MOMENTS:
        assert kill_at(proxy, moment, spec, tmp_path), moment
        assert registry.champion == (1 if moment in MOMENTS[:2] else 2)
        assert len(registry.ledger.entries()) == (0 if moment == MOMENTS[0] else 1)
    process = start(spec, tmp_path)
    process.join()
    proxy.shutdown()
    assert process.exitcode == 0
    (entry,) = registry.ledger.entries()
    assert (entry.version, entry.previous, entry.step_key) == (2, 1, "killed")
    assert registry.champion == 2
    assert registry.client.get_model_version(registry.name, "2").tags["airflow_ml.ledger_entry"] == "1"
