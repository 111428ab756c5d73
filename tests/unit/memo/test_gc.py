"""Collection removes what nothing refers to, never what something does, and leaves a whole at every moment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from memo_world import DAYS, Pipeline, Shop, run

from airflow_ml_provider.cli import gc
from airflow_ml_provider.cli.gc_models import Version
from airflow_ml_provider.cli.gc_plan import Survey
from airflow_ml_provider.contract.store import Store, local_path

LONG_AGO = time.time() - 100 * 86_400


def aged(store: Store, *prefixes: str) -> None:
    """Have all documents below these be written long ago."""
    for prefix in prefixes or ("",):
        for path in list(store.paths(prefix)):
            os.utime(local_path(store.uri) / path, (LONG_AGO, LONG_AGO))


def collect(
    store: Store,
    *,
    tracking_uri: str = "",
    tables: bool = False,
    dry_run: bool = False,
    older_than: str = "30d",
) -> int:
    return gc.run(
        Namespace(
            store=store.uri, older_than=older_than, tracking_uri=tracking_uri, tables=tables, dry_run=dry_run
        )
    )


def folders(store: Store, under: str = "runs") -> set[str]:
    return {path.split("/")[1] for path in store.paths(under)}


def all_of(store: Store) -> set[str]:
    return set(store.paths(""))


def test_the_run_that_published_what_a_partition_holds_is_kept_and_the_one_before_it_is_not(
    shop: Shop,
) -> None:
    first = run(shop.features(partitions=DAYS[0]), "run_1")["step_key"]
    shop.publish(2.0, DAYS[0])
    second = run(shop.features(partitions=DAYS[0]), "run_2")["step_key"]
    aged(shop.store)
    assert collect(shop.store) == 0
    assert folders(shop.store) == {second}
    assert first != second


def test_what_is_known_of_a_kept_run_is_kept_and_still_a_hit(shop: Shop) -> None:
    task = shop.features()
    run(task, "run_1")
    run(task, "run_2")
    aged(shop.store)
    collect(shop.store)
    assert run(task, "run_3")["cache"]["decision"] == "hit"
    assert len(shop.compute.launches) == 1


def test_a_run_whose_result_is_in_use_elsewhere_is_kept_with_its_reports(shop: Shop) -> None:
    maker = run(shop.validate(), "run_1")["step_key"]
    aged(shop.store)
    young = run(shop.validate("others"), "run_2")["step_key"]
    collect(shop.store)
    assert folders(shop.store) == {maker, young}


def test_what_nobody_uses_goes_with_its_memo_and_is_computed_when_it_is_asked_for(shop: Shop) -> None:
    run(shop.validate(), "run_1")
    aged(shop.store)
    before = all_of(shop.store)
    collect(shop.store, dry_run=True)
    assert all_of(shop.store) == before
    collect(shop.store)
    left = all_of(shop.store)
    assert not {path for path in left if path.startswith(("runs/", "memo/"))}
    assert {path for path in before if path.startswith("tables/")} <= left
    assert run(shop.validate(), "run_1")["cache"]["decision"] == "miss"


def test_what_is_young_is_left_alone_with_all_that_it_names(shop: Shop) -> None:
    shop.store.write(
        "runs/a-running-step-0123456789abcdef/spec.json", b'{"code": {"archive": "code/abc.zip"}}'
    )
    shop.store.write("code/abc.zip", b"packed")
    shop.store.write("code/def.zip", b"packed")
    shop.store.write("aside/rows/a-failed-step-0123456789abcdef/part.parquet", b"rows")
    aged(shop.store, "code", "aside")
    collect(shop.store)
    assert shop.store.exists("code/abc.zip")
    assert not shop.store.exists("code/def.zip")
    assert folders(shop.store) == {"a-running-step-0123456789abcdef"}
    assert not list(shop.store.paths("aside"))


def test_what_the_ledger_names_is_kept(shop: Shop) -> None:
    key = "a-promotion-0123456789abcdef"
    shop.store.write(f"runs/{key}/verdict.json", b"{}")
    entry = f'{{"step_key": "{key}", "verdict_uri": "{shop.store.run_uri(key, "verdict.json")}"}}'
    shop.store.write("registry/flight_delays/ledger/00000001.json", entry.encode())
    aged(shop.store)
    collect(shop.store)
    assert folders(shop.store) == {key}


def test_a_models_training_and_its_rows_are_kept_and_its_table_version_can_be_read(
    world: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = Store(world.store)
    pipeline = Pipeline(world, "memo_collected")
    key = run(pipeline.train, "run_1")["step_key"]
    trained_on = world.table("rows")
    # More versions than any test trains on: models of others, in the same MLflow, keep versions of tables of this name.
    for count in range(11, 21):
        world.publish(trained_on.head(count).drop("feature_hash"))
    aged(store)
    # Delta dates a removal by its commit.
    for path in list(store.paths("tables/rows/_delta_log")):
        store.write(
            path, re.sub(rb'"deletionTimestamp":\d+', b'"deletionTimestamp":1000', store.read(path) or b"")
        )
    assert collect(store, tracking_uri=world.mlflow, tables=True) == 0
    assert folders(store) == {key}
    assert f"runs/{key}: model memo_collected/1 was made by it" in capsys.readouterr().out
    table = store.table_uri("rows")
    assert DeltaTable(table, version=0).to_pyarrow_table().num_rows == trained_on.height
    assert DeltaTable(table).to_pyarrow_table().num_rows == 20
    with pytest.raises(Exception, match=r"(?i)not found|no such file"):
        DeltaTable(table, version=9).to_pyarrow_table()


def test_without_an_answer_of_mlflow_nothing_is_removed(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shop.validate(), "run_1")
    aged(shop.store)
    before = all_of(shop.store)
    assert collect(shop.store, tracking_uri="http://127.0.0.1:9") == 75
    assert all_of(shop.store) == before
    assert "nothing was removed" in capsys.readouterr().err


def test_the_server_that_steps_have_used_is_asked_when_none_is_named(shop: Shop) -> None:
    run(shop.validate(), "run_1")
    [key] = folders(shop.store)
    spec = shop.store.read_json(f"runs/{key}/spec.json")
    spec["tracking"] = {"uri": "http://127.0.0.1:9"}
    shop.store.write_json(f"runs/{key}/spec.json", spec)
    aged(shop.store)
    assert collect(shop.store) == 75
    assert folders(shop.store) == {key}


def test_an_age_of_less_than_a_day_is_refused(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect(shop.store, older_than="6h") == 64
    assert "less than a day" in capsys.readouterr().err


def test_a_model_on_any_version_keeps_what_it_was_made_from(shop: Shop) -> None:
    output = run(shop.features(), "run_1")
    shop.publish(2.0, *DAYS)
    run(shop.features(), "run_2")
    aged(shop.store)
    survey = Survey(shop.store)
    model = Version("flight_delays/1", output["step_key"], output["fingerprint"], (("rows", 1),))
    plan = survey.plan([model], datetime.now(UTC) - timedelta(days=30))
    assert plan.versions["rows"] >= {1}
    assert f"runs/{output['step_key']}" in {group.name for group in plan.kept}
    assert f"memo/steps/{output['fingerprint']}" in {group.name for group in plan.kept}


def test_killed_at_any_moment_it_leaves_a_store_that_works_and_is_collected_by_the_next(
    shop: Shop, tmp_path: Path
) -> None:
    for seed in range(6):
        run(shop.features(seed=seed), f"run_{seed}")
    aged(shop.store)
    deleted = tmp_path / "deleted"
    program = f"""
import os, sys
from argparse import Namespace
from airflow_ml_provider.cli import gc
from airflow_ml_provider.contract.store import Store
plain, left = Store.delete, [int(sys.argv[1])]
def delete(self, path):
    if not left[0]:
        os._exit(9)
    left[0] -= 1
    plain(self, path)
Store.delete = delete
sys.exit(gc.run(Namespace(store={shop.store.uri!r}, older_than="30d", tracking_uri="", tables=False, dry_run=False)))
"""
    for moment in (1, 2, 5):
        killed = subprocess.run(
            [sys.executable, "-c", program, str(moment)], cwd=Path(__file__).parents[3], check=False
        )
        assert killed.returncode == 9
        # The last one published what the partitions hold: still a hit, whatever has gone.
        assert run(shop.features(seed=5), f"after_{moment}")["cache"]["decision"] == "hit"
        aged(shop.store)
    assert collect(shop.store) == 0
    assert run(shop.features(seed=0), "again")["cache"]["decision"] == "miss"
    assert not deleted.exists()
