"""The best hyperparameters of a training, looked for in one task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.assets import model_asset
from airflow_ml_provider.contract.arguments import SearchArguments
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.models import Model, as_model
from airflow_ml_provider.contract.search import Dimension, Pruner, as_pruner, check_sampler, check_space
from airflow_ml_provider.operators import search_stages
from airflow_ml_provider.operators.base import StepOperator
from airflow_ml_provider.operators.events import announce_model
from airflow_ml_provider.operators.fleet_stages import has_jobs

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.compute.base import Compute, Exit, Launch
    from airflow_ml_provider.contract.documents import StepResult, StepSpec
    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.operators.pins import Pins

ALIAS = "challenger"


class SearchOperator(StepOperator):
    """Looks for the hyperparameters that train the best model, in one task; that model is the challenger.

    A retry and a clear go on with the study: no trial that is done runs again, whatever was killed; so does more
    ``trials``. Changed code, rows, space, sampler, batch, pruner or seed begin a new study. A killed task ends
    its workers; what they finished stands.

    :param function: ``"package.module:function"``, the one that a TrainOperator takes: it gives a model and a
        mapping of metrics, measured on rows that it held out. It may ask for ``trial``, too. Without a table, it
        gives the mapping, or the number, alone. (templated)
    :param search: what to look through: parameter to ``Integers``, ``Floats`` or ``Choices``.
    :param metric: which of the metrics; with a "-" before its name where less is better.
    :param trials: how many the study has in the end. (templated)
    :param table: feature rows: a Table, its name, or an upstream step's ``.output``. (templated)
    :param model: the registered model that gets a version, trained with the best parameters.
    :param partitions: of the table; all of them when empty. (templated)
    :param hyperparameters: common to all trials. (templated)
    :param sampler: ``"tpe"``, ``"random"``, ``"qmc"`` (evenly spread) or ``"grid"``; or
        ``"package.module:function"``, which gives an Optuna sampler.
    :param pruner: when a trial that reports is given up: ``"median"``, ``"halving"``, ``"none"``, or a
        ``Percentile(...)`` or ``Halving(...)``.
    :param batch: how many trials are asked for at once, knowing the results of those before; the order of
        trials depends on it, and not on ``parallelism``. Rounds grow with what is known.
    :param parallelism: how many trials run at once; on one machine at most one a processor.
    :param limits: what else bounds the search: ``seconds`` after which no trial is begun, ``tries`` of a trial
        whose process dies (2), ``max_failed`` trials, a number or a share (0.1).
    """

    verb = "search"
    template_fields: Sequence[str] = ("function", "table", "model", "partitions", "hyperparameters", "trials")
    template_fields_renderers = {"hyperparameters": "json"}
    ui_color = "#ede7f6"

    def __init__(
        self,
        *,
        function: str,
        search: Mapping[str, Dimension],
        metric: str,
        trials: int | str = 100,
        table: Table | str | Any = None,
        model: Model | str | None = None,
        partitions: str = "",
        hyperparameters: Mapping[str, Any] | None = None,
        sampler: str = "tpe",
        pruner: Pruner | str | None = "median",
        batch: int = 10,
        parallelism: int = 10,
        limits: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        who = f"task {self.task_id!r}"
        self.search = check_space(search, hyperparameters, wanted_by=who)
        self.sampler = check_sampler(sampler, self.search, wanted_by=who)
        self.pruner = as_pruner(pruner, wanted_by=who)
        self.limits = _limits(who, limits or {})
        if not isinstance(metric, str) or not metric.removeprefix("-"):
            raise ConfigError(
                f"{who} has metric={metric!r}", todo='name one that the function gives: "-log_loss"'
            )
        if model is not None and table is None:
            raise ConfigError(
                f"{who} has a model to register and no table of rows to train it on",
                todo="give it one: table=...; or leave model= out, to look for parameters only",
            )
        for name, value in (("trials", trials), ("batch", batch), ("parallelism", parallelism)):
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"{who} has {name}={value}; at least 1 is needed")
        if self.limits.get("seconds"):
            # What it comes to depends on the machine, and is no other run's result.
            self.shared = False
        self.function = function
        self.metric = metric
        self.trials = trials
        self.table = table
        self.model = model
        self.partitions = partitions
        self.hyperparameters = hyperparameters
        self.batch = batch
        self.parallelism = parallelism
        if model is not None:
            self.add_outlet(model_asset(Model(as_model(model, wanted_by=who).name, ALIAS)))

    def arguments(self, pins: Pins, context: Context) -> SearchArguments:
        """The step's arguments, with the table pinned."""
        text = str(self.trials)
        if not text.isdigit() or not int(text):
            raise ConfigError(f"{pins.wanted_by} has trials={text!r}; a number, at least 1, is needed")
        named = None if self.model is None else as_model(self.model, wanted_by=pins.wanted_by).name
        return SearchArguments(
            function=self.function,
            space=self.search,
            metric=self.metric,
            trials=int(text),
            table=pins.table(self.table) if self.table else None,
            partitions=str(self.partitions),
            model=Model(named, ALIAS) if named else None,
            params=dict(self.hyperparameters or {}),
            sampler=self.sampler,
            pruner=self.pruner,
            batch=self.batch,
            parallelism=self.parallelism,
            **self.limits,
        )

    def entry_points(self) -> Iterable[str | None]:
        """The training function, and a sampler of the user's own."""
        return (self.function, self.sampler if ":" in self.sampler else None)

    def announce(self, result: StepResult, context: Context) -> None:
        """An event for the challenger."""
        super().announce(result, context)
        announce_model(self, result, context, moved=True, alias=ALIAS)

    def run_on(
        self, compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context
    ) -> Exit:
        """Have the compute run round after round, and the step, which sums up."""
        if has_jobs(compute):
            return search_stages.run(compute, _indexed(launch), spec, store, context)
        # The step itself runs the trials, in processes beside it.
        return compute.run(launch, context)

    def resume_on(
        self, compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context,
        event: Mapping[str, Any],
    ) -> Exit:  # fmt: skip
        """Carry on with what was intended when the compute deferred."""
        if has_jobs(compute):
            return search_stages.resume(compute, _indexed(launch), spec, store, context, event)
        return compute.resume(launch, context, event)

    def on_kill(self) -> None:
        """End the step, its Job, and the pod that plans for it, whichever runs."""
        compute = self._compute()
        if self._launch is not None and has_jobs(compute):
            self._launch = _indexed(self._launch)
            search_stages.cancel_plan(compute, self._launch)
        super().on_kill()


def _indexed(launch: Launch) -> Launch:
    return replace(launch, indexed=True)


def _limits(who: str, given: Mapping[str, float]) -> dict[str, Any]:
    known: dict[str, tuple[type | tuple[type, ...], float]] = {
        "seconds": ((int, float), 0), "tries": (int, 1), "max_failed": ((int, float), 0),
    }  # fmt: skip
    for name, value in given.items():
        kind, least = known.get(name, (object, 0))
        if name not in known or isinstance(value, bool) or not isinstance(value, kind) or value < least:
            raise ConfigError(
                f"{who} has limits={{{name!r}: {value!r}}}",
                todo="limits are seconds (0 is none), tries (at least 1), and max_failed (a number, or a share)",
            )
    failed = given.get("max_failed", 0)
    if isinstance(failed, float) and failed > 1:
        raise ConfigError(
            f"{who} has max_failed={failed}", todo="give a number of trials, or a share up to 1.0"
        )
    return dict(given)
