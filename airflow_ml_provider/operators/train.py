"""A model from feature rows, or one for each of many items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow_ml_provider.assets import model_asset
from airflow_ml_provider.contract.arguments import FleetArguments, TrainArguments
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.models import Model, as_model
from airflow_ml_provider.hooks.mlflow import MlflowHook
from airflow_ml_provider.operators.events import announce_model
from airflow_ml_provider.operators.fleet import FleetStep

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.documents import StepResult, StepSpec
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.operators.pins import Pins

ALIAS = "challenger"


class TrainOperator(FleetStep):
    """Trains a model on pinned feature rows and registers it in MLflow as a new version, the challenger.

    A retry and a clear reuse the version while rows, code, hyperparameters and seed are the same; the same
    training twice gives the same predictions, byte for byte.

    :param function: ``"package.module:function"`` that gets the rows and gives a model. (templated)
    :param table: feature rows: a Table, its name, or an upstream step's ``.output``. (templated)
    :param model: the registered model that gets the version; with items, that of the best one.
    :param partitions: which partitions to train on; all of them when empty. (templated)
    :param hyperparameters: given to the function as ``params``; an operator's ``params`` are Airflow's, for
        the form of a run. (templated)
    :param trusted_types: types that a model may hold beside those that are safe to load. (templated)
    :param over: a column, or several, of the table: a model for each value, registered as one model that
        scores each row by that of its group. Or items to train a model for each of. (templated)
    :param known_values: columns (features, or kept ones) whose values must have occurred in training: rows
        with another one are refused when the model scores.
    :param best: with items: the metric by which one item's model is registered, with a "-" before its name
        where less is better.
    :param fallback: with columns, what becomes of rows whose group has no model when they are scored:
        ``"refuse"`` fails and names the groups, ``"null"`` leaves them without a score, ``"all"`` scores them
        by one more model, of all rows.
    :param minimum_rows: with columns: groups of fewer labelled rows get no model.
    """

    verb = "train"
    template_fields: Sequence[str] = (
        "function", "table", "model", "partitions", "hyperparameters", "trusted_types", "over",
    )  # fmt: skip
    template_fields_renderers = {"hyperparameters": "json"}
    ui_color = "#ede7f6"

    def __init__(
        self,
        *,
        function: str,
        table: Table | str | Any,
        model: Model | str | None = None,
        partitions: str = "",
        hyperparameters: Mapping[str, Any] | None = None,
        trusted_types: Sequence[str] = (),
        known_values: Sequence[str] = (),
        over: Any = None,
        best: str = "",
        fallback: Literal["refuse", "null", "all"] = "refuse",
        minimum_rows: int = 1,
        **kwargs: Any,
    ) -> None:
        _refuse_params(kwargs.get("params"))
        super().__init__(over=over, **kwargs)
        self.groups = _groups(over)
        self.fallback = fallback
        self.minimum_rows = minimum_rows
        if over is not None:
            # A fleet of trainings; all that is particular to it is done by that step.
            self.verb = "fleet"  # type: ignore[misc]
        _check_model(self.task_id, model, best, many=over is not None, groups=self.groups)
        _check_groups(self.task_id, self.groups, fallback, minimum_rows)
        if isinstance(trusted_types, str):
            raise ConfigError(
                f"trusted_types is the text {trusted_types!r}",
                todo=f"give a list of types: [{trusted_types!r}]",
            )
        self.function = function
        self.table = table
        self.model = model
        self.partitions = partitions
        self.hyperparameters = (
            dict(hyperparameters) if isinstance(hyperparameters, Mapping) else hyperparameters
        )
        self.trusted_types = trusted_types
        self.known_values = _columns(self.task_id, known_values, many=over is not None and not self.groups)
        self.best = best
        if model is not None:
            known = as_model(model, wanted_by=f"task {self.task_id!r}")
            self.add_outlet(model_asset(Model(known.name, ALIAS)))

    def arguments(self, pins: Pins, context: Context) -> TrainArguments | FleetArguments:
        """The step's arguments, with the table pinned."""
        if self.verb == "fleet":
            return self.fleet_arguments(
                pins,
                context,
                trains=True,
                function=self.function,
                table=pins.table(self.table),
                partitions=str(self.partitions),
                params=dict(self.hyperparameters or {}),
                trusted_types=tuple(self.trusted_types),
                best=self.best,
                model=self._challenger(pins) if self.best or self.groups else None,
                groups=self.groups,
                fallback=self.fallback,
                minimum_rows=self.minimum_rows,
                known_values=self.known_values,
            )
        return TrainArguments(
            function=self.function,
            table=pins.table(self.table),
            model=self._challenger(pins),
            partitions=str(self.partitions),
            params=dict(self.hyperparameters or {}),
            trusted_types=tuple(self.trusted_types),
            known_values=self.known_values,
        )

    def entry_points(self) -> Iterable[str | None]:
        """The training function."""
        return (self.function,)

    def announce(self, result: StepResult, context: Context) -> None:
        """Events for the challenger, and for the table of results."""
        super().announce(result, context)
        announce_model(self, result, context, moved=True, alias=ALIAS)

    def adopt(self, result: StepResult, spec: StepSpec) -> StepResult:
        """The model of another run: the last one that was asked for, and so the challenger."""
        result = super().adopt(result, spec)
        if result.model is not None:
            hook, model = MlflowHook(), result.model
            now = hook.find(Model(model.name, ALIAS))
            if now is None or now.version != model.version:
                self.log.info("%s@%s is pointed to version %s again", model.name, ALIAS, model.version)
                hook.point(model.name, ALIAS, model.version)
        return result

    def _challenger(self, pins: Pins) -> Model:
        return Model(as_model(self.model, wanted_by=pins.wanted_by).name, ALIAS)


