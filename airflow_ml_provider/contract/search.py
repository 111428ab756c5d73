"""What a search for hyperparameters looks through, and when it gives a trial up: data, light enough for a DAG file.

::

    search={
        "num_leaves": Integers(8, 256, log=True),
        "learning_rate": Floats(0.01, 0.3, log=True),
        "boosting": Choices(["gbdt", "dart"]),
    }
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_ml_provider.contract.errors import ConfigError, did_you_mean

# Those that come with the package; another is named as "package.module:function".
SAMPLERS = ("tpe", "random", "qmc", "grid")
# These draw a trial without regard to the results of others.
DRAWN = frozenset({"random", "qmc", "grid"})
Plain = str | int | float | bool | None


class Integers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="integers"):
    """Whole numbers from ``low`` to ``high``, both included.

    :param step: the distance of neighbours, from ``low`` on.
    :param log: each order of magnitude is as likely as the others; only with a step of 1 and above 0.
    """

    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in (self.low, self.high, self.step)):
            raise ConfigError(f"{self!r} holds what is no whole number")
        _check_bounds(self, self.low, self.high, self.log)
        if self.step < 1 or (self.log and self.step != 1):
            raise ConfigError(f"{self!r}: the step is at least 1, and exactly 1 with log=True")

    @property
    def values(self) -> tuple[int, ...]:
        """All of them."""
        return tuple(range(self.low, self.high + 1, self.step))

    def at(self, share: float) -> int:
        """The value that lies at a share (at least 0, below 1) of the range."""
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return min(self.high, max(self.low, round(math.exp(low + share * (high - low)))))
        return self.low + self.step * int(share * ((self.high - self.low) // self.step + 1))


class Floats(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="floats"):
    """Numbers from ``low`` to ``high``.

    :param step: the distance of neighbours, from ``low`` on; None for no such grid.
    :param log: each order of magnitude is as likely as the others; only without a step and above 0.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ConfigError(f"{self!r} holds what is no finite number")
            # 1 and 1.0 are the same range, and have the same fingerprint.
            msgspec.structs.force_setattr(self, name, float(value))
        _check_bounds(self, self.low, self.high, self.log)
        if self.step is not None and (self.step <= 0 or self.log):
            raise ConfigError(f"{self!r}: the step is above 0, and there is none with log=True")

    @property
    def values(self) -> tuple[float, ...]:
        """All of them, where there is a step."""
        assert self.step is not None
        # The last one may be missed by a rounding error.
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(self.low + number * self.step for number in range(count))

    def at(self, share: float) -> float:
        """The value that lies at a share (at least 0, below 1) of the range."""
        if self.step is not None:
            return self.values[int(share * len(self.values))]
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return min(self.high, max(self.low, math.exp(low + share * (high - low))))
        return self.low + share * (self.high - self.low)


class Choices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="choices"):
    """One of some values, between which there is no order: texts, numbers, booleans, None."""

    of: tuple[Plain, ...]

    def __post_init__(self) -> None:
        if isinstance(self.of, (str, bytes, Mapping)) or not hasattr(self.of, "__iter__"):
            raise ConfigError(
                f"Choices({self.of!r}) is not given a list", todo=f"write Choices([{self.of!r}, ...])"
            )
        msgspec.structs.force_setattr(self, "of", tuple(self.of))
        if not self.of:
            raise ConfigError("Choices([]) has nothing to choose from")
        for value in self.of:
            plain = value is None or isinstance(value, (str, bool, int, float))
            if not plain or (isinstance(value, float) and not math.isfinite(value)):
                raise ConfigError(
                    f"Choices has {value!r} ({type(value).__name__}) among its values",
                    todo="choose between texts, finite numbers, booleans and None, and let the function make "
                    "of them what it needs",
                )
        if len({(type(value), value) for value in self.of}) < len(self.of):
            raise ConfigError(f"Choices({list(self.of)!r}) has a value twice")

    @property
    def values(self) -> tuple[Plain, ...]:
        """All of them."""
        return self.of

    def at(self, share: float) -> Plain:
        """The value that lies at a share (at least 0, below 1) of the list."""
        return self.of[int(share * len(self.of))]


Dimension = Integers | Floats | Choices


