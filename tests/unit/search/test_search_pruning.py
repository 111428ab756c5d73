"""When a trial is given up: as Optuna's pruners would, told the same."""

from __future__ import annotations

import math
import random
from typing import Any

import optuna
import pytest

from airflow_ml_provider.contract.errors import UserCodeError
from airflow_ml_provider.contract.search import Halving, Percentile, Pruner
from airflow_ml_provider.contract.search_ledger import TrialRecord
from airflow_ml_provider.steps.search_pruning import Reported
from airflow_ml_provider.steps.search_trial import Trial

optuna.logging.set_verbosity(optuna.logging.ERROR)
PRUNERS: list[tuple[Pruner, Any]] = [
    (Percentile(), lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)),
    (
        Percentile(keep=25, startup_trials=3, warmup_steps=4),
        lambda: optuna.pruners.PercentilePruner(25.0, n_startup_trials=3, n_warmup_steps=4),
    ),
    (Halving(), lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4)),
    (
        Halving(first=2, reduction=3),
        lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3),
    ),
]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("ours", "theirs"), PRUNERS)
def test_one_trial_after_the_other_is_given_up_where_optuna_gives_it_up(
    ours: Pruner, theirs: Any, sign: int
) -> None:
    chance = random.Random(4)
    study = optuna.create_study(direction="minimize" if sign > 0 else "maximize", pruner=theirs())
    reported, stopped_at = Reported(ours, sign), []
    for number in range(60):
        level = chance.random()
        curve = [
            math.nan if chance.random() < 0.02 else sign * (level + chance.gauss(0, 0.1) + 1 / step)
            for step in range(1, 28)
        ]
        their, our = study.ask(), Trial(number, reported.bars(), sign)
        stopped = 0
        for step, value in enumerate(curve, 1):
            their.report(value, step)
            our.report(value, step)
            assert our.should_stop() == their.should_prune(), (number, step)
            if our.should_stop():
                stopped = step
                break
        stopped_at.append(stopped)
        if stopped:
            study.tell(their, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(their, sign * level)
        reported.add(
            TrialRecord(number, "stopped" if stopped else "done", reports=tuple(our.reports.items()))
        )
    # Some were given up, and some came to their end.
    assert len(set(stopped_at)) > 1
    assert 0 in stopped_at


def test_a_trial_that_asks_seldom_is_told_of_a_rung_that_it_has_passed() -> None:
    reported = Reported(Halving(first=1, reduction=2), 1)
    for number, value in enumerate((0.1, 0.2, 0.3)):
        reported.add(TrialRecord(number, "done", reports=tuple((step, value) for step in range(1, 10))))
    trial = Trial(3, reported.bars())
    for step in range(1, 8):
        trial.report(0.9 if step == 1 else 0.0, step)
    assert trial.should_stop()


def test_nobody_is_given_up_without_a_search() -> None:
    trial = Trial()
    trial.report(math.inf, 0)
    assert not trial.should_stop()


@pytest.mark.parametrize(("value", "step"), [("low", 1), (0.5, 1.5), (0.5, -1), (0.5, 3)])
def test_a_report_is_a_number_at_a_step_that_counts_up(value: Any, step: Any) -> None:
    trial = Trial()
    trial.report(0.5, 3)
    with pytest.raises(UserCodeError, match="a trial reported"):
        trial.report(value, step)