def _groups(over: Any) -> tuple[str, ...]:
    """The columns to group by, if that is what is meant: a plain name, or some of them."""
    names = (over,) if isinstance(over, str) else over
    if not isinstance(names, (tuple, list)) or not names or not all(isinstance(each, str) for each in names):
        return ()
    # A template gives items, or the name of a table of them.
    return () if any("{" in each or each.lstrip().startswith("[") for each in names) else tuple(names)


def _check_groups(task_id: str, groups: tuple[str, ...], fallback: str, minimum_rows: Any) -> None:
    if fallback not in ("refuse", "null", "all"):
        raise ConfigError(
            f"task {task_id!r} has fallback={fallback!r}",
            todo='write "refuse", "null" or "all"',
        )
    if isinstance(minimum_rows, int) and minimum_rows < 1:
        raise ConfigError(f"task {task_id!r} has minimum_rows={minimum_rows}; at least 1 is needed")
    if not groups and (fallback != "refuse" or minimum_rows != 1):
        raise ConfigError(
            f"task {task_id!r} has fallback= or minimum_rows=, which are for a model for each group",
            todo='name the columns of the groups: over="route", or over=("origin", "dest")',
        )
    if len(set(groups)) < len(groups):
        raise ConfigError(f"task {task_id!r} names a column twice: over={groups!r}")


def _check_model(task_id: str, model: Any, best: str, *, many: bool, groups: tuple[str, ...] = ()) -> None:
    """A single training is registered, and the models of groups as one; of other items at most the best."""
    if groups:
        if model is None or best:
            raise ConfigError(
                f"task {task_id!r} trains a model for each group by {', '.join(groups)} and has "
                + ("best=, and they are registered together" if best else "no model= to register them as"),
                todo='give model="flight_delays", and no best=',
            )
        return
    if many and bool(best) != (model is not None):
        raise ConfigError(
            f"task {task_id!r} trains many models and has {'best' if best else 'model'}= alone",
            todo='give both to register the best one: model="flight_delays", best="roc_auc"; or none of them',
        )
    if not many and (model is None or best):
        missing = "no model= to register its training as" if model is None else "best= without over="
        raise ConfigError(f"task {task_id!r} has {missing}")


def _columns(task_id: str, known_values: Sequence[str], *, many: bool) -> tuple[str, ...]:
    if isinstance(known_values, str):
        raise ConfigError(
            f"known_values is the text {known_values!r}", todo=f"give a list of columns: [{known_values!r}]"
        )
    if known_values and many:
        raise ConfigError(
            f"task {task_id!r} trains many models and has known_values=, which is for a single training",
            todo="leave it out, or check the values in a suite over the table",
        )
    return tuple(known_values)


def _refuse_params(params: Any) -> None:
    """Airflow would take them for parameters of the run, and the model would be trained without them."""
    own = [name for name in params or () if getattr(params.get_param(name), "source", None) == "task"]
    if own:
        raise ConfigError(
            f"a TrainOperator was given params= ({', '.join(own)}), which are Airflow's parameters of a run",
            todo="give a model its parameters as hyperparameters=",
        )
