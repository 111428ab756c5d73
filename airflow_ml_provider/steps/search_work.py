"""The work on one trial: the training function is called with its parameters, and its metrics are kept."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.errors import InfrastructureError, MLError, UserCodeError
from airflow_ml_provider.contract.fleets import ItemError, show
from airflow_ml_provider.contract.search_ledger import TrialRecord
from airflow_ml_provider.steps import functions, runner
from airflow_ml_provider.steps.context import log
from airflow_ml_provider.steps.labelled_rows import LabelledRows
from airflow_ml_provider.steps.search_ask import metric_of
from airflow_ml_provider.steps.search_trial import Trial

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import SearchArguments
    from airflow_ml_provider.contract.search_ledger import Bars
    from airflow_ml_provider.steps.context import StepContext

_KEPT_LINES = 12
_MOST_MESSAGE = 2_000


class Work:
    """Does one trial after the other, in one process.

    :param step: the search's step.
    """

    def __init__(self, step: StepContext, arguments: SearchArguments) -> None:
        self.step = step
        self.arguments = arguments
        self.function = functions.user_code(step, arguments.function)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """What is the same for all trials: one thread for linear algebra, whose sums depend on how many there are."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1, user_api="blas"):
            yield

    @cached_property
    def rows(self) -> LabelledRows | None:
        """The rows that trials train on, on local disk."""
        arguments = self.arguments
        if arguments.table is None:
            return None
        table = self.step.read(arguments.table)
        rows = LabelledRows(self.step, table, arguments.partitions, purpose="train on")
        path = self.step.scratch / "labelled.parquet"
        rows.frame.sink_parquet(path)
        rows.frame = pl.scan_parquet(path)
        return rows

    def do(self, number: int, params: Mapping[str, Any], bars: Bars | None, tries: int = 1) -> TrialRecord:
        """Run one trial; how it ended stands in its record."""
        began = time.monotonic()
        trial = Trial(number, bars, metric_of(self.arguments)[1])
        metrics: dict[str, float] = {}
        error = None
        try:
            metrics = self._metrics(self._call(params, trial), trial)
        except MLError as failure:
            # Whoever was told to stop may do so by raising.
            if not trial.stopped:
                trace = "\n".join(getattr(failure, "user_traceback", "").rstrip().splitlines()[-_KEPT_LINES:])
                kind, name, what = failure.kind, type(failure).__name__, failure.what
                error = ItemError(kind, name, what[:_MOST_MESSAGE], trace)
        except MemoryError as failure:
            error = ItemError("infrastructure", "MemoryError", f"out of memory: {failure}"[:_MOST_MESSAGE])
        except Exception as failure:
            # Ours or a library's: nothing that the function's author can do about.
            log.error("unexpected error in trial %s", number, exc_info=True)
            what = f"{type(failure).__name__}: {failure}"
            error = ItemError(InfrastructureError.kind, type(failure).__name__, what[:_MOST_MESSAGE])
        if error is not None:
            said = error.message.partition("\n")[0]
            log.error("trial %s, %s, failed: %s error: %s", number, show(dict(params)), error.kind, said)
        return TrialRecord(
            number,
            "failed" if error is not None else "stopped" if trial.stopped else "done",
            {} if trial.stopped else metrics,
            tuple(trial.reports.items()),
            tries,
            round(time.monotonic() - began, 4),
            int(time.time() * 1000),
            error,
        )

    def _call(self, params: Mapping[str, Any], trial: Trial) -> Any:
        # The same for all trials and for the training at the end, so that parameters alone make a difference.
        seed = self.step.spec.seed
        rows = self.rows
        values: dict[str, Any] = {
            "params": {**self.arguments.params, **params},
            "seed": seed,
            "trial": trial,
        }
        if rows is not None:
            values |= {"features": list(rows.rows.features), "label": rows.label}
        runner.set_seeds(seed)
        scratch = self.step.scratch / "trial"
        try:
            frames = {} if rows is None else {"rows": rows.frame}
            return functions.call(self.function, frames=frames, values=values, scratch=scratch)
        except SystemExit as error:
            raise UserCodeError(
                f"{self.arguments.function} ended the process: sys.exit({error.code!r})"
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _metrics(self, given: Any, trial: Trial) -> dict[str, float]:
        """The numbers that a trial gave; the one that is searched for must be among them.

        :raises UserCodeError: it is not.
        """
        if trial.stopped:
            return {}
        name = metric_of(self.arguments)[0]
        function = self.arguments.function
        if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping):
            found = given[1]
        elif isinstance(given, Mapping):
            found = given
        elif isinstance(given, (int, float)) or (hasattr(given, "item") and not hasattr(given, "predict")):
            found = {name: given}
        else:
            found = {}
        numbers: dict[str, float] = {}
        for key, value in found.items():
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise UserCodeError(
                    f"{function} gave the metric {key!r} as {value!r}, not as a number"
                ) from None
            # JSON has no others.
            if math.isfinite(number):
                numbers[str(key)] = number
            elif str(key) == name:
                raise UserCodeError(f"{function} gave the metric {key!r} as {number}")
        if name not in numbers:
            gave = (
                f"the metrics {', '.join(sorted(numbers))}"
                if numbers
                else f"{type(given).__name__}, no metrics"
            )
            raise UserCodeError(
                f"{function} gave no metric {name!r}: it gave {gave}",
                todo=f'return a model and its metrics, (model, {{"{name}": ...}}), measured on rows held out',
            )
        return numbers


def lost(number: int, tries: int, how: str) -> TrialRecord:
    """The record of a trial whose process died with it as often as it may."""
    error = ItemError("infrastructure", "ProcessLost", f"its process ended with it: {how}")
    return TrialRecord(number, "failed", tries=tries, ended=int(time.time() * 1000), error=error)
