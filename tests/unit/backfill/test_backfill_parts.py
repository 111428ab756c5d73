"""The parts of the planner: ranges of partitions, tables' logs, and what a step was made from."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from airflow_ml_provider.cli import main
from airflow_ml_provider.cli.backfill_document import Choice, Estimate
from airflow_ml_provider.cli.backfill_evidence import Seen
from airflow_ml_provider.cli.backfill_models import followed, named_by
from airflow_ml_provider.cli.backfill_partitions import slots
from airflow_ml_provider.cli.backfill_present import digest_of, entry_points, made_by
from airflow_ml_provider.cli.backfill_tables import table_now
from airflow_ml_provider.contract.documents import Publication, StepResult, StepSpec
from airflow_ml_provider.contract.errors import ConfigError, TransientError
from airflow_ml_provider.contract.staleness import Followed, Published, Read, TableNow
from airflow_ml_provider.contract.store import Store


def keys(*words: str) -> list[str]:
    return [slot.key for slot in slots(*words)]


def test_a_range_holds_both_its_ends() -> None:
    assert keys("2013-06-29", "2013-07-01") == ["2013-06-29", "2013-06-30", "2013-07-01"]
    assert keys("2012-12", "2013-01", "month") == ["2012-12", "2013-01"]
    assert keys("2013-06-01T22", "2013-06-02T00", "hour") == [
        "2013-06-01T22",
        "2013-06-01T23",
        "2013-06-02T00",
    ]
    assert len(keys("2013-06-01", "2013-06-02", "hour")) == 48
    assert len(keys("2013-02", "2013-03", "day")) == 28 + 31
    assert keys("2013-06-01", "2013-06-02", "day", "%Y%m%d") == ["20130601", "20130602"]


def test_a_day_is_a_day_where_clocks_are_put_forward_and_an_hour_an_hour() -> None:
    days = slots("2024-03-30", "2024-04-01", "day", "", "Europe/Berlin")
    assert [slot.start.utcoffset() for slot in days] == [timedelta(hours=n) for n in (1, 1, 2)]
    assert len(slots("2024-03-31", "2024-03-31", "hour", "", "Europe/Berlin")) == 23
    with pytest.raises(ConfigError, match="same key"):
        slots("2024-10-27", "2024-10-27", "hour", "", "Europe/Berlin")
    assert len(slots("2024-10-27", "2024-10-27", "hour", "%Y-%m-%dT%H%z", "Europe/Berlin")) == 25


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("2013-06-02", "2013-06-01"), "empty"),
        (("yesterday", "2013-06-01"), "not a date"),
        (("2013-06-01", "2013-06-03", "day", "%Y-%m"), "same key"),
        (("1013-06-01", "2013-06-03"), "more than"),
        (("2013-06-01", "2013-06-03", "day", "", "Atlantis"), "time zone"),
    ],
)
def test_a_range_that_cannot_be_is_refused(words: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        slots(*words)


@given(st.dates(max_value=date(2200, 1, 1)), st.integers(0, 400))
def test_partitions_lie_side_by_side_without_a_gap(day: date, more: int) -> None:
    found = slots(day.isoformat(), (day + timedelta(days=more)).isoformat())
    assert len(found) == more + 1
    assert all(one.end == following.start for one, following in pairwise(found))


def test_a_tables_log_tells_which_version_changed_which_partition(tmp_path: Path) -> None:
    uri = str(tmp_path / "tables" / "flights")
    for day in ("2013-06-01", "2013-06-02", "2013-06-01"):
        write_deltalake(
            uri,
            pl.DataFrame({"ds": [day] * 3, "x": [1, 2, 3]}).to_arrow(compat_level=pl.CompatLevel.oldest()),
            partition_by=["ds"],
            mode="append",
        )
    store = Store(tmp_path.as_uri())
    found = table_now(store, "flights")
    assert found is not None
    assert (found.version, found.changes) == (2, {"2013-06-02": 1, "2013-06-01": 2})
    table = DeltaTable(uri)
    assert table.optimize.compact()["numFilesAdded"] == 1
    compacted = table_now(store, "flights")
    assert compacted is not None
    assert (compacted.version, compacted.changes) == (3, found.changes), "rows that only moved did not change"
    DeltaTable(uri).delete("ds = '2013-06-02'")
    deleted = table_now(store, "flights")
    assert deleted is not None
    assert deleted.changes == {"2013-06-02": 4, "2013-06-01": 2}
    assert table_now(store, "weather") is None


def test_a_commit_that_cannot_be_read_is_unknown_and_not_unchanged(tmp_path: Path) -> None:
    store = Store(tmp_path.as_uri())
    store.write(f"tables/flights/_delta_log/{0:020}.json", b'{"add": ')
    with pytest.raises(TransientError, match="commit 0 of table 'flights'"):
        table_now(store, "flights")


def test_a_log_whose_beginning_was_cleaned_up_says_from_where_on_it_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path.as_uri())
    store.write(
        f"tables/flights/_delta_log/{7:020}.json",
        b'{"add": {"path": "a", "partitionValues": {"ds": "2013-06-01"}, "dataChange": true}}\n'
        b'{"commitInfo": {"step_key": "predict-1"}}\n',
    )
    assert table_now(store, "flights") == TableNow(
        7, {"2013-06-01": 7}, {"2013-06-01": "predict-1"}, known_since=7
    )


def test_what_a_partition_was_made_from_is_read_from_its_result() -> None:
    day = "2013-06-01"
    parts = {
        "verb": "predict",
        "code": "c0de",
        "package": "0.1.0",
        "model": {"name": "delays", "alias": "champion", "version": 3},
        "table": {"name": "rows", "partition_by": "ds", "version": 41},
        "publish": {"name": "predictions", "partition_by": "ds", "version": None},
        "partitions": day,
        "suite": f"checks/{day}.json",
        "selection": "champion now",
    }
    published = Publication("predictions", 17, "file:///x", partitions=day)
    result = StepResult("predict", "k", "f", "success", table=published, parts=parts)
    made = made_by(Seen("predict", "r", "", result, (day,)), day)
    assert made.reads == (Read("rows", 41, day),)
    assert made.models == (Followed("delays", "champion", 3),)
    assert made.published == Published("predictions", 17, day)
    assert made.settings["suite"] == "checks/{partition}.json"
    assert made.settings["model"] == {"name": "delays", "alias": "champion"}
    assert "partitions" not in made.settings


def test_whether_a_run_may_ask_for_a_retraining_says_nothing_about_what_it_found() -> None:
    def settings(retrain: dict[str, Any] | None) -> dict[str, Any]:
        parts = {"verb": "monitor", "partitions": "2013-06-01", "max_psi": 0.25, "retrain": retrain}
        result = StepResult("monitor", "k", "f", "success", parts=parts)
        return made_by(Seen("monitor", "r", "", result, ("2013-06-01",)), "2013-06-01").settings

    assert settings({"drift": True}) == settings(None)


def models_of(day: str, **parts: Any) -> list[Followed]:
    return list(followed("predict", parts, day))


def test_a_model_that_was_fixed_is_followed_by_nobody() -> None:
    day, pinned = "2013-06-01", {"name": "delays", "alias": "champion", "version": 3}
    assert models_of(day, model=pinned, selection="version 3") == []
    as_of = "champion as of 2013-05-01T00:00:00Z"
    assert models_of(day, model=pinned, selection=as_of) == [Followed("delays", as_of, 3)]
    each = [
        {"model": pinned, "partitions": "2013-06-01..2013-06-02"},
        {"model": {**pinned, "version": 4}, "partitions": "2013-06-03"},
    ]
    unpinned = {**pinned, "version": None}
    assert models_of(
        "2013-06-03", model=unpinned, selection="champion as of each partition", by_partition=each
    ) == [Followed("delays", "champion as of 2013-06-03T00:00:00Z", 4)]
    split = [
        {"name": "champion", "share": 0.9, "model": pinned},
        {"name": "2", "share": 0.1, "model": pinned},
    ]
    assert models_of(day, model=unpinned, split=split) == [Followed("delays", "champion", 3)]


def test_the_present_code_is_digested_as_the_operator_does(tmp_path: Path) -> None:
    from airflow_ml_provider.operators.pins import code_of

    (tmp_path / "shop.py").write_text("import helpers\n")
    (tmp_path / "helpers.py").write_text("")
    (tmp_path / "checks.json").write_text("{}")
    arguments = {"transform": "shop:clean", "suite": "checks.json", "schema": {"columns": []}, "source": "x"}
    roots = (str(tmp_path),)
    expected = code_of(("shop:clean", "checks.json", None), roots, "").digest
    assert digest_of(StepSpec("ingest", "file:///s", arguments), roots) == expected
    (tmp_path / "helpers.py").write_text("changed = True\n")
    assert digest_of(StepSpec("ingest", "file:///s", arguments), roots) != expected


def test_every_verbs_entry_points_are_looked_for_where_its_operator_has_them() -> None:
    from airflow_ml_provider import operators
    from airflow_ml_provider.contract.arguments import ARGUMENTS
    from airflow_ml_provider.operators.base import StepOperator

    code = {
        "ingest": {"transform": "a:b", "suite": "c:d", "schema": "e:f"},
        "validate": {"suite": "a:b"},
        "features": {"features": "a:b", "suite": "c:d"},
        "train": {"function": "a:b"},
        "evaluate": {
            "slices": ["origin", "a:b"],
            "gates": [{"slice_by": "c:d"}, {}],
            "features": "f:g",
            "behaviour": "e",
        },
        "predict": {"suite": "a:b"},
        "monitor": {"features": "a:b"},
        "fleet": {"function": "a:b"},
        "search": {"function": "a:b", "sampler": "c:d"},
    }
    for verb in ARGUMENTS:
        kind = getattr(operators, f"{verb.title()}Operator")
        arguments = code.get(verb, {})
        task = SimpleNamespace(**arguments)
        if "gates" in arguments:
            task.gates = [SimpleNamespace(slice_by=one.get("slice_by")) for one in arguments["gates"]]
        if kind.entry_points is StepOperator.entry_points:
            assert not arguments, verb
        found = kind.entry_points(task)
        assert entry_points(verb, arguments) == [name for name in found if name], verb


def test_mlflow_tells_the_version_of_an_alias_and_that_there_is_none(mlflow_uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_uri)
    client.create_registered_model("backfill_alias")
    run = client.create_run("0")
    client.create_model_version("backfill_alias", f"{run.info.artifact_uri}/model", run.info.run_id)
    assert named_by(mlflow_uri, "backfill_alias", "champion") is None
    assert named_by(mlflow_uri, "backfill_no_model", "champion") is None
    client.set_registered_model_alias("backfill_alias", "champion", "1")
    assert named_by(mlflow_uri, "backfill_alias", "champion") == 1
    with pytest.raises(ConfigError, match="--ignore model"):
        named_by("sqlite:///mlflow.db", "backfill_alias", "champion")
    with pytest.raises(TransientError, match="does not answer"):
        named_by("http://127.0.0.1:9", "backfill_alias", "champion")


def test_a_plans_id_is_that_of_the_choice_and_differs_with_any_part_of_it() -> None:
    choice = Choice(dag_id="d", first="2013-06-01", last="2013-06-02")
    same = Choice(dag_id="d", first="2013-06-01", last="2013-06-02")
    assert choice.plan_id() == same.plan_id()
    others = [
        Choice(dag_id="d", first="2013-06-01", last="2013-06-02", **more)
        for more in ({"events": "emit"}, {"conf": {"a": 1}}, {"only": ("fine",)}, {"strict": True})
    ]
    assert len({choice.plan_id(), choice.plan_id(2), *(one.plan_id() for one in others)}) == 6


def test_the_estimate_is_waves_times_the_median_and_unknown_without_history() -> None:
    assert Estimate(9, 30.0, 20.0, 90.0).of(11, 5) == 90.0
    assert Estimate().of(11, 5) is None


def test_the_command_needs_no_airflow(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        "import sys\nsys.modules['airflow'] = None\nfrom airflow_ml_provider.cli import main\n"
        "sys.exit(main(['backfill', 'plan', 'd', '--from', '2013-06-01', '--to', '2013-06-02',"
        f" '--url', 'http://127.0.0.1:9', '--patience', '1s', '--store', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 75, done.stderr
    assert "127.0.0.1:9" in done.stderr


def test_what_cannot_be_asked_for_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    days = ["--from", "2013-06-01", "--to", "2013-06-02"]
    where = ["--url", "http://127.0.0.1:9", "--store", str(tmp_path)]
    for wrong, told in (
        (["--only", "rotten"], "missing,stale,fine"),
        (["--wave", "0"], "--wave is 0"),
        (["--param", "day"], "NAME=VALUE"),
    ):
        assert main(["backfill", "plan", "d", *days, *where, *wrong]) == 64
        assert told in capsys.readouterr().err
