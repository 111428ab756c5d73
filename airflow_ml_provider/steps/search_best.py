"""The best trial's parameters, trained with once more and registered, as a single training would be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airflow_ml_provider.contract.arguments import TrainArguments
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.steps import functions, train, versions
from airflow_ml_provider.steps.labelled_rows import LabelledRows

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import SearchArguments
    from airflow_ml_provider.contract.documents import ModelVersion
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.search_summary import BestTrial
    from airflow_ml_provider.steps.tracking import TrackedRun


def register(
    step: StepContext, arguments: SearchArguments, tracked: TrackedRun, best: BestTrial
) -> ModelVersion:
    """Train with the best parameters, once, and make the model the challenger."""
    assert arguments.model is not None
    assert arguments.table is not None
    registered = versions.of_run(step, arguments.model.name, tracked.run_id)
    if registered is None:
        function = functions.user_code(step, arguments.function)
        rows = LabelledRows(step, step.read(arguments.table), arguments.partitions, purpose="train on")
        if rows.single_class is not None:
            raise DataError(
                f"the label {rows.label!r} is {rows.single_class} in all {rows.count:,} labelled rows of "
                f"{rows.where}, so there is nothing to tell apart"
            )
        training = TrainArguments(
            function=arguments.function, table=arguments.table, model=arguments.model,
            partitions=arguments.partitions, params={**arguments.params, **best.params},
            trusted_types=arguments.trusted_types, known_values=arguments.known_values,
        )  # fmt: skip
        tags = {
            "search_metric": arguments.metric,
            "search_value": repr(best.value),
            "search_trial": str(best.number),
            "search_params": json.dumps(best.params, sort_keys=True),
            "search_sampler": arguments.sampler,
        }
        registered = train.fit_and_register(step, training, function, rows, tracked, tags=tags)
    train.become_challenger(step, registered)
    return registered.reference(train.ALIAS)
