"""Steps that are many pods: shards with one commit at the end, and a search, round after round."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from airflow.sdk import DAG
from places import RealCluster, store_of
from tries import Try

from airflow_ml_provider import Column, Floats, Schema, Table
from airflow_ml_provider.compute import Compute, LocalCompute
from airflow_ml_provider.operators import IngestOperator, SearchOperator
from airflow_ml_provider.steps.pinned_tables import open_table

ORDERS = Schema(
    (
        Column("day", "string", nullable=False),
        Column("id", "int64", nullable=False),
        Column("amount", "int64", minimum=0),
    ),
    key=("id",),
)
SLOW = """
    import time
    import polars as pl

    def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
        time.sleep(4)
        return rows
    """
BOWL = """
    def bowl(params):
        return {"loss": (params["x"] - 0.3) ** 2}
    """


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    return folder


def lay_down(place: RealCluster, files: int = 5) -> None:
    """Raw files with bad rows, and with keys that occur twice, in one file and in two."""
    for number in range(files):
        rows = [f"d{(number + row) % 3},{number * 50 + row},{row}" for row in range(50)]
        rows[3] = f"d1,{number * 50 + 3},many"
        rows[9] = f"d2,{number * 50 + 8},5"
        if number:
            rows[11] = f"d0,{(number - 1) * 50 + 12},5"
        store_of(place).write(f"raw/{number}.csv", "\n".join(["day,id,amount", *rows, ""]).encode())


def ingest(code: Path, compute: Compute, publish: str, source: str, **more: Any) -> IngestOperator:
    (code / "mine.py").write_text(textwrap.dedent(SLOW))
    with DAG("real"):
        return IngestOperator(
            task_id=publish, source=source, schema=ORDERS, transform="mine:transform", max_bad_rows=1000,
            publish=Table(publish, partition_by="day"), code=str(code), compute=compute, **more,
        )  # fmt: skip


def rows(place: RealCluster, table: str) -> pl.DataFrame:
    return open_table(store_of(place), Table(table)).lazy().collect().sort(pl.all())


@pytest.mark.parametrize("interrupted", [False, True], ids=["undisturbed", "a shard evicted"])
def test_shards_of_a_job_publish_in_one_commit_what_one_process_does(
    place: RealCluster, code: Path, interrupted: bool
) -> None:
    lay_down(place)
    source = f"{place.environment['AIRFLOW__ML__STORE']}/raw"
    jobs: list[Any] = []

    def look(trigger: Any) -> None:
        if "Job" not in type(trigger).__name__:
            return
        jobs.extend(place.batch.list_namespaced_job(place.namespace).items)
        if interrupted:
            place.until(place.running)
            place.interrupt()

    cut = ingest(code, place.compute(), "cut", source, shards=3, parallelism=2)
    output = Try(cut).to_the_end(look)
    whole = Try(ingest(code, LocalCompute(), "whole", source)).to_the_end()
    assert [job.spec.completions for job in jobs] == [3]
    assert rows(place, "cut").equals(rows(place, "whole"))
    assert rows(place, "cut_quarantine").height == rows(place, "whole_quarantine").height > 10
    assert output["metrics"] == whole["metrics"]
    assert store_of(place).latest_version("cut") == store_of(place).latest_version("whole")
    place.until(lambda: not place.leftovers())


def test_a_search_is_a_job_each_round_and_finds_what_one_process_finds(
    place: RealCluster, code: Path
) -> None:
    (code / "mine.py").write_text(textwrap.dedent(BOWL))
    found = []
    for compute in (place.compute(), LocalCompute()):
        with DAG(f"on_{type(compute).__name__}"):
            search = SearchOperator(
                task_id="search", function="mine:bowl", search={"x": Floats(0, 1)}, metric="-loss", trials=6,
                batch=4, sampler="tpe", parallelism=2, code=str(code), compute=compute, cache="rerun",
            )  # fmt: skip
        output = Try(search).to_the_end()
        assert output["metrics"]["trials_done"] == 6
        found.append({name: value for name, value in output["metrics"].items() if "seconds" not in name})
    assert found[0] == found[1]
    place.until(lambda: not place.leftovers())
