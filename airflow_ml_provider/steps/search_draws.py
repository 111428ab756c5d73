"""Trials that are drawn without regard to the results of others: at random, evenly spread, or of a grid.

The trial of a number follows from space and seed alone, whatever the rounds and however many there are.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.search import Dimension, grid_size

_MOST_OF_A_GRID = 1_000_000


def draw(
    sampler: str, space: Mapping[str, Dimension], seed: int, first: int, count: int
) -> list[dict[str, Any]]:
    """The parameters of some trials in a row.

    :param sampler: "random"; "qmc", a scrambled Sobol sequence, which leaves no gaps; or "grid", in an order
        that is shuffled, so that a search that ends early has been everywhere.
    :param first: the number of the first.
    :return: fewer than ``count`` where a grid ends.
    """
    if sampler == "grid":
        return _of_grid(space, seed, first, count)
    shares = (_spread if sampler == "qmc" else _scattered)(len(space), seed, first, count)
    names = list(space)
    return [
        {name: space[name].at(float(share)) for name, share in zip(names, row, strict=True)} for row in shares
    ]


def _scattered(dimensions: int, seed: int, first: int, count: int) -> Any:
    return [
        np.random.default_rng([seed % 2**63, number]).random(dimensions)
        for number in range(first, first + count)
    ]


def _spread(dimensions: int, seed: int, first: int, count: int) -> Any:
    from scipy.stats import qmc  # type: ignore[import-untyped]

    # Its generator is named differently from release to release; by position it is always the same.
    sequence = qmc.Sobol(dimensions, scramble=True, bits=30, **_generator(qmc.Sobol, seed))
    if first:
        sequence.fast_forward(first)
    with warnings.catch_warnings():
        # It wants to be asked for powers of two, and we go on with the same sequence.
        warnings.simplefilter("ignore", UserWarning)
        return sequence.random(count)


def _generator(kind: Any, seed: int) -> dict[str, Any]:
    import inspect

    named = "rng" if "rng" in inspect.signature(kind).parameters else "seed"
    return {named: np.random.default_rng(seed % 2**63)}


def _of_grid(space: Mapping[str, Dimension], seed: int, first: int, count: int) -> list[dict[str, Any]]:
    size = grid_size(space)
    if size > _MOST_OF_A_GRID:
        raise ConfigError(
            f"the grid has {size:,} points; at most {_MOST_OF_A_GRID:,} can be gone through",
            todo='take fewer values or larger steps, or sampler="random"',
        )
    order = list(range(size))
    random.Random(seed).shuffle(order)
    found = []
    for point in order[first : first + count]:
        params, rest = {}, point
        for name, dimension in space.items():
            rest, place = divmod(rest, len(dimension.values))
            params[name] = dimension.values[place]
        found.append(params)
    return found
