"""Twenty expectations over a table of 17 columns, against Great Expectations over one pandas frame of it.

Both read the same Delta table and import Great Expectations; the reference does nothing else. Our step also
renders Data Docs and writes its verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from deltalake import write_deltalake

from bench.measuring import Cost, Row, in_turn
from bench.scene import Scene

COLUMNS = 17
_PART = 500_000
SUITE = """
import great_expectations.expectations as gxe

WORDS = [f"v{number:02}" for number in range(20)]


def suite():
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectTableColumnCountToEqual(value=17),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
        gxe.ExpectColumnValuesToNotBeNull(column="i0"),
        gxe.ExpectColumnValuesToBeBetween(column="i1", min_value=0, max_value=1999),
        gxe.ExpectColumnValuesToBeBetween(column="f0", min_value=-30, max_value=30),
        gxe.ExpectColumnValuesToNotBeNull(column="f1", mostly=0.9),
        gxe.ExpectColumnValuesToBeBetween(column="f1", min_value=-10, max_value=40, mostly=0.99),
        gxe.ExpectColumnMeanToBeBetween(column="f2", min_value=19, max_value=21),
        gxe.ExpectColumnMedianToBeBetween(column="f3", min_value=29, max_value=31),
        gxe.ExpectColumnStdevToBeBetween(column="f4", min_value=2, max_value=4),
        gxe.ExpectColumnMaxToBeBetween(column="f5", min_value=50, max_value=100),
        gxe.ExpectColumnQuantileValuesToBeBetween(column="i2", quantile_ranges={
            "quantiles": [0.1, 0.5, 0.9], "value_ranges": [[200, 400], [1400, 1600], [2600, 2800]]}),
        gxe.ExpectColumnValuesToBeInSet(column="s0", value_set=WORDS),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="s1", value_set=WORDS),
        gxe.ExpectColumnValueLengthsToEqual(column="s2", value=3),
        gxe.ExpectColumnValuesToMatchRegex(column="code", regex="^[A-Z]{2}[0-9]{4}$"),
        gxe.ExpectColumnValuesToNotBeNull(column="s3"),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="f2", column_B="f0", mostly=0.9),
        gxe.ExpectColumnUniqueValueCountToBeBetween(column="code", min_value=1000, max_value=10000),
    ]
"""
REFERENCE = """
import sys
from airflow_ml_provider.steps.suites import import_gx
import_gx()
import great_expectations as gx
from deltalake import DeltaTable
sys.path.insert(0, sys.argv[2])
from bench_expectations import suite
frame = DeltaTable(sys.argv[1]).to_pandas()
context = gx.get_context(mode="ephemeral")
asset = context.data_sources.add_pandas("tables").add_dataframe_asset("table")
batch = asset.add_batch_definition_whole_dataframe("rows").get_batch(batch_parameters={"dataframe": frame})
assert batch.validate(gx.ExpectationSuite(name="suite", expectations=suite())).success
"""


def table(scene: Scene, rows: int) -> Path:
    """A table of ten days, made once."""
    place = scene.store / "tables" / f"wide_{rows}"
    if (place / "_delta_log").exists():
        return place
    for start in range(0, rows, _PART):
        write_deltalake(
            place, _part(start, min(_PART, rows - start), rows).to_arrow(), mode="append", partition_by=["ds"]
        )
    return place


def _part(start: int, count: int, rows: int) -> pl.DataFrame:
    random = np.random.default_rng(start)
    numbers = np.arange(start, start + count)
    columns: dict[str, object] = {"id": numbers}
    for number in range(4):
        columns[f"i{number}"] = random.integers(0, 1000 * (number + 1), count)
    for number in range(6):
        values = pl.Series(random.normal(10 * number, 3, count))
        columns[f"f{number}"] = (
            values.set(pl.Series(random.random(count) < 0.02), None) if number % 2 else values
        )
    words, codes = (
        pl.Series([text.format(n) for n in range(many)]) for text, many in (("v{:02}", 20), ("AB{:04}", 5000))
    )
    for number in range(4):
        columns[f"s{number}"] = words[random.integers(0, 20, count)]
    columns["code"] = codes[random.integers(0, 5000, count)]
    columns["ds"] = pl.Series([f"2013-01-{day:02}" for day in range(1, 11)])[numbers * 10 // rows]
    return pl.DataFrame(columns)


def rows(scene: Scene) -> Iterator[Row]:
    """Time and memory against the reference; what more rows cost, without one."""
    code = scene.folder / "validate_code"
    code.mkdir(exist_ok=True)
    (code / "bench_expectations.py").write_text(SUITE)

    def ours(size: int) -> Cost:
        arguments = {"table": {"name": f"wide_{size}"}, "suite": "bench_expectations:suite"}
        return scene.step("validate", arguments, key=f"validate_{size}", code=code)

    uri = table(scene, scene.rows)
    mine, others = in_turn(
        lambda: ours(scene.rows), lambda: scene.python(REFERENCE, uri, code), scene.repeats
    )
    what = f"validate, 20 expectations over {scene.rows:,} rows x {COLUMNS} columns"
    reference = "Great Expectations over one pandas frame"
    yield Row(what, reference, "not slower", mine, others, limit=1.0)
    yield Row(f"{what}: memory", reference, "a quarter of the memory", mine, others, unit="peak", limit=0.25)
    for times in (0.1, 5):
        size = int(scene.rows * times)
        table(scene, size)
        yield Row(f"validate, 20 expectations over {size:,} rows", "", "linear", [ours(size)])
