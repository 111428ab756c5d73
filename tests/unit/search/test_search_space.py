"""What a search looks through, and the trials that are drawn from it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from typing import Any

import msgspec
import pytest
from search_world import SPACE

from airflow_ml_provider.contract.arguments import SearchArguments
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.search import (
    Choices,
    Floats,
    Halving,
    Integers,
    Percentile,
    as_pruner,
    check_sampler,
    check_space,
)
from airflow_ml_provider.steps.search_draws import draw

# Whoever changes what is drawn changes what users have called reproducible.
GOLDEN = "378d99da5e0626de"


def test_a_space_is_the_same_after_a_journey_through_a_spec() -> None:
    arguments = SearchArguments(
        function="a:b", space=SPACE, metric="-loss", pruner=Halving(first=3), sampler="qmc"
    )
    assert msgspec.json.decode(msgspec.json.encode(arguments), type=SearchArguments) == arguments


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Integers(5, 1), "low is above high"),
        (lambda: Integers(1.5, 3), "no whole number"),
        (lambda: Integers(0, 8, log=True), "low has to be above 0"),
        (lambda: Integers(1, 8, step=2, log=True), "exactly 1 with log=True"),
        (lambda: Floats(0, 1, log=True), "low has to be above 0"),
        (lambda: Floats(0, math.inf), "no finite number"),
        (lambda: Floats(0, 1, step=0), "the step is above 0"),
        (lambda: Choices("abc"), "not given a list"),
        (lambda: Choices([]), "nothing to choose from"),
        (lambda: Choices([1, 1]), "a value twice"),
        (lambda: Choices([object()]), "among its values"),
        (lambda: Percentile(keep=0), "keep lies between"),
        (lambda: Halving(reduction=1), "reduction at least 2"),
        (lambda: as_pruner("medain"), "did you mean 'median'"),
        (lambda: check_space({}), "nothing to look for"),
        (lambda: check_space({"x": (0, 1)}), "was given x="),
        (lambda: check_space({"x": Floats(0, 1)}, {"x": 1}), "has x both in search= and in hyperparameters="),
        (lambda: check_sampler("tpi", SPACE), "did you mean 'tpe'"),
        (lambda: check_sampler("grid", SPACE), "x has no end of values"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_written(make: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert said in str(caught.value)


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_a_drawn_trial_follows_from_seed_and_number_alone(sampler: str) -> None:
    whole = draw(sampler, SPACE, 7, 0, 64)
    parts = [params for first in range(0, 64, 8) for params in draw(sampler, SPACE, 7, first, 8)]
    assert parts == whole
    assert draw(sampler, SPACE, 8, 0, 64) != whole
    assert len({json.dumps(params) for params in whole}) == 64


def test_what_is_drawn_at_random_stays_what_it_was() -> None:
    trials = draw("random", SPACE, 7, 0, 64)
    text = json.dumps([{**trial, "x": round(trial["x"], 9)} for trial in trials])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == GOLDEN


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_draws_stay_in_the_space_and_reach_all_of_it(sampler: str) -> None:
    space = {
        **SPACE, "depth": Integers(3, 12, step=4), "rate": Floats(0.001, 1, log=True), "share": Floats(0.1, 0.3, 0.1),
    }  # fmt: skip
    trials = draw(sampler, space, 1, 0, 512)
    assert {trial["depth"] for trial in trials} == {3, 7, 11}
    assert {round(trial["share"], 9) for trial in trials} == {0.1, 0.2, 0.3}
    assert {trial["kind"] for trial in trials} == {"flat", "steep", None}
    assert all(2 <= trial["leaves"] <= 512 and isinstance(trial["leaves"], int) for trial in trials)
    assert all(0.001 <= trial["rate"] <= 1 for trial in trials)
    # Each order of magnitude is as likely as the others.
    magnitudes = Counter(math.floor(math.log10(trial["rate"])) for trial in trials)
    assert all(abs(magnitudes[each] - 512 / 3) < 60 for each in (-3, -2, -1))


def test_evenly_spread_draws_leave_no_gap() -> None:
    found = sorted(trial["x"] for trial in draw("qmc", {"x": Floats(0, 1)}, 3, 0, 256))
    assert max(b - a for a, b in itertools.pairwise(found)) < 0.01


def test_a_grid_is_gone_through_once_in_an_order_of_its_own() -> None:
    space = {"a": Integers(1, 5), "b": Choices(["x", "y"]), "c": Floats(0, 1, step=0.5)}
    whole = draw("grid", space, 0, 0, 100)
    assert len(whole) == len({json.dumps(params) for params in whole}) == 30
    assert draw("grid", space, 0, 12, 5) == whole[12:17]
    # A search that ends early has been everywhere.
    assert len({params["a"] for params in whole[:10]}) > 2
