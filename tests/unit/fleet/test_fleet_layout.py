"""Rows that are read once for all items: the same, in the same order, as those read item by item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fleet_world import Fleet
from model_world import World, feature_rows

from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.fleet_layout import lay_down, open_layout
from airflow_ml_provider.steps.fleet_rows import ItemRows

DAYS = "2013-01-02..2013-01-03"
ORIGINS = [{"origin": origin} for origin in ("EWR", "JFK", "LGA")]


@pytest.fixture
def step(tmp_path: Path) -> StepContext:
    world = World.at(tmp_path, "")
    rows = feature_rows()
    world.publish(
        rows.with_columns(carrier=pl.col("carrier").replace("UA", None), stops=pl.int_range(pl.len()) % 4)
    )
    spec = Fleet(world.store, world.code).spec("delay_models:boosted", items=[{"x": 1}])
    (tmp_path / "scratch").mkdir()
    return StepContext(spec, tmp_path / "scratch")


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("partitions", ["", DAYS])
@pytest.mark.parametrize(
    "selections",
    [ORIGINS, [{"carrier": "AA"}, {"carrier": "B6"}, {"carrier": None}], [{"stops": n} for n in range(4)]],
    ids=["texts", "nulls", "numbers"],
)
def test_an_items_rows_are_those_it_would_read_by_itself(
    step: StepContext, selections: list[dict[str, Any]], partitions: str, trains: bool, tmp_path: Path
) -> None:
    table, folder = step.read(Table("rows")), tmp_path / "together"
    assert lay_down(step, table, partitions, selections, folder, trains=trains)
    layout = open_layout(step, table, partitions, folder, trains=trains)
    together = ItemRows(step, table, partitions, step.scratch, layout)
    alone = ItemRows(step, table, partitions, step.scratch)
    for where in selections:
        if trains:
            ours, theirs = together.labelled(where), alone.labelled(where)
            assert ours.held is not None
            assert ours.held.equals(theirs.frame.collect())
            assert ours.frame.collect().equals(theirs.frame.collect())
            assert (ours.count, ours.positives) == (theirs.count, theirs.positives)
        else:
            assert together.frame(where).lazy().collect().equals(alone.frame(where).lazy().collect())


def test_what_equality_would_convert_is_read_item_by_item(step: StepContext, tmp_path: Path) -> None:
    table = step.read(Table("rows"))
    for number, selections in enumerate(
        (
            ORIGINS[:2],
            [*ORIGINS, {"carrier": "AA"}],
            [{"distance": float(miles)} for miles in range(4)],
            [{"predict_at": f"2013-01-0{day}"} for day in range(1, 5)],
        )
    ):
        assert not lay_down(step, table, "", selections, tmp_path / str(number), trains=True)


def test_a_selection_without_rows_is_told_as_such(step: StepContext, tmp_path: Path) -> None:
    table, folder = step.read(Table("rows")), tmp_path / "together"
    selections = [*ORIGINS, {"origin": "SFO"}]
    assert lay_down(step, table, "", selections, folder, trains=True)
    rows = ItemRows(step, table, "", step.scratch, open_layout(step, table, "", folder, trains=True))
    with pytest.raises(Exception, match="there are no rows in table 'rows'"):
        rows.labelled({"origin": "SFO"})
