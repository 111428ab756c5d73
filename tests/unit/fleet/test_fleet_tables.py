"""Fleets and tables: items that are rows, rows that an item selects, and the results as a table."""

from __future__ import annotations

import tracemalloc
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from fleet_world import KEY, Fleet, numbers

from airflow_ml_provider.contract.arguments import FleetArguments
from airflow_ml_provider.contract.documents import StepSpec
from airflow_ml_provider.contract.fleets import IndexDocument, ItemRecord, item_digest
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.fleet_collect import collect
from airflow_ml_provider.steps.fleet_rows import ItemRows
from airflow_ml_provider.steps.pinned_tables import open_table

ROWS = """
    import pandas as pd
    import polars as pl
    from work import note

    def count(rows: pl.LazyFrame, item, params):
        found = rows.select(pl.len(), pl.col("minutes").sum()).collect()
        note("calls", item)
        return {"rows": found["len"][0], "minutes": found["minutes"][0], "params": params}

    def first(some: pd.DataFrame):
        return {"first": some["minutes"].iloc[0], "rows": len(some)}
"""
RESULTS = {"name": "results", "partition_by": None}
FLIGHTS = pl.DataFrame(
    {
        "route": ["JFK-LAX", "EWR-SFO", "JFK-LAX", "LGA-ATL"] * 3,
        "ds": ["2013-01-01", "2013-01-02", "2013-01-03"] * 4,
        "on": [date(2013, 1, 1), date(2013, 1, 2), date(2013, 1, 3)] * 4,
        "stops": [0, 1] * 6,
        "minutes": range(12),
    }
)


@pytest.fixture
def flights(fleet: Fleet) -> Fleet:
    """A fleet whose store has the table ``flights`` and whose code has functions of rows."""
    import textwrap

    (fleet.code / "rowwork.py").write_text(textwrap.dedent(ROWS))
    fleet.publish("flights", FLIGHTS, partition_by=["ds"])
    return fleet


def test_items_may_be_the_rows_of_a_table(fleet: Fleet) -> None:
    frame = pl.DataFrame({"x": [3, 1, 2], "day": [date(2013, 1, 3), date(2013, 1, 1), None]})
    fleet.publish("wanted", frame)
    given = {"over": {"name": "wanted", "version": 0}}
    assert fleet.done(**given).summary["done"] == 3
    assert [item for item, _ in fleet.records(fleet.spec(**given))] == [
        {"x": 1, "day": "2013-01-01"}, {"x": 2, "day": None}, {"x": 3, "day": "2013-01-03"},
    ]  # fmt: skip
    fleet.publish("wanted", pl.DataFrame({"x": [4], "day": [date(2013, 1, 4)]}), mode="append")
    assert fleet.done(over={"name": "wanted", "version": 1}).summary["done"] == 4
    assert fleet.calls() == {"1": 1, "2": 1, "3": 1, "4": 1}


def test_a_table_without_rows_is_nothing_to_do(fleet: Fleet) -> None:
    fleet.publish("wanted", pl.DataFrame({"x": [1]}).clear())
    result = fleet.run(over={"name": "wanted"})
    assert (result.status, result.reason) == (
        "skipped", "there is nothing to do: table 'wanted', version 0 has no rows",
    )  # fmt: skip


