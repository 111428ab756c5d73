"""What Airflow learns of this provider when it starts: its entry point ``apache_airflow_provider``."""

from __future__ import annotations

from typing import Any

_PACKAGE = "airflow_ml_provider"
_INTEGRATION = "Machine learning pipelines"
_VERBS = (
    "ingest", "validate", "features", "train", "fleet", "search", "evaluate", "promote", "predict", "monitor",
    "rollback",
)  # fmt: skip


def get_provider_info() -> dict[str, Any]:
    """The provider's description, as Airflow's ``provider_info.schema.json`` wants it.

    The plugin is not in here but in the entry point ``airflow.plugins``: Airflow loads the plugins that are
    listed here only with ``[core] lazy_discover_providers = False``.
    """
    return {
        "package-name": "airflow-ml-provider",
        "name": "Machine Learning",
        "description": "Machine-learning pipelines: from raw files to published predictions, with MLflow, "
        "Great Expectations and Delta Lake.",
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://mlflow.org/",
                "tags": ["software"],
            }
        ],
        "operators": _modules("operators", _VERBS),
        "sensors": _modules("sensors", ("table", "model")),
        "hooks": _modules("hooks", ("mlflow",)),
        "triggers": _modules("triggers", ("table", "model", "drift", "pod", "fleet", "claim", "spark")),
        "connection-types": [_MLFLOW_CONNECTION],
        "extra-links": [
            f"{_PACKAGE}.links.step.{link}"
            for link in ("MlflowRunLink", "ReportLink", "DataDocsLink", "ModelLink", "MadeByLink")
        ],
        "config": {
            "ml": {"description": "Where the steps of ML pipelines run and keep things.", "options": _OPTIONS}
        },
    }


def _modules(folder: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    modules = [f"{_PACKAGE}.{folder}.{name}" for name in names]
    return [{"integration-name": _INTEGRATION, "python-modules": modules}]


_MLFLOW_CONNECTION = {
    "connection-type": "mlflow",
    "hook-class-name": f"{_PACKAGE}.hooks.mlflow.MlflowHook",
    "hook-name": "MLflow",
    "ui-field-behaviour": {
        "hidden-fields": ["schema"],
        "relabeling": {"host": "Tracking server", "login": "User", "password": "Password"},
        "placeholders": {"host": "https://mlflow.example.com", "port": "5000, if not in the address"},
    },
    "conn-fields": {
        "token": {
            "label": "Token",
            "description": "A bearer token, instead of user and password.",
            "schema": {"type": ["string", "null"], "format": "password"},
        },
        "verify_tls": {
            "label": "Verify TLS",
            "description": "Whether the server's certificate is checked.",
            "schema": {"type": "boolean", "default": True},
        },
    },
}


def _option(description: str, *, example: str, default: str | None = None) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "string",
        "example": example,
        "default": default,
    }


_OPTIONS = {
    "store": _option(
        "The folder or bucket under which tables, specs, results and reports live. Every worker, and "
        "every place where steps run, needs to read and write it. No credentials in here: they come from the "
        "environment or the machine's identity.",
        example="s3://bucket/prefix",
    ),
    "compute": _option(
        "Where steps run that name no compute of their own: ``local``, a subprocess beside the task; "
        "``kubernetes``, a pod as the option ``kubernetes`` says; or the import path of a Compute value, as "
        '"package.module:name".',
        example="kubernetes",
        default="local",
    ),
    "kubernetes": _option(
        "The fields of a KubernetesCompute as a JSON document, for ``compute = kubernetes``. No credentials.",
        example='{"image": "registry.example.com/ml-steps:1", "namespace": "ml", "service_account": "ml-step"}',
    ),
    "mlflow_conn_id": _option(
        "The Airflow connection (of type MLflow) to the tracking server.",
        example="mlflow_production",
        default="mlflow_default",
    ),
    "experiment": _option(
        "The MLflow experiment that steps log to; ``{dag_id}`` in it stands for the DAG's id.",
        example="team_a/{dag_id}",
        default="{dag_id}",
    ),
    "cache": _option(
        "What tasks that do not say it themselves (``cache=``) do with work that has been done before: ``reuse`` it, "
        "``rerun`` it, or ``verify`` it: compute a part of it again, and fail if that gives something else.",
        example="verify",
        default="reuse",
    ),
    "mlflow_browse_url": _option(
        "Where people open MLflow, if that is not the address in the connection. Links on tasks and the "
        "entry in the navigation bar lead there.",
        example="https://mlflow.example.com",
        default="",
    ),
}
