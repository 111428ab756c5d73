"""A features step whose facts are larger than the memory that it may take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from deltalake import write_deltalake
from limited import memory_group, run_in

# Megabytes, of which libraries take 200 before anything is read.
ALLOWED = 900
# Facts take 1.9 GB in memory.
FACTS, ROWS, FEATURES, CUSTOMERS = 2_000_000, 200_000, 120, 5_000
FILE_ROWS = 100_000
CODE = f"""
from __future__ import annotations

import polars as pl

from airflow_ml_provider import FeatureSet, FeatureView


def asked(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows


def measured(facts: pl.LazyFrame) -> pl.LazyFrame:
    return facts


VIEW = FeatureView("facts", measured, by=("customer",), event_time="event", knowledge_time="known",
                   features=tuple(f"f{{number}}" for number in range({FEATURES})))
LARGE = FeatureSet(rows=asked, key=("row_id",), prediction_time="predict_at", views=(VIEW,))
"""


def made(number: np.ndarray, **times: np.ndarray) -> pl.DataFrame:
    """Customers and times (in seconds) of rows or facts by their number."""
    moments = {
        name: pl.Series(seconds * 1_000_000).cast(pl.Datetime("us", "UTC")) for name, seconds in times.items()
    }
    return pl.DataFrame({"customer": number * 7919 % CUSTOMERS, **moments})


def keys(number: np.ndarray) -> pl.DataFrame:
    event = number * 60
    return made(number, event=event, known=event + number * 31 % 7 * 86_400)


@pytest.mark.slow
def test_features_are_built_of_facts_that_are_larger_than_the_memory_allowed(tmp_path: Path) -> None:
    tables = tmp_path / "store" / "tables"
    for first in range(0, FACTS, FILE_ROWS):
        number = np.arange(first, first + FILE_ROWS)
        features = [pl.Series(f"f{each}", number + each, dtype=pl.Float64) for each in range(FEATURES)]
        frame = keys(number).with_columns(features)
        write_deltalake(tables / "facts", frame.to_arrow(compat_level=pl.CompatLevel.oldest()), mode="append")
    number = np.arange(ROWS)[::-1].copy()
    rows = made(number, predict_at=number * 599).with_columns(row_id=pl.Series(number))
    write_deltalake(tables / "rows", rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "large_set.py").write_text(CODE)
    arguments = {
        "features": "large_set:LARGE", "tables": [{"name": "rows"}, {"name": "facts"}],
        "publish": {"name": "built", "partition_by": None}, "labels": False,
    }  # fmt: skip
    spec = tmp_path / "spec.json"
    document = {
        "verb": "features",
        "store": (tmp_path / "store").as_uri(),
        "step_key": "large",
        "arguments": arguments,
    }
    spec.write_text(json.dumps(document | {"code": {"roots": [str(tmp_path / "code")]}}))
    with memory_group(ALLOWED) as group:
        if group is None:
            pytest.skip("only root can make a control group, and only where they are mounted to be written")
        # The limit is one: the facts do not fit into it.
        reads_all = "import polars, sys; polars.read_delta(sys.argv[1])"
        assert run_in(group, "-c", reads_all, tables / "facts").returncode == -9
        done = run_in(group, "-m", "airflow_ml_provider.steps", "features", "--spec", spec)
    assert done.returncode == 0, done.stdout[-3000:]
    found = (
        pl.scan_delta(str(tables / "built"))
        .select("row_id", "facts__f0", "facts__f99")
        .sort("row_id")
        .collect()
    )
    used = as_known(rows)
    assert found["row_id"].to_list() == list(range(ROWS))
    assert found["facts__f0"].to_list() == used
    assert found["facts__f99"].to_list() == [None if fact is None else fact + 99 for fact in used]


def as_known(rows: pl.DataFrame) -> list[float | None]:
    """The number of the fact that each row uses, by row: walking through all that happens in the order of time."""
    number = np.arange(FACTS)
    facts = keys(number)
    usable = facts.select("customer", at=pl.max_horizontal("event", "known"), fact=pl.Series(number))
    asked = rows.select("customer", at="predict_at", row="row_id")
    # Facts are numbered in the order of their events.
    happened = pl.concat([usable, asked], how="diagonal").sort("customer", "at", "row", nulls_last=False)
    newest = happened.with_columns(fact=pl.col("fact").cum_max().forward_fill().over("customer"))
    return newest.filter(pl.col("row").is_not_null()).sort("row")["fact"].cast(pl.Float64).to_list()