def test_an_items_keys_that_are_columns_select_rows_and_the_others_are_parameters(flights: Fleet) -> None:
    items = [
        {"route": "JFK-LAX", "leaves": 31},
        {"route": "JFK-LAX", "leaves": 63},
        {"route": "EWR-SFO", "stops": 1, "leaves": 31},
        {"on": "2013-01-02"},
        {"leaves": 7},
    ]
    given = {"items": items, "table": {"name": "flights"}, "params": {"leaves": 1, "rate": 0.1}}
    flights.done("rowwork:count", **given)
    routes = dict(FLIGHTS.group_by("route").agg(pl.col("minutes").sum()).iter_rows())
    found = flights.results(flights.spec("rowwork:count", **given))
    assert [(each["rows"], each["minutes"]) for each in found] == [
        (6, routes["JFK-LAX"]), (6, routes["JFK-LAX"]), (3, routes["EWR-SFO"]), (4, 1 + 4 + 7 + 10), (12, 66),
    ]  # fmt: skip
    assert [each["params"] for each in found] == [
        {"leaves": 31, "rate": 0.1}, {"leaves": 63, "rate": 0.1}, {"leaves": 31, "rate": 0.1},
        {"leaves": 1, "rate": 0.1}, {"leaves": 7, "rate": 0.1},
    ]  # fmt: skip


def test_rows_are_of_the_partitions_and_in_the_form_that_is_asked_for(flights: Fleet) -> None:
    given = {"items": [{"route": "JFK-LAX"}], "table": {"name": "flights"}, "partitions": "2013-01-03"}
    flights.done("rowwork:first", **given)
    assert flights.results(flights.spec("rowwork:first", **given)) == [{"first": 2, "rows": 2}]


def test_an_item_without_rows_or_of_another_type_fails_and_says_so(flights: Fleet) -> None:
    items = [{"route": "nowhere"}, {"route": 7}, {"route": "JFK-LAX"}]
    result = flights.run("rowwork:count", items=items, table={"name": "flights"})
    assert result.failure is not None
    assert result.failure.kind == "data"
    assert 'data error: there are no rows with {"route": "nowhere"} in table' in result.failure.message
    assert "an item has route=7, and the table's column 'route' is String" in result.failure.message
    assert result.failure.message.startswith("2 of 3 items failed")


def test_only_the_rows_that_an_item_selects_are_read(flights: Fleet, tmp_path: Path) -> None:
    place = Store(flights.store)
    step = StepContext(flights.spec("rowwork:count"), tmp_path)
    rows = ItemRows(step, open_table(place, Table("flights")), "", tmp_path)
    # The file of another partition may be gone: it is not opened.
    for path in list(place.paths("tables/flights/ds=2013-01-01")):
        place.delete(path)
    assert rows.frame({"ds": "2013-01-02"}).collect()["minutes"].sum() == 1 + 4 + 7 + 10
    with pytest.raises(Exception, match="2013-01-01"):
        rows.frame({"ds": "2013-01-01"})


def test_results_are_published_once_with_a_row_an_item(fleet: Fleet) -> None:
    (fleet.code / "bad").write_text("b")
    items = [{"x": "a"}, {"x": "b"}, {"x": "c", "state": "NY"}]
    first = fleet.done("picky", items=items, max_failed=1, publish=RESULTS)
    assert first.table is not None
    assert (first.table.rows, first.table.changed) == (3, True)
    found = fleet.table("results")
    # The item has a key of the name of one of the fleet's own columns.
    assert found.columns == ["x", "state", "fleet_state", "tries", "seconds", "y", "error"]
    assert found["fleet_state"].to_list() == ["done", "failed", "done"]
    assert found["state"].to_list() == [None, None, "NY"]
    assert found["error"].to_list()[1].startswith("UserFunctionError: work:picky raised ValueError")
    assert found["y"].to_list() == ["a", None, "c"]
    again = fleet.done("picky", items=items, max_failed=1, tries=1, publish=RESULTS)
    assert again.table is not None
    assert (again.table.version, again.table.changed) == (first.table.version, False)
    assert DeltaTable(Store(fleet.store).table_uri("results")).version() == first.table.version


