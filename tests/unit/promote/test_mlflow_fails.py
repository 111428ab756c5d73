"""MLflow fails in the middle of a promotion or a rollback, at each of its requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from champions import Registry
from failing_proxy import FailingProxy, How
from model_world import World

from airflow_ml_provider.contract.documents import StepResult


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client gives up at once; a retry is the task's."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")


@pytest.fixture
def proxy(world: World) -> Iterator[FailingProxy]:
    found = FailingProxy(world.mlflow)
    yield found
    found.shutdown()
    found.server_close()


def promote(
    registry: Registry, proxy: FailingProxy, version: int, champion: int | None, key: str
) -> StepResult:
    verdict = registry.verdict(version, champion)
    return registry.world.run(
        "promote", {"verdict": verdict}, step_key=key, fingerprint="f", mlflow=proxy.url
    )


def test_wherever_mlflow_fails_a_retry_ends_with_the_alias_moved_and_explained(
    registry: Registry, proxy: FailingProxy
) -> None:
    registry.champion = 1
    failed: list[tuple[str, How]] = []
    number, how, tagged = 0, cast(How, "refused"), False
    while not tagged or how == "lost":
        champion = 1 if len(failed) % 2 == 0 else 2
        version, key = 3 - champion, f"step-{number}-{how}"
        proxy.fail(number, how)
        first = promote(registry, proxy, version, champion, key)
        request = proxy.requests[number]
        assert first.failure is None or first.failure.kind == "transient", request
        proxy.fail(None)
        retry = promote(registry, proxy, version, champion, key)
        assert retry.failure is None, (request, retry.failure)
        assert retry.verdict is not None
        assert retry.verdict["promoted"] is True
        assert registry.explained()[-1].version == registry.champion == version
        failed.append((request, how))
        tagged = "set-tag" in request
        # What is only read can be refused; what is done can also be done without an answer.
        if how == "refused" and request.startswith("POST"):
            how = "lost"
        else:
            number, how = number + 1, "refused"
    assert ("POST registered-models/alias", "lost") in failed
    entries = registry.explained()
    assert [entry.kind for entry in entries] == ["external", *["promotion"] * len(failed)], (
        "one for each step"
    )


@pytest.mark.parametrize("how", ["refused", "lost"])
def test_when_mlflow_fails_a_rollback_its_retry_goes_back_once(
    registry: Registry, proxy: FailingProxy, how: How
) -> None:
    registry.promoted(1)
    registry.promoted(2)
    registry.promoted(3)
    arguments = {"model": {"name": registry.name}, "reason": "worse at night"}
    proxy.fail(None)
    moving = "POST registered-models/alias"
    proxy.fail_at(moving, how)
    registry.world.run("rollback", arguments, step_key="back", fingerprint="f", mlflow=proxy.url)
    assert moving in proxy.requests
    retry = registry.world.run("rollback", arguments, step_key="back", fingerprint="f", mlflow=proxy.url)
    assert retry.failure is None, retry.failure
    assert [(entry.kind, entry.version) for entry in registry.explained()[-2:]] == [
        ("promotion", 3),
        ("rollback", 2),
    ]


def test_when_mlflow_is_too_slow_the_next_call_finds_what_it_has_done(
    registry: Registry, proxy: FailingProxy
) -> None:
    registry.promoted(1)
    verdict = registry.verdict(2, champion=1)
    proxy.fail_at("POST registered-models/alias", "slow")
    result = promote(registry, proxy, 2, 1, "slow")
    assert result.failure is None or result.failure.kind == "transient"
    assert registry.promote(verdict, step_key="slow").verdict["promoted"] is True
    assert [entry.version for entry in registry.explained()] == [1, 2]


def test_when_mlflow_is_away_nothing_is_written(registry: Registry) -> None:
    verdict = registry.verdict(1, None)
    away = "http://127.0.0.1:9"
    result = registry.world.run("promote", {"verdict": verdict}, step_key="away", mlflow=away)
    assert result.failure is not None
    assert result.failure.kind == "transient"
    assert registry.ledger.entries() == []
