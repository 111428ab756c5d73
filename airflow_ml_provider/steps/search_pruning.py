"""When a trial is given up: held against what trials of earlier rounds reported at the same step.

Only rounds that are over count, so a decision does not depend on who was faster, and a trial needs nothing but
a few numbers to make it: no connection to the others, wherever it runs. The rules are those of Optuna's
``PercentilePruner`` and ``SuccessiveHalvingPruner``.
"""

from __future__ import annotations

import math
from array import array

import numpy as np

from airflow_ml_provider.contract.search import Halving, Percentile, Pruner
from airflow_ml_provider.contract.search_ledger import Bars, TrialRecord


class Reported:
    """What trials have reported so far, by step, as losses: less is better.

    :param sign: turns a reported value into a loss: 1 where less is better, -1 where more is.
    """

    def __init__(self, pruner: Pruner | None, sign: int) -> None:
        self._pruner, self._sign = pruner, sign
        self._at: dict[int, array[float]] = {}
        self._done = 0

    def add(self, record: TrialRecord) -> None:
        """A trial of a round that is over."""
        pruner = self._pruner
        if isinstance(pruner, Percentile) and record.state == "done":
            self._done += 1
            for step, loss in losses_of(record, self._sign):
                if step >= pruner.warmup_steps and math.isfinite(loss):
                    self._at.setdefault(step, array("d")).append(loss)
        elif isinstance(pruner, Halving) and record.state in ("done", "stopped"):
            rung = pruner.first
            for step, loss in losses_of(record, self._sign):
                # What it reported when it got there; it may pass several at once.
                while step >= rung:
                    self._at.setdefault(rung, array("d")).append(loss)
                    rung *= pruner.reduction

    def bars(self) -> Bars | None:
        """What the trials of the next round are held against; None if nobody is given up in it."""
        pruner = self._pruner
        if isinstance(pruner, Percentile) and self._done >= pruner.startup_trials and self._at:
            losses = {step: float(np.percentile(self._at[step], pruner.keep)) for step in sorted(self._at)}
            return Bars(losses, best_so_far=True, at_least=pruner.warmup_steps)
        if isinstance(pruner, Halving) and self._at:
            losses = {rung: _last_to_go_on(self._at[rung], pruner.reduction) for rung in sorted(self._at)}
            return Bars(losses, best_so_far=False, at_least=pruner.first)
        return None


def losses_of(record: TrialRecord, sign: int) -> list[tuple[int, float]]:
    """A trial's reports as losses; what was no number is infinitely bad."""
    return [(step, math.inf if value is None else sign * value) for step, value in record.reports]


def _last_to_go_on(found: array[float], reduction: int) -> float:
    # Of these and the one that comes, so many go on; it is among them if it is not worse than the last of them.
    go_on = max((len(found) + 1) // reduction, 1)
    last: float = np.partition(found, go_on - 1)[go_on - 1]
    return float(last)