def test_results_replace_only_the_partitions_of_their_items(flights: Fleet) -> None:
    target = {"name": "results", "partition_by": "ds"}
    for days, table in ((("2013-01-01", "2013-01-02"), "flights"), (("2013-01-02", "2013-01-03"), "flights")):
        items = [{"ds": day} for day in days]
        published = flights.done("rowwork:count", items=items, table={"name": table}, publish=target)
    assert published.table is not None
    assert published.table.partitions == "2013-01-02,2013-01-03"
    assert sorted(flights.table("results")["ds"]) == ["2013-01-01", "2013-01-02", "2013-01-03"]
    one = {"items": [{"route": "JFK-LAX"}], "table": {"name": "flights"}, "partitions": "2013-01-02"}
    flights.done("rowwork:count", **one, publish={"name": "daily", "partition_by": "ds"})
    assert flights.table("daily").select("ds", "rows").rows() == [("2013-01-02", 2)]


def test_a_results_table_that_would_have_no_partition_column_is_refused_before_anything_runs(
    fleet: Fleet,
) -> None:
    result = fleet.run(items=numbers(2), publish={"name": "results", "partition_by": "ds"})
    assert result.failure is not None
    assert "the results have no column 'ds'" in result.failure.message
    assert 'publish=Table("results", partition_by=None)' in result.failure.message
    assert not fleet.calls()


def test_columns_take_the_type_that_fits_all_items(fleet: Fleet, tmp_path: Path) -> None:
    items = [{"x": 1, "rate": 1}, {"x": 2, "rate": 0.5}, {"x": 3, "rate": None}]
    results = [{"score": 1, "who": "a", "all": [1]}, {"score": 0.5, "who": 2}, {"empty": None}]
    gave = zip(items, results, strict=True)
    records = [ItemRecord(item_digest(item), "done", 1, 0.1, result) for item, result in gave]
    collected(fleet, items, records, tmp_path, publish=Table("results", partition_by=None))
    found = fleet.table("results")
    assert found.schema["rate"] == found.schema["score"] == pl.Float64
    assert found["who"].to_list() == ["a", "2", None]
    assert found["all"].to_list() == ["[1]", None, None]
    assert found.schema["empty"] == pl.String


def test_two_thousand_items_run_and_are_summed_up(fleet: Fleet) -> None:
    given = {"items": numbers(2_000), "items_per_index": 50, "publish": RESULTS}
    result = fleet.done(**given)
    assert result.metrics["items_done"] == 2_000
    assert set(fleet.calls().values()) == {1}
    assert fleet.table("results")["y"].to_list() == [2 * number for number in range(2_000)]
    assert (result.metrics["y_min"], result.metrics["y_max"], result.metrics["y_mean"]) == (0, 3998, 1999)
    assert len(result.summary["slowest items"]) == 5
    assert len(result.encode()) < 5_000


def test_memory_does_not_grow_with_what_the_items_gave(fleet: Fleet, tmp_path: Path) -> None:
    items = numbers(2_000)
    text = "r" * 20_000
    records = (ItemRecord(item_digest(item), "done", 1, 0.1, {"text": text}) for item in items)
    tracemalloc.start()
    try:
        # 40 MB of results in all.
        collected(fleet, items, records, tmp_path, publish=Table("results", partition_by=None))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fleet.table("results").height == 2_000
    assert peak < 20_000_000


def collected(fleet: Fleet, items, records, scratch: Path, **given) -> StepSpec:  # type: ignore[no-untyped-def]
    """Sum up a fleet whose ledger is written here, an index an item."""
    spec = fleet.spec(items=items, **{name: value for name, value in given.items() if name != "publish"})
    arguments = FleetArguments(function="work:double", **given)
    ledger = fleet.ledger(spec)
    plan = ledger.make_plan(items, arguments, spec.fingerprint)
    for position, record in enumerate(records):
        ledger.write(IndexDocument(plan.indexes[position], position, "done", 1, items=(record,)))
    folder = scratch / "scratch"
    folder.mkdir()
    outcome = collect(StepContext(spec, folder), arguments, ledger, plan, items)
    assert outcome.metrics["items_done"] == len(items)
    assert spec.step_key == KEY
    return spec
