"""A table larger than the memory that the step may take, in one file of one row group."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.transaction import AddAction
from limited import STEP, run_limited
from model_world import FEATURE_HASH, World, feature_rows
from predicting import prediction

from airflow_ml_provider.contract.store import Store, local_path

ALLOWED = 900
ROWS = 1_000_000
DAY = "2013-01-01"
LONG = "; a key of many letters, which are kept with each of the predictions" * 13
MODULES = (
    "polars pyarrow.parquet pyarrow.compute lightgbm pandas sklearn.linear_model airflow_ml_provider.steps.predict "
    "airflow_ml_provider.steps.tracking airflow_ml_provider.steps.flavors"
)


@pytest.mark.slow
def test_a_table_is_predicted_that_is_larger_than_the_memory_allowed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Arrow's own allocator reserves a gigabyte that it does not use, and the limit counts that.
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "system")
    # So does the C library for each thread.
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    few = feature_rows(days=1, rows_a_day=1_000, labels=False).with_columns(
        pl.col("flight_id").cast(pl.String)
    )
    world.publish(few, table="large")
    folder = local_path(Store(world.store).table_uri("large"))
    number = pl.int_range(pl.len())
    many = pl.concat([few.lazy()] * (ROWS // few.height)).with_columns(
        flight_id=pl.format("{}{}", number, pl.lit(LONG)), feature_hash=pl.lit(FEATURE_HASH)
    )
    path = folder / f"ds={DAY}/large.parquet"
    many.drop("ds").sink_parquet(path, compression="snappy", row_group_size=ROWS)
    assert pq.read_metadata(path).num_row_groups == 1
    table = DeltaTable(folder)
    stats = json.dumps({"numRecords": ROWS})
    added = AddAction(f"ds={DAY}/{path.name}", path.stat().st_size, {"ds": DAY}, 0, True, stats)
    table.create_write_transaction([added], "overwrite", table.schema(), ["ds"])

    # The limit is one: the rows do not fit into it.
    program = "sys.modules['polars'].read_parquet(sys.argv[1]).rechunk()"
    assert run_limited(ALLOWED, MODULES, program, path).returncode != 0
    spec = tmp_path / "spec.json"
    arguments = prediction("from_large", table={"name": "large"}, batch_rows=10_000)
    spec.write_bytes(world.spec("predict", arguments, step_key="from-large").encode())
    done = run_limited(ALLOWED, MODULES, STEP, "predict", "--spec", spec)
    assert done.returncode == 0, done.stdout[-3000:]
    found = pl.scan_delta(str(folder.parent / "from_large")).select(
        pl.len(), pl.col("flight_id").n_unique(), pl.col("score").n_unique().alias("scores")
    )
    # Each row has one of the few rows' features.
    assert found.collect(engine="streaming").row(0) == (ROWS, ROWS, few.height)
