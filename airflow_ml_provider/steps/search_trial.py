"""What a training function is given as ``trial``: it reports how it is doing, and asks whether to go on.

::

    def train(rows: pl.DataFrame, label: str, params: dict, trial):
        for epoch in range(100):
            ...
            trial.report(validation_loss, epoch)
            if trial.should_stop():
                return None

Where no search is on, nobody listens, and it never is to stop.
"""

from __future__ import annotations

import math
import operator

from airflow_ml_provider.contract.errors import UserCodeError
from airflow_ml_provider.contract.search_ledger import Bars


class Trial:
    """One trial, as the function that runs it sees it.

    :param number: counted from 0.
    :param bars: what its reports are held against; None if it is not given up.
    :param sign: turns a reported value into a loss.
    """

    def __init__(self, number: int = 0, bars: Bars | None = None, sign: int = 1) -> None:
        self.number = number
        self.reports: dict[int, float | None] = {}
        self.stopped = False
        self._bars, self._sign = bars, sign
        self._best = math.inf
        self._hopeless = False
        # Rungs are passed once each, in their order.
        self._rungs = sorted(bars.losses) if bars is not None and not bars.best_so_far else []

    def report(self, value: float, step: int) -> None:
        """How it is doing after a step: the metric that is searched for, in the same direction.

        :param step: a whole number, at least 0, greater with every report.
        """
        try:
            number, at = float(value), operator.index(step)
        except (TypeError, ValueError) as error:
            raise UserCodeError(
                f"a trial reported {value!r} at step {step!r}",
                todo="report a number, and a whole number as step",
            ) from error
        if at < 0 or (self.reports and at <= next(reversed(self.reports))):
            raise UserCodeError(
                f"a trial reported step {at} after step {next(reversed(self.reports), -1)}",
                todo="count steps up from 0 or 1",
            )
        self.reports[at] = number if math.isfinite(number) else None
        loss = self._sign * number if math.isfinite(number) else math.inf
        self._best = min(self._best, loss)
        # A rung is asked about once; somebody who asks seldom is told later.
        kept = self._hopeless and bool(self._bars and not self._bars.best_so_far)
        self._hopeless = self._is_hopeless(at, loss) or kept

    def should_stop(self) -> bool:
        """Whether it is to be given up; whoever is told so returns, whatever, or raises."""
        self.stopped = self.stopped or self._hopeless
        return self.stopped

    def _is_hopeless(self, step: int, loss: float) -> bool:
        bars = self._bars
        if bars is None or step < bars.at_least:
            return False
        if bars.best_so_far:
            if math.isinf(self._best):
                return True
            return step in bars.losses and self._best > bars.losses[step]
        while self._rungs and step >= self._rungs[0]:
            if loss > bars.losses[self._rungs.pop(0)] or math.isinf(loss):
                return True
        return False
