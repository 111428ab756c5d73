"""A search in MLflow: one run that has every trial in its metrics' histories, and runs of their own for the best.

A run for each trial takes three requests, some ten milliseconds each; a thousand trials as points of one history
take one.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from airflow_ml_provider.steps.search_ask import metric_of
from airflow_ml_provider.steps.tracking import TAG

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import SearchArguments
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.search_study import Study
    from airflow_ml_provider.steps.search_summary import BestTrial, Summary
    from airflow_ml_provider.steps.tracking import TrackedRun

_EVERY = 15.0
_OWN_RUNS = 10


class TrialLog:
    """Tells MLflow what came of trials, some at a time.

    :param tracked: the search's run.
    """

    def __init__(self, step: StepContext, tracked: TrackedRun, arguments: SearchArguments) -> None:
        self._tracker, self._tracked, self._arguments = step.tracker, tracked, arguments
        self._name, self._sign = metric_of(arguments)
        self._seed = step.spec.seed
        self._told = 0
        self._best: float | None = None
        self._last = time.monotonic()

    def begin(self, study: Study) -> None:
        """Say what is searched for."""
        arguments = self._arguments
        tags = {
            "search_metric": arguments.metric,
            "search_sampler": arguments.sampler,
            "search_space": json.dumps(sorted(arguments.space)),
            "search_study": study.ledger.folder,
        }
        sources = {"mlflow.source.name": arguments.function, "mlflow.source.type": "JOB"}
        self._tracker.log(
            self._tracked.run_id, tags={**{TAG + name: value for name, value in tags.items()}, **sources}
        )

    def catch_up(self, study: Study, *, at_last: bool = False) -> None:
        """Tell the trials of rounds that are over and were not told yet, if it is time again.

        The same trials told by another try are the same points: their time is that of the trial's end.
        """
        if not at_last and time.monotonic() - self._last < _EVERY:
            return
        points: list[tuple[str, float, int, int]] = []
        known = study.known
        for _, record in known[self._told :]:
            value = record.metrics.get(self._name)
            if record.state != "done" or value is None:
                continue
            points.append((f"trial_{self._name}", value, record.ended, record.number))
            if self._best is None or self._sign * value < self._sign * self._best:
                self._best = value
                points.append((f"best_{self._name}", value, record.ended, record.number))
        self._tracker.log_points(self._tracked.run_id, points)
        self._told, self._last = len(known), time.monotonic()

    def tell_best(self, study: Study, summary: Summary) -> None:
        """The sums, the best parameters, and a run for each of the best trials."""
        best = summary.best
        assert best is not None
        if self._arguments.model is None:
            params = {
                name: _as_text(value) for name, value in {**self._arguments.params, **best.params}.items()
            }
            own = {"function": self._arguments.function, "seed": str(self._seed)}
            self._tracker.log(self._tracked.run_id, params={**own, **params})
        numbers = {k: v for k, v in summary.numbers().items() if not k.startswith("best_")}
        self._tracker.log(self._tracked.run_id, metrics={**numbers, **best.metrics})
        for each in summary.leading(_OWN_RUNS):
            self._child(each)

    def _child(self, trial: BestTrial) -> None:
        """A run below the search's, once."""
        tracker, parent = self._tracker, self._tracked
        tag = f"{TAG}trial"
        wanted = f"tags.`mlflow.parentRunId` = '{parent.run_id}' and tags.`{tag}` = '{trial.number}'"
        with tracker.speaking("log the best trials"):
            client = tracker.client
            found = client.search_runs([parent.experiment_id], wanted, max_results=1)
            if found and found[0].info.status == "FINISHED":
                return
            # One that an earlier try had begun is gone on with.
            run = (
                found[0]
                if found
                else client.create_run(
                    parent.experiment_id,
                    run_name=f"trial {trial.number}",
                    tags={"mlflow.parentRunId": parent.run_id, tag: str(trial.number)},
                )
            )
        tracker.log(
            run.info.run_id,
            metrics=trial.metrics,
            params={name: _as_text(value) for name, value in trial.params.items()},
        )
        with tracker.speaking("log the best trials"):
            client.set_terminated(run.info.run_id, "FINISHED")


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
