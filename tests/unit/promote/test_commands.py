"""``airflow-ml ledger`` and ``airflow-ml rollback``: the ledger from a shell."""

from __future__ import annotations

import json
from typing import Any

import pytest
from champions import Registry

from airflow_ml_provider.cli import main


@pytest.fixture
def timeline(registry: Registry) -> Registry:
    registry.promoted(1)
    registry.promote(registry.verdict(2, champion=1), effective="2013-06-01", reason="better in May")
    return registry


def ran(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(command)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def asked(registry: Registry, command: str, *more: str) -> list[str]:
    return [command, registry.name, "--store", registry.world.store, *more]


def test_the_timeline_says_who_moved_the_champion_when_and_why(
    timeline: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    timeline.champion = 3
    timeline.roll_back()
    code, said = ran(capsys, *asked(timeline, "ledger"))
    lines = said.splitlines()
    assert code == 0
    assert lines[0].split() == ["entry", "counts", "from", "alias", "to", "was", "kind", "by", "why"]
    assert lines[2].split()[:6] == ["2", "2013-06-01T00:00:00.000+00:00", "2", "1", "promotion", "ada"]
    assert lines[2].endswith("  better in May")
    assert [line.split()[4] for line in lines[1:]] == ["promotion", "promotion", "external", "rollback"]
    code, said = ran(capsys, *asked(timeline, "ledger", "--json"))
    documents: list[dict[str, Any]] = json.loads(said)
    assert [document["outcome"]["moved"] for document in documents] == [True] * 4
    assert documents[1]["effective"] == "2013-06-01T00:00:00.000+00:00"


def test_who_was_champion_at_a_moment_is_one_question(
    timeline: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ran(capsys, *asked(timeline, "ledger", "--as-of", "2013-06-08"))
    assert code == 0
    assert said == (
        f"{timeline.name} version 2, champion from 2013-06-01T00:00:00.000+00:00 on "
        "(entry 2, promotion by ada: better in May)\n"
    )
    code, said = ran(capsys, *asked(timeline, "ledger", "--as-of", "2013-05-08"))
    assert (code, said) == (
        66, f"{timeline.name} had no champion at 2013-05-08: the ledger begins later, or is empty\n"
    )  # fmt: skip
    code, _ = ran(capsys, *asked(timeline, "ledger", "--as-of", "2013-06-08", "--known-at", "2014-01-01"))
    assert code == 66
    code, said = ran(capsys, *asked(timeline, "ledger", "--as-of", "June"))
    assert code == 64
    assert "--as-of is 'June', which is not a moment" in said


def test_a_ledger_that_has_nothing_says_so(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, *asked(registry, "ledger")) == (
        0, f"the ledger has nothing of {registry.name}@champion\n"
    )  # fmt: skip


def test_a_name_that_no_model_has_is_refused(capsys: pytest.CaptureFixture[str], store: str) -> None:
    for name in ("", "a/b"):
        code, said = ran(capsys, "ledger", name, "--store", store)
        assert code == 64
        assert "cannot be a model name" in said


def test_a_rollback_from_a_shell_goes_back_and_again_further(
    timeline: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    timeline.promote(timeline.verdict(3, champion=2), step_key="third")
    command = asked(timeline, "rollback", "--reason", "worse", "--tracking-uri", timeline.world.mlflow)
    code, said = ran(capsys, *command)
    assert code == 0, said
    assert f"champion: {timeline.name}/2" in said
    assert f"left: {timeline.name}/3" in said
    assert timeline.champion == 2
    entry = timeline.explained()[-1]
    assert (entry.kind, entry.by, entry.reason) == ("rollback", "grace", "worse")
    assert ran(capsys, *command)[0] == 0
    assert timeline.champion == 1
    code, said = ran(capsys, *command)
    assert code == 66
    assert "there is none to go back to" in said
    assert ran(capsys, *command, "--to", "3")[0] == 0
    assert timeline.explained()[-1].version == 3


def test_without_a_store_or_a_server_it_is_said_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    for name in ("AIRFLOW__ML__STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    code, said = ran(capsys, "ledger", "m")
    assert code == 64
    assert "no store is configured" in said
    code, said = ran(capsys, "rollback", "m", "--reason", "worse", "--store", store)
    assert code == 64
    assert "no tracking server is configured" in said
