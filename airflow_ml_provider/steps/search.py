"""Search: many trainings with parameters that are looked for, and one with the best of them, registered.

Locally the trials run in processes beside this one; where a compute runs them as Jobs, this only sums up.
"""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from airflow_ml_provider.contract import search as spaces
from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.steps import functions, search_ask, search_best, search_figures
from airflow_ml_provider.steps.context import Outcome
from airflow_ml_provider.steps.fleet_modes import FLEET
from airflow_ml_provider.steps.progress import Progress
from airflow_ml_provider.steps.search_keeper import Keeper
from airflow_ml_provider.steps.search_pool import Pool
from airflow_ml_provider.steps.search_study import Study
from airflow_ml_provider.steps.search_summary import Summary
from airflow_ml_provider.steps.search_tracking import TrialLog

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import SearchArguments
    from airflow_ml_provider.contract.search_ledger import TrialRecord
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.tracking import TrackedRun


def run(step: StepContext, arguments: SearchArguments) -> Outcome:
    """Run the trials that are missing, and make the best of them a model."""
    check(step, arguments)
    study = Study(step, arguments)
    study.introduce()
    title = f"search {arguments.model.name if arguments.model else arguments.function}"
    with step.tracker.run(title) if _is_tracked(step, arguments) else nullcontext() as tracked:
        log = TrialLog(step, tracked, arguments) if tracked is not None else None
        if log is not None:
            log.begin(study)
        if os.environ.get(FLEET) != "job":
            run_trials(study, log)
        return _conclude(study, tracked, log)


def check(step: StepContext, arguments: SearchArguments) -> None:
    """Whether it can be done at all, before any trial.

    :raises MLError: why not.
    """
    space = spaces.check_space(arguments.space, arguments.params)
    spaces.check_sampler(arguments.sampler, space)
    if not search_ask.metric_of(arguments)[0]:
        raise ConfigError(
            "the search has no metric=", todo='name one that the function gives: metric="-log_loss"'
        )
    if arguments.model is not None and arguments.table is None:
        raise ConfigError(
            "the search has a model to register and no table of rows to train it on",
            todo="give it one: table=...; or leave model= out, to look for parameters only",
        )
    if arguments.sampler not in spaces.DRAWN:
        # Its libraries and the space, before anything runs.
        search_ask.distributions_of(space)
    # An error of the code is one error, not one of each trial.
    functions.user_code(step, arguments.function)


def run_trials(study: Study, log: TrialLog | None = None) -> None:
    """Run rounds in processes of this machine until the study is over."""
    arguments, step = study.arguments, study.step
    ends = time.monotonic() + arguments.seconds if arguments.seconds else float("inf")
    width = min(arguments.parallelism, study.most)
    with Pool(step, width, arguments.tries) as pool, Progress("trials", study.missing) as progress:
        while time.monotonic() < ends and (current := study.next_round()) is not None:

            def tell(record: TrialRecord) -> None:
                study.add(record)
                keeper.keep(record)
                progress.advance()

            with Keeper(study.ledger, current.number) as keeper:
                pool.run(
                    study.pending(current),
                    current.bars,
                    tell,
                    lambda: study.worth_going_on and time.monotonic() < ends,
                )
            if not study.pending(current):
                study.close(current)
            if log is not None:
                log.catch_up(study)


def _conclude(study: Study, tracked: TrackedRun | None, log: TrialLog | None) -> Outcome:
    step, arguments = study.step, study.arguments
    summary = Summary(study)
    outcome = Outcome(metrics=summary.numbers(), summary=summary.facts())
    if tracked is not None:
        outcome.links["MLflow run"] = step.tracker.run_url(tracked)
        outcome.mlflow_run_id = tracked.run_id
    if log is not None:
        log.catch_up(study, at_last=True)
    failure = summary.error()
    kept = search_figures.keep(study, summary, step.scratch / "search")
    if log is not None and tracked is not None:
        step.tracker.log_folder(tracked.run_id, kept, "search")
    for path in sorted(kept.iterdir()):
        step.keep_document(f"search/{path.name}", path.read_bytes())
    if failure is not None:
        raise failure
    best = summary.best
    if best is None:
        raise DataError("the search has no trial that is done", kept="all that its trials reported")
    if summary.failed:
        step.warn(f"{summary.failed:,} of {summary.ended:,} trials failed, which may be; see the summary")
    if summary.missing:
        step.warn(f"the search ended after {summary.ended:,} of {study.most:,} trials: its time was up")
    if log is not None and tracked is not None:
        log.tell_best(study, summary)
        if arguments.model is not None:
            outcome.model = search_best.register(step, arguments, tracked, best)
            outcome.links["Model"] = step.tracker.model_url(outcome.model)
            logged = step.tracker.client.get_run(tracked.run_id).data.metrics
            outcome.metrics |= {name: value for name, value in logged.items() if name.startswith("train_")}
    return outcome


def _is_tracked(step: StepContext, arguments: SearchArguments) -> bool:
    configured = bool(step.spec.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI"))
    # With a model this says so if no tracking server is configured: now, and not when all is done.
    return configured or arguments.model is not None
