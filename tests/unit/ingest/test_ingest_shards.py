"""Ingestion in shards: the same rows, bad rows and words for any number of them, published at once."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from airflow.sdk import DAG
from deltalake import DeltaTable
from raw_orders import HEADER, ORDERS_WITH_KEY

from airflow_ml_provider.contract.documents import Code, StepResult, StepSpec, read_spec
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.shards import ShardPlan, Shards
from airflow_ml_provider.contract.store import Store, local_path
from airflow_ml_provider.operators import IngestOperator
from airflow_ml_provider.steps import runner, sharding

TRANSFORM = """
    import polars as pl

    def marked(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.with_columns(place=pl.col("_source_row"), day=pl.col("day").replace("none", None))

    def moody(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.with_columns(more=pl.lit("a" if rows["id"].max() > 10 else 1))
"""


class Landing:
    """A folder of raw files, and steps that ingest it into tables of several stores."""

    def __init__(self, folder: Path, code: str) -> None:
        self.folder, self.code = folder / "raw", code
        self.stores = folder / "stores"
        self.folder.mkdir()

    def spec(self, shards: int, **arguments: Any) -> StepSpec:
        given = {
            "source": str(self.folder), "schema": ORDERS_WITH_KEY, "max_bad_rows": 1000,
            "publish": {"name": "orders", "partition_by": "day"}, "shards": shards, **arguments,
        }  # fmt: skip
        spec = StepSpec(
            verb="ingest",
            store=(self.stores / f"of-{shards}").as_uri(),
            arguments=given,
            step_key="ingest",
            fingerprint=document_digest(sorted(arguments)),
            code=Code(roots=(self.code,)),
        )
        return read_spec(spec.encode(), source="the test")


@pytest.fixture
def landing(tmp_path: Path, user_code: Callable[..., str]) -> Landing:
    return Landing(tmp_path, user_code(orders=TRANSFORM))


@pytest.fixture
def orders(landing: Landing) -> Landing:
    """Six files, one of them an archive: bad rows, rows without a day, keys twice in a file and across files."""
    for number in range(4):
        lines = [f"d{(number + row) % 3},{number * 40 + row},{row},row {row}\n" for row in range(40)]
        lines[3] = f"d1,x{number},1,\n"
        lines[7] = f"none,{number * 40 + 7},1,\n"
        lines[9] = f"d2,{number * 40 + 8},5,twice in a file\n"
        if number:
            # In an earlier file, and in the first.
            lines[11] = f"d0,{(number - 1) * 40 + 12},5,twice across files\n"
            lines[13] = "d1,14,5,of the first file\n"
        (landing.folder / f"{number}.csv").write_text(HEADER + "".join(lines))
    with zipfile.ZipFile(landing.folder / "1b.zip", "w") as archive:
        archive.writestr("b.csv", HEADER + "d1,900,1,\nd1,15,1,of the first file\n")
        archive.writestr("a.csv", HEADER + "d1,901,1,\nd1,900,2000,too much\n")
    (landing.folder / "5.jsonl").write_text(
        "".join(json.dumps({"day": "d1", "id": n, "amount": 1, "note": None}) + "\n" for n in (901, 950))
    )
    return landing


def shards_of(spec: StepSpec) -> Shards:
    return Shards(Store(spec.store), spec, spec.arguments["shards"])


def plan_of(spec: StepSpec) -> ShardPlan:
    plan = shards_of(spec).plan()
    assert plan is not None
    return plan


def run_shards(spec: StepSpec) -> int:
    """Run the shards as a Job does, in this process; gives how many there are."""
    assert sharding.write_plan(spec) == 0
    plan = plan_of(spec)
    for number in shards_of(spec).pending(plan):
        assert sharding.run_one(spec, number) == 0, shards_of(spec).result(number)
    return len(plan.shards)


def rows(spec: StepSpec, table: str) -> pl.DataFrame:
    return pl.read_delta(str(local_path(Store(spec.store).table_uri(table)))).sort(pl.all(), nulls_last=True)


def data_files(spec: StepSpec) -> set[str]:
    """The files below the table, whether or not a commit names them."""
    folder = local_path(Store(spec.store).table_uri("orders"))
    return {path.name for path in folder.rglob("part-*.parquet")}


def content(spec: StepSpec, table: str) -> str:
    """The digest of its content as the last commit has it."""
    return str(DeltaTable(Store(spec.store).table_uri(table)).history(1)[0]["content"])


def said(result: StepResult) -> str:
    assert result.failure is not None
    return result.failure.message


@pytest.mark.parametrize("partitions", ["", "d0"])
def test_rows_bad_rows_and_words_are_the_same_for_any_number_of_shards(
    orders: Landing, partitions: str
) -> None:
    arguments = {"partitions": partitions, "transform": "orders:marked"}
    whole_spec = orders.spec(1, **arguments)
    whole = runner.run_step(whole_spec)
    assert whole.status == "success", whole.failure
    assert "the same key (id) as 1.csv:14" in " ".join(rows(whole_spec, "orders_quarantine")["reason"])
    for shards, expected in ((2, 2), (6, 6)):
        spec = orders.spec(shards, **arguments)
        assert 2 <= run_shards(spec) <= expected
        table = local_path(Store(spec.store).table_uri("orders"))
        assert not (table / "_delta_log").exists(), "nothing is visible"
        result = runner.run_step(spec)
        assert result.status == "success", result.failure
        assert result.summary == whole.summary
        assert result.metrics == whole.metrics
        assert rows(spec, "orders").equals(rows(whole_spec, "orders"))
        assert rows(spec, "orders_quarantine").equals(rows(whole_spec, "orders_quarantine"))
        assert content(spec, "orders") == content(whole_spec, "orders")
        assert DeltaTable(str(table)).version() == 1, "its creation, and the publication"


def test_too_many_bad_rows_of_all_shards_fail_the_step_with_the_same_words(orders: Landing) -> None:
    whole = said(runner.run_step(orders.spec(1, max_bad_rows=10)))
    spec = orders.spec(3, max_bad_rows=10)
    run_shards(spec)
    assert said(runner.run_step(spec)).replace("of-3", "of-1") == whole
    assert "rows are bad, and max_bad_rows is 10" in whole
    assert not (local_path(Store(spec.store).table_uri("orders")) / "_delta_log").exists()
    assert rows(spec, "orders_quarantine").height > 10


def test_the_step_runs_its_shards_over_processes_and_the_same_bytes_again_change_nothing(
    orders: Landing,
) -> None:
    spec = orders.spec(2, parallelism=2)
    first = runner.run_step(spec)
    assert first.status == "success", first.failure
    assert shards_of(spec).plan() is None, "what was kept for the publication is removed"
    again = runner.run_step(spec)
    assert again.table is not None
    assert first.table is not None
    assert (again.table.changed, again.table.version) == (False, first.table.version)
    # A plan for them has nothing to do.
    assert sharding.write_plan(spec) == 0
    assert plan_of(spec).shards == ()
    assert runner.run_step(spec).table == again.table


def test_a_source_that_changed_is_read_anew_though_its_shards_were_done(orders: Landing) -> None:
    spec = orders.spec(2)
    run_shards(spec)
    (orders.folder / "3.csv").write_text(HEADER + "d1,5000,1,corrected\n")
    # A file of a shard is refused while the plan is that of before.
    shards_of(spec).forget(1)
    assert sharding.run_one(spec, 1) != 0
    refused = shards_of(spec).result(1)
    assert refused is not None
    assert refused.failure is not None
    assert "3.csv is not what it was when the shards were planned" in refused.failure.message
    run_shards(spec)
    result = runner.run_step(spec)
    assert result.status == "success", result.failure
    whole_spec = orders.spec(1)
    runner.run_step(whole_spec)
    assert 5000 in rows(spec, "orders")["id"]
    assert rows(spec, "orders").equals(rows(whole_spec, "orders"))


def test_a_step_that_fails_leaves_what_its_shards_wrote_to_the_next_try(orders: Landing) -> None:
    spec = orders.spec(3, max_bad_rows=10)
    run_shards(spec)
    before = data_files(spec)
    first = runner.run_step(spec)
    # It had taken duplicates out, into files of its own.
    assert "rows are bad" in said(first)
    assert data_files(spec) == before
    assert shards_of(spec).pending(plan_of(spec)) == []
    assert said(runner.run_step(spec)) == said(first)


def test_one_file_is_one_shard(landing: Landing) -> None:
    (landing.folder / "a.csv").write_text(HEADER + "d1,1,1,\nd1,1,2,\n")
    spec = landing.spec(4)
    assert run_shards(spec) == 1
    result = runner.run_step(spec)
    assert result.metrics == {"rows": 1, "rejected": 1}


def test_what_a_shard_had_kept_and_is_gone_is_made_again(orders: Landing) -> None:
    spec = orders.spec(2)
    run_shards(spec)
    for path in orders.stores.rglob("keys.arrow"):
        path.unlink()
    result = runner.run_step(spec)
    assert result.failure is not None
    assert result.failure.kind == "infrastructure"
    assert "what shard 0 had kept is gone" in result.failure.message
    assert shards_of(spec).pending(plan_of(spec)) == [0]


def test_a_suite_and_shards_are_refused(landing: Landing) -> None:
    (landing.folder / "a.csv").write_text(HEADER + "d1,1,1,\n")
    assert "shards=2 and suite= do not go together" in said(runner.run_step(landing.spec(2, suite="x:y")))
    with DAG("orders"), pytest.raises(ConfigError, match="shards=2 and suite="):
        IngestOperator(task_id="i", source="a", schema="x:Y", publish="orders", suite="x:y", shards=2)


def test_a_source_without_files_is_skipped(landing: Landing) -> None:
    spec = landing.spec(2)
    assert sharding.write_plan(spec) == 0
    assert runner.run_step(spec).status == "skipped"


def test_columns_of_one_shard_that_are_not_those_of_another_are_refused(landing: Landing) -> None:
    (landing.folder / "a.csv").write_text(HEADER + "d1,1,1,\n")
    (landing.folder / "b.csv").write_text(HEADER + "d1,11,1,\n")
    spec = landing.spec(2, transform="orders:moody")
    assert run_shards(spec) == 2
    result = runner.run_step(spec)
    assert result.failure is not None
    assert result.failure.kind == "user"
    assert "orders:moody gives other columns in one shard than in another" in result.failure.message


def test_partitions_that_somebody_replaced_are_ingested_again_by_a_clear(orders: Landing) -> None:
    spec = orders.spec(2)
    run_shards(spec)
    assert runner.run_step(spec).status == "success"
    mine = rows(spec, "orders")
    # Another step replaces one of the partitions: part of what the shards wrote is still in the table.
    other = orders.folder.parent / "other.csv"
    other.write_text(HEADER + "d1,7000,1,\n")
    given = {**spec.arguments, "source": str(other), "partitions": "d1", "shards": 1}
    replaced = runner.run_step(
        read_spec(
            StepSpec("ingest", spec.store, given, step_key="other", fingerprint="f" * 64).encode(),
            source="it",
        )
    )
    assert replaced.status == "success", replaced.failure
    assert 7000 in rows(spec, "orders")["id"]
    run_shards(spec)
    again = runner.run_step(spec)
    assert again.status == "success", again.failure
    assert rows(spec, "orders").equals(mine)
