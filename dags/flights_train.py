"""### From tables to a champion

Validates the flights, builds training rows, trains a challenger, compares it with the champion on the days
after its training, and promotes it if every gate passes.

Runs every Monday, when monitoring asks for it (drift, worse performance, much new data), and by hand with other
dates or parameters. The reason is on the MLflow run and on the model version.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, Param

from airflow_ml_provider import Gate, Model, Table
from airflow_ml_provider.assets import retrain_asset
from airflow_ml_provider.operators import (
    EvaluateOperator,
    FeaturesOperator,
    PromoteOperator,
    TrainOperator,
    ValidateOperator,
)

MODEL = Model("flight_delays")
TRAINING_DAYS = "{{ params.train_from }}..{{ params.train_until }}"
EVALUATION_DAYS = "{{ params.evaluate_from }}..{{ params.evaluate_until }}"
ALL_DAYS = "{{ params.train_from }}..{{ params.evaluate_until }}"

SCHEDULE = AssetOrTimeSchedule(
    timetable=CronTriggerTimetable("0 6 * * 1", timezone="UTC"),
    assets=[retrain_asset(MODEL)],
)


def day(default: str, title: str, description: str) -> Param:
    return Param(default, type="string", format="date", title=title, description=description)


with DAG(
    "flights_train",
    schedule=SCHEDULE,
    max_active_runs=1,
    params={
        "train_from": day("2013-01-01", "Train from", "First day of the training rows."),
        "train_until": day("2013-04-30", "Train until", "Last day of the training rows."),
        "evaluate_from": day("2013-05-01", "Evaluate from", "First day of the rows that judge the model."),
        "evaluate_until": day("2013-05-31", "Evaluate until", "Last day of the rows that judge the model."),
        "effective": Param(
            "2013-06-01",
            type="string",
            title="Counts from",
            description_md="From which moment a promoted model counts as champion in predictions "
            "*as of* a date: these are flights of 2013. Empty: from now.",
        ),
        "reason": Param("", type="string", title="Reason", description="Why, for the model and the ledger."),
        "num_leaves": Param(31, type="integer", minimum=2, maximum=1024, title="Leaves per tree"),
        "rounds": Param(100, type="integer", minimum=1, maximum=5000, title="Boosting rounds"),
    },
    render_template_as_native_obj=True,  # numbers stay numbers in hyperparameters=
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    doc_md=__doc__,
    tags=["flights", "ml"],
):
    checked = ValidateOperator(
        task_id="validate", table=Table("flights"), suite="flights.expectations:flights", partitions=ALL_DAYS
    )
    rows = FeaturesOperator(
        task_id="features",
        features="flights.features:LATE_ARRIVAL",
        tables=[checked.output, Table("weather"), Table("planes")],
        partitions=ALL_DAYS,
        publish=Table("flights_training"),
    )
    fitted = TrainOperator(
        task_id="train",
        function="flights.model:train",
        table=rows.output,
        partitions=TRAINING_DAYS,
        hyperparameters={"num_leaves": "{{ params.num_leaves }}", "rounds": "{{ params.rounds }}"},
        seed=2013,
        model=MODEL,
        known_values=["carrier"],
        # Drift asks for a new version, though the rows of 2013 that it is trained on are those of before.
        cache="{{ 'rerun' if dag_run.run_type == 'asset_triggered' else '' }}",
    )
    verdict = EvaluateOperator(
        task_id="evaluate",
        candidate=fitted.output,
        table=rows.output,
        partitions=EVALUATION_DAYS,
        gates=[
            Gate("roc_auc", at_least=0.70),
            Gate("roc_auc", worse_by_at_most=0.005),
            Gate("roc_auc", at_least=0.65, slice_by="origin"),
            Gate("roc_auc", harm_limit=0.01, slice_by="carrier"),
            Gate("model_megabytes", at_most=20),
        ],
        behaviour="flights.behaviour",
        slices=["origin", "carrier"],
    )
    PromoteOperator(
        task_id="promote",
        verdict=verdict.output,
        reason="{{ params.reason }}",
        effective="{{ params.effective }}",
    )
