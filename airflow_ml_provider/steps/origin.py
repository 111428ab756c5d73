"""What a model comes from and looks like, kept with its MLflow run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_ml_provider.steps.feature_definition import read_roles
from airflow_ml_provider.steps.tracking import TAG

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import TrainArguments
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.labelled_rows import LabelledRows


# The run's document of what the model depends on, part by part.
FINGERPRINT = "fingerprint.json"


def tags_of(step: StepContext, rows: LabelledRows) -> dict[str, str]:
    """What a model version says of its origin, beside its artifact digest."""
    spec = step.spec
    return {
        "feature_hash": rows.rows.hash,
        "features": rows.rows.entry_point,
        "label": rows.label,
        "tables": f"{rows.table.name}@{rows.table.version}",
        "partitions": rows.partitions,
        "known_until": rows.known_until,
        "fingerprint": spec.fingerprint,
        "step_key": spec.step_key,
        "seed": str(spec.seed),
        "code_digest": spec.code.digest,
        "code_commit": spec.code.commit,
        "dag_id": spec.run.dag_id,
        "dag_run_id": spec.run.run_id,
        "airflow_url": spec.run.url or "",
        "training_reason": spec.run.reason,
    }


def log_origin(step: StepContext, run_id: str, arguments: TrainArguments, rows: LabelledRows) -> None:
    """Parameters, seed, dataset version, feature definition and the parts of the fingerprint.

    Logged before the training, so that a failed run says what it was, too.
    """
    own = {name: _as_text(value) for name, value in arguments.params.items()}
    tags = {TAG + name: value for name, value in tags_of(step, rows).items()}
    # Where MLflow's own page of a run looks for its source and its author.
    tags |= {"mlflow.source.name": arguments.function, "mlflow.source.type": "JOB"}
    tags["mlflow.user"] = step.spec.run.triggered_by
    tags = {name: value for name, value in tags.items() if value}
    step.tracker.log(
        run_id, params={"function": arguments.function, "seed": step.spec.seed, **own}, tags=tags
    )
    log_dataset(step, run_id, rows, "training")
    roles = read_roles(step.store, rows.table.name, rows.rows.hash)
    log_document(step, run_id, "feature_rows.json", msgspec.to_builtins(roles))
    spec = step.spec
    made_of = {"fingerprint": spec.fingerprint, "parts": spec.parts, "files": spec.code.files}
    log_document(step, run_id, FINGERPRINT, made_of)


def log_dataset(step: StepContext, run_id: str, rows: LabelledRows, context: str) -> None:
    """The pinned table version as an MLflow dataset of the run.

    :param context: what it was used for, "training" or "evaluation".
    """
    types = rows.frame.collect_schema()
    columns = [{"name": name, "type": str(types[name])} for name in (*rows.rows.features, rows.label)]
    step.tracker.log_dataset(
        run_id, context,
        name=rows.table.name,
        digest=f"v{rows.table.version}",
        source_type="delta_table",
        source=json.dumps({"path": rows.table.uri, "delta_table_version": rows.table.version}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": rows.count, "partitions": rows.partitions}),
    )  # fmt: skip


def log_document(step: StepContext, run_id: str, name: str, document: Mapping[str, Any]) -> None:
    """Keep a JSON document with the run; equal documents are equal bytes."""
    path = step.scratch / name
    path.write_text(json.dumps(document, indent=1, sort_keys=True))
    step.tracker.log_file(run_id, path)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
