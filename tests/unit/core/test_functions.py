"""The user's functions get what they ask for, in the form they ask for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from airflow_ml_provider.contract.errors import UserCodeError
from airflow_ml_provider.steps.functions import UserFunctionError, call, call_for_frame, load

FLIGHTS = pl.LazyFrame({"x": [1, 2, 3]})
WEATHER = pl.LazyFrame({"t": [0.5]})


def as_lazy(rows: pl.LazyFrame) -> Any:
    return rows


def as_polars(rows: pl.DataFrame) -> Any:
    return rows


def as_pandas(rows: pd.DataFrame) -> Any:
    return rows


def as_arrow(rows: pa.Table) -> Any:
    return rows


def as_dataset(rows: pads.Dataset) -> Any:
    return rows


def as_path(rows: Path) -> Any:
    return rows


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (as_lazy, pl.LazyFrame), (as_polars, pl.DataFrame), (as_pandas, pd.DataFrame), (as_arrow, pa.Table),
        (as_dataset, pads.Dataset), (as_path, Path),
    ],
)  # fmt: skip
def test_a_table_comes_in_the_form_of_the_annotation(
    function: Callable[..., Any], kind: type, tmp_path: Path
) -> None:
    given = call(function, frames={"flights": FLIGHTS}, scratch=tmp_path)
    assert isinstance(given, kind)
    if kind is Path:
        given = pl.scan_parquet(given / "*.parquet")
    back = call_for_frame(lambda: given) if kind is not Path else given
    assert back.collect().to_dict(as_series=False) == {"x": [1, 2, 3]}


def test_real_annotations_work_as_well_as_postponed_ones() -> None:
    def real(rows):
        return rows  # type: ignore[no-untyped-def]

    real.__annotations__ = {"rows": pd.DataFrame}
    assert isinstance(call(real, frames={"flights": FLIGHTS}), pd.DataFrame)
    real.__annotations__ = {"rows": pa.Table}
    assert isinstance(call(real, frames={"flights": FLIGHTS}), pa.Table)


def test_several_tables_are_given_by_name() -> None:
    def join(weather: pl.LazyFrame, flights: pl.LazyFrame, seed: int, params: dict[str, int]) -> Any:
        return weather.collect().height, flights.collect().height, seed, params["n"]

    frames = {"flights": FLIGHTS, "weather": WEATHER}
    assert call(join, frames=frames, values={"seed": 7, "params": {"n": 5}}) == (1, 3, 7, 5)


def test_defaults_and_keyword_catchalls_are_left_alone() -> None:
    def loose(rows: pl.LazyFrame, extra: int = 4, **rest: Any) -> Any:
        return extra, rest

    assert call(loose, frames={"flights": FLIGHTS}, values={"seed": 1}) == (4, {})


def test_asking_for_what_is_not_there_lists_what_is() -> None:
    def wants(flihgts: pl.LazyFrame, weather: pl.LazyFrame) -> None: ...

    with pytest.raises(UserCodeError) as caught:
        call(wants, frames={"flights": FLIGHTS, "weather": WEATHER}, values={"seed": 1})
    text = str(caught.value)
    assert "asks for 'flihgts', which is not available here" in text
    assert "did you mean 'flights'" in text
    assert "tables: flights, weather (as pl.LazyFrame" in text
    assert "values: seed" in text


def test_a_table_with_a_wrong_annotation_is_answered_with_the_forms_there_are() -> None:
    def wants(flights: list[int]) -> None: ...

    with pytest.raises(UserCodeError, match=r"parameter 'flights' is a table and has .*list") as caught:
        call(wants, frames={"flights": FLIGHTS})
    assert "annotate it with one of pl.LazyFrame, pl.DataFrame, pd.DataFrame" in str(caught.value)


def test_the_users_own_traceback_is_kept_without_ours() -> None:
    def inner() -> None:
        raise KeyError("humidity")

    def train(rows: pl.LazyFrame) -> None:
        inner()

    with pytest.raises(UserFunctionError, match="raised KeyError: 'humidity'") as caught:
        call(train, frames={"flights": FLIGHTS})
    trace = caught.value.user_traceback
    assert "in train" in trace
    assert "in inner" in trace
    assert "steps/functions.py" not in trace
    assert trace.rstrip().endswith("KeyError: 'humidity'")


def test_a_result_that_is_no_frame_is_refused() -> None:
    with pytest.raises(UserCodeError, match="gave int, not a frame"):
        call_for_frame(lambda: 3)


def test_a_name_the_module_does_not_have_is_answered_with_the_nearest(
    user_code: Callable[..., str],
) -> None:
    root = user_code(somemodel="def train(): ...")
    assert callable(load("somemodel:train", (root,)))
    with pytest.raises(UserCodeError, match="did you mean 'train'"):
        load("somemodel:trian", (root,))
    with pytest.raises(UserCodeError, match="there is no module 'nomodule'"):
        load("nomodule:train", (root,))


def test_an_import_that_raises_shows_the_users_line(user_code: Callable[..., str]) -> None:
    root = user_code(brokenmodule="x = 1\nraise ValueError('no licence')")
    with pytest.raises(UserFunctionError, match="importing brokenmodule raised ValueError: no licence"):
        load("brokenmodule:x", (root,))
