"""Which parameters the next trials try: a pure function of what is known, so that it can be asked anywhere."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.errors import ConfigError, UserCodeError
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.search import DRAWN, Choices, Dimension, Integers, grid_size
from airflow_ml_provider.steps import functions, search_draws

if TYPE_CHECKING:
    import optuna

    from airflow_ml_provider.contract.arguments import SearchArguments
    from airflow_ml_provider.contract.search_ledger import TrialRecord
    from airflow_ml_provider.steps.context import StepContext

# TPE sorts and weighs all trials it knows each time it is asked: of 20,000 it takes 0.6 s an answer. It is shown its
# best ones, by which it knows what is good, and of the others the newest and some from all over the search.
_BEST_SEEN = 25
_NEWEST_SEEN = 75
_SPREAD_SEEN = 50
# A round is larger the more is known, so that a long search has few of them, but not so large that a sampler
# that learns would have to guess for long.
_ROUND_SHARE = 0.1
_LARGEST_LEARNING, _LARGEST_DRAWN = 100, 1000


def size_of_round(arguments: SearchArguments, asked: int) -> int:
    """How many trials the next round has.

    :param asked: how many there are already.
    """
    largest = _LARGEST_DRAWN if arguments.sampler in DRAWN else _LARGEST_LEARNING
    if arguments.sampler in DRAWN and arguments.pruner is None:
        # Nothing in it depends on what came before.
        return max(arguments.batch, largest)
    return max(arguments.batch, min(int(asked * _ROUND_SHARE), largest))


def most_trials(arguments: SearchArguments) -> int:
    """How many trials the study has in the end: a grid has no more than its points."""
    if arguments.sampler == "grid":
        return min(arguments.trials, grid_size(arguments.space))
    return arguments.trials


def ask(
    step: StepContext,
    arguments: SearchArguments,
    known: Sequence[tuple[dict[str, Any], TrialRecord]],
    *,
    of_round: int,
    first: int,
    count: int,
) -> list[dict[str, Any]]:
    """The parameters of the trials of a round.

    :param known: the trials of all earlier rounds that are over, in order.
    :param first: the number of the round's first trial.
    :raises ConfigError: the sampler is not installed, or not a sampler.
    """
    if arguments.sampler in DRAWN:
        return search_draws.draw(arguments.sampler, arguments.space, step.spec.seed, first, count)
    # Each round has its own seed, so that none depends on how many numbers the ones before it have drawn.
    seed = int(digest(str(step.spec.seed), str(of_round))[:8], 16) % 2**31
    if arguments.sampler == "tpe":
        told = sum(record.state in ("done", "stopped") for _, record in known)
        known = _telling(known, arguments)
        sampler = _tpe(seed, told)
    else:
        sampler = _own_sampler(step, arguments.sampler, seed)
    study = study_of(arguments, known, sampler)
    distributions = distributions_of(arguments.space)
    asked = []
    with functions.blame(type(sampler)):
        for _ in range(count):
            params = study.ask(distributions).params
            asked.append({name: params[name] for name in arguments.space})
    return asked


def study_of(
    arguments: SearchArguments,
    known: Iterable[tuple[Mapping[str, Any], TrialRecord]],
    sampler: optuna.samplers.BaseSampler | None = None,
) -> optuna.Study:
    """An Optuna study, in memory, of the trials that are done or were stopped."""
    tools = _optuna()
    name, sign = metric_of(arguments)
    study: optuna.Study = tools.create_study(
        sampler=sampler or tools.samplers.RandomSampler(seed=0),
        direction="maximize" if sign < 0 else "minimize",
    )
    distributions = distributions_of(arguments.space)
    states = {"done": tools.trial.TrialState.COMPLETE, "stopped": tools.trial.TrialState.PRUNED}
    study.add_trials(
        tools.trial.create_trial(
            state=states[record.state],
            params=dict(params),
            distributions=distributions,
            value=record.metrics[name] if record.state == "done" else None,
            intermediate_values={
                step: float("nan") if value is None else value for step, value in record.reports
            },
            user_attrs={"number": record.number},
        )
        for params, record in known
        if record.state in states
    )
    return study


def metric_of(arguments: SearchArguments) -> tuple[str, int]:
    """The name of the metric, and the sign that turns its values into losses."""
    less = arguments.metric.startswith("-")
    return arguments.metric.removeprefix("-"), 1 if less else -1


def distributions_of(space: Mapping[str, Dimension]) -> dict[str, Any]:
    """The space in Optuna's words."""
    kinds = _optuna().distributions

    def of(dimension: Dimension) -> Any:
        if isinstance(dimension, Choices):
            return kinds.CategoricalDistribution(dimension.of)
        if isinstance(dimension, Integers):
            high = dimension.values[-1] if dimension.step > 1 else dimension.high
            return kinds.IntDistribution(dimension.low, high, log=dimension.log, step=dimension.step)
        most = dimension.high if dimension.step is None else max(dimension.values[-1], dimension.low)
        return kinds.FloatDistribution(dimension.low, most, log=dimension.log, step=dimension.step)

    return {name: of(dimension) for name, dimension in space.items()}


def _telling(
    known: Sequence[tuple[dict[str, Any], TrialRecord]], arguments: SearchArguments
) -> Sequence[tuple[dict[str, Any], TrialRecord]]:
    """The trials that TPE is shown, in order."""
    told = [one for one in known if one[1].state in ("done", "stopped")]
    if len(told) <= _BEST_SEEN + _NEWEST_SEEN + _SPREAD_SEEN:
        return told
    name, sign = metric_of(arguments)
    done = [place for place, (_, record) in enumerate(told) if record.state == "done"]
    best = sorted(done, key=lambda place: (sign * told[place][1].metrics[name], place))[:_BEST_SEEN]
    older = len(told) - _NEWEST_SEEN
    spread = [place * older // _SPREAD_SEEN for place in range(_SPREAD_SEEN)]
    return [told[place] for place in sorted({*best, *spread, *range(older, len(told))})]


def _tpe(seed: int, known: int) -> Any:
    # As many of the best make what is good as of all trials would, of which it is not shown all.
    good = min(math.ceil(0.1 * known), _BEST_SEEN)
    with warnings.catch_warnings():
        # Optuna 4 calls these two experimental; Optuna 5 has them as its defaults.
        warnings.simplefilter("ignore")
        # The constant liar counts those that were asked for in this round as bad, so that they differ.
        return _optuna().samplers.TPESampler(
            seed=seed, multivariate=True, constant_liar=True, gamma=lambda _: good
        )


def _own_sampler(step: StepContext, entry_point: str, seed: int) -> Any:
    given = functions.call(functions.user_code(step, entry_point), values={"seed": seed})
    if not isinstance(given, _optuna().samplers.BaseSampler):
        raise UserCodeError(
            f"{entry_point} gave {type(given).__name__}, not an Optuna sampler",
            todo="return one, such as optuna.samplers.GPSampler(seed=seed)",
        )
    return given


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            f"this search needs Optuna, which is not installed where the step runs: {error}",
            todo="install airflow-ml-provider[search] there, or use one of the samplers random, qmc and grid",
        ) from error
    # It tells of each trial.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
