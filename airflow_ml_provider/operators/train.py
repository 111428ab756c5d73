"""A model from feature rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.assets import model_asset
from airflow_ml_provider.contract.arguments import TrainArguments
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.models import Model, as_model
from airflow_ml_provider.operators.base import StepOperator
from airflow_ml_provider.operators.events import announce_model

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.documents import StepResult
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.operators.pins import Pins

ALIAS = "challenger"


class TrainOperator(StepOperator):
    """Trains a model on pinned feature rows and registers it in MLflow as a new version, the challenger.

    A retry and a clear reuse the version while rows, code, hyperparameters and seed are the same; the same
    training twice gives the same predictions, byte for byte.

    :param function: ``"package.module:function"`` that gets the rows and gives a model. (templated)
    :param table: feature rows: a Table, its name, or an upstream step's ``.output``. (templated)
    :param model: the registered model that gets the version.
    :param partitions: which partitions to train on; all of them when empty. (templated)
    :param hyperparameters: given to the function as ``params``; an operator's ``params`` are Airflow's, for
        the form of a run. (templated)
    :param trusted_types: types that a model may hold beside those that are safe to load. (templated)
    """

    verb = "train"
    template_fields: Sequence[str] = (
        "function", "table", "model", "partitions", "hyperparameters", "trusted_types",
    )  # fmt: skip
    template_fields_renderers = {"hyperparameters": "json"}
    ui_color = "#ede7f6"

    def __init__(
        self,
        *,
        function: str,
        table: Table | str | Any,
        model: Model | str,
        partitions: str = "",
        hyperparameters: Mapping[str, Any] | None = None,
        trusted_types: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        _refuse_params(kwargs.get("params"))
        super().__init__(**kwargs)
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
        self.add_outlet(model_asset(Model(as_model(model, wanted_by=f"task {self.task_id!r}").name, ALIAS)))

    def arguments(self, pins: Pins, context: Context) -> TrainArguments:
        """The step's arguments, with the table pinned."""
        return TrainArguments(
            function=self.function,
            table=pins.table(self.table),
            model=Model(as_model(self.model, wanted_by=pins.wanted_by).name, ALIAS),
            partitions=str(self.partitions),
            params=dict(self.hyperparameters or {}),
            trusted_types=tuple(self.trusted_types),
        )

    def entry_points(self) -> Iterable[str | None]:
        """The training function."""
        return (self.function,)

    def announce(self, result: StepResult, context: Context) -> None:
        """An event for the challenger."""
        announce_model(self, result, context, moved=True, alias=ALIAS)


def _refuse_params(params: Any) -> None:
    """Airflow would take them for parameters of the run, and the model would be trained without them."""
    own = [name for name in params or () if getattr(params.get_param(name), "source", None) == "task"]
    if own:
        raise ConfigError(
            f"a TrainOperator was given params= ({', '.join(own)}), which are Airflow's parameters of a run",
            todo="give a model its parameters as hyperparameters=",
        )