class Percentile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="percentile"):
    """Gives a trial up whose best report so far is not among the best of the finished trials' at the same step.

    :param keep: among the best so many percent; 50 is the median.
    :param startup_trials: nobody is given up before so many trials are done.
    :param warmup_steps: nor before this step.
    """

    keep: float = 50.0
    startup_trials: int = 5
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.keep < 100 or self.startup_trials < 1 or self.warmup_steps < 0:
            raise ConfigError(f"{self!r}: keep lies between 0 and 100, startup_trials is at least 1")


class Halving(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="halving"):
    """At the steps first, first x reduction, first x reduction², ... only the best one of ``reduction`` goes on.

    Asynchronous successive halving (Li et al. 2018): a trial is compared with those that came so far before.

    :param first: the first step at which trials are compared.
    """

    first: int = 1
    reduction: int = 4

    def __post_init__(self) -> None:
        if self.first < 1 or self.reduction < 2:
            raise ConfigError(f"{self!r}: first is at least 1, and reduction at least 2")


Pruner = Percentile | Halving
_PRUNERS: dict[str, Pruner | None] = {"median": Percentile(), "halving": Halving(), "none": None}


def as_pruner(given: Any, *, wanted_by: str = "a search") -> Pruner | None:
    """A pruner from its name or as it is; None for none.

    :raises ConfigError: there is no such.
    """
    if given is None or isinstance(given, (Percentile, Halving)):
        return given
    if isinstance(given, str) and given in _PRUNERS:
        return _PRUNERS[given]
    raise ConfigError(
        f"{wanted_by} was given pruner={given!r}",
        todo=f"{did_you_mean(str(given), list(_PRUNERS))} Or give Percentile(...) or Halving(...)",
    )


def check_space(space: Any, params: Any = None, *, wanted_by: str = "a search") -> dict[str, Dimension]:
    """The space of a search, by parameter.

    :param params: what all trials have in common; no name may be in both.
    :raises ConfigError: it is empty, has a name that is none, or a value that is no range.
    """
    if not isinstance(space, Mapping) or not space:
        raise ConfigError(
            f"{wanted_by} was given search={space!r}, in which there is nothing to look for",
            todo='write search={"num_leaves": Integers(8, 256, log=True)}',
        )
    for name, dimension in space.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{wanted_by} was given the parameter {name!r}, which is no name")
        if not isinstance(dimension, (Integers, Floats, Choices)):
            raise ConfigError(
                f"{wanted_by} was given {name}={dimension!r} to look through",
                todo="give Integers(low, high), Floats(low, high) or Choices([...]); what is the same in all "
                "trials belongs to hyperparameters=",
            )
    if isinstance(params, Mapping) and (both := sorted(set(space) & set(params))):
        raise ConfigError(
            f"{wanted_by} has {', '.join(both)} both in search= and in hyperparameters=",
            todo="leave one of them out",
        )
    return dict(space)


def check_sampler(sampler: Any, space: Mapping[str, Dimension], *, wanted_by: str = "a search") -> str:
    """The sampler's name.

    :raises ConfigError: there is none of this name, or it cannot work on the space.
    """
    if not isinstance(sampler, str) or (sampler not in SAMPLERS and ":" not in sampler):
        raise ConfigError(
            f"{wanted_by} was given sampler={sampler!r}",
            todo=f'{did_you_mean(str(sampler), SAMPLERS)} Or name a function, "package.module:function", that '
            "gives an Optuna sampler",
        )
    endless = [name for name, one in space.items() if isinstance(one, Floats) and one.step is None]
    if sampler == "grid" and endless:
        raise ConfigError(
            f"{wanted_by} goes through a grid, and {', '.join(endless)} has no end of values",
            todo="give Floats a step=, or use Choices",
        )
    return sampler


def grid_size(space: Mapping[str, Dimension]) -> int:
    """How many points the grid has."""
    return math.prod(len(dimension.values) for dimension in space.values())


def _check_bounds(dimension: Integers | Floats, low: float, high: float, log: bool) -> None:
    if low > high:
        raise ConfigError(f"{dimension!r}: low is above high")
    if log and low <= 0:
        raise ConfigError(f"{dimension!r}: with log=True, low has to be above 0")
