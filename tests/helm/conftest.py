"""The chart as Helm itself renders it, and the schemas of Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "helm/airflow-ml"
# The oldest that Chart.yaml allows, and the newest that was tried.
KUBERNETES = ("1.31", "1.36")

Object = dict[str, Any]
Render = Callable[..., list[Object]]

# Each is a deployment that somebody has. They are rendered by most tests.
VARIATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "laptop": yaml.safe_load((REPOSITORY / "helm/laptop-values.yaml").read_text()),
    "s3 and workload identity": {
        "steps": {
            "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/steps"}}
        },
        "mlflow": {
            "replicas": 3,
            "artifacts": {"type": "s3", "s3": {"uri": "s3://bucket/mlflow"}},
            "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/mlflow"}},
            "image": {"digest": "sha256:" + "0" * 64},
        },
    },
    "s3 and a secret, on a server in the cluster": {
        "mlflow": {
            "artifacts": {"type": "s3", "s3": {"uri": "s3://bucket", "existingSecret": "s3"}},
            "extraEnv": [{"name": "MLFLOW_S3_ENDPOINT_URL", "value": "http://s3.storage:9000"}],
        },
        "networkPolicies": {
            name: [
                {
                    "to": [
                        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "storage"}}}
                    ],
                    "ports": [{"protocol": "TCP", "port": 9000}],
                }
            ]
            for name in ("stepsExtraEgress", "mlflowExtraEgress")
        },
    },
    "a database elsewhere": {
        "postgresql": {
            "enabled": False,
            "external": {"host": "db.example.com", "existingSecret": "db", "sslmode": "verify-full"},
        },
    },
    "a volume for the store": {"store": {"volume": {"enabled": True, "storageClassName": "nfs"}}},
    "secrets that exist": {
        "mlflow": {"auth": {"existingSecret": "mlflow-login"}},
        "postgresql": {"existingSecret": "database-password"},
    },
    "no passwords": {"mlflow": {"auth": {"enabled": False}}},
    "queues": {
        "kueue": {"enabled": True, "nodeLabels": {"pool": "ml"}, "quota": {"cpu": 8, "nvidia.com/gpu": "2"}},
    },
    "steps on Spark": {"spark": {"enabled": True}},
    "steps in a namespace of their own": {
        "steps": {"namespace": {"name": "ml-steps", "create": True}},
        "store": {"volume": {"enabled": True}},
        "commonLabels": {"team": "a"},
    },
    "a second team, with the MLflow of the first": {"mlflow": {"enabled": False}},
    "placed and exposed": {
        "mlflow": {
            "allowedHosts": ["mlflow.example.com"],
            "corsAllowedOrigins": ["https://mlflow.example.com"],
            "nodeSelector": {"pool": "services"},
            "tolerations": [{"key": "services", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "priorityClassName": "services",
            "podLabels": {"team": "a"},
            "podAnnotations": {"a": "b"},
            "image": {"pullSecrets": ["registry"]},
            "service": {"type": "LoadBalancer", "port": 80, "annotations": {"a": "b"}},
        },
        "postgresql": {"nodeSelector": {"pool": "services"}, "persistence": {"storageClassName": "fast"}},
        "networkPolicies": {
            "mlflowExtraFrom": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
            ]
        },
    },
}


@pytest.fixture(scope="session")
def chart() -> Any:
    """The chart, loaded by Helm."""
    import helm_python

    return helm_python.Chart.load(CHART)


@pytest.fixture(scope="session")
def render(chart: Any) -> Render:
    """The objects that ``helm install ml --namespace ml`` would make of values."""

    def objects(values: dict[str, Any] | None = None, **options: Any) -> list[Object]:
        files = chart.render(values or {}, **{"name": "ml", "namespace": "ml", **options})
        return [
            document
            for path, text in sorted(files.items())
            if path.endswith(".yaml")
            for document in yaml.safe_load_all(text)
            if document
        ]

    return objects


@pytest.fixture(scope="session", params=VARIATIONS, ids=[name.replace(" ", "-") for name in VARIATIONS])
def rendered(render: Render, request: pytest.FixtureRequest) -> list[Object]:
    """The chart in each of its variations."""
    return render(VARIATIONS[request.param])


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of a kind and name."""
    found = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, [(one["kind"], one["metadata"]["name"]) for one in objects]
    return found[0]


def pods(objects: list[Object]) -> dict[str, Object]:
    """The pod templates among objects, by the name of what makes them."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]
        for one in objects
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
    }


def containers(pod: Object) -> list[Object]:
    """All containers of a pod template."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


@cache
def schema_of(api_version: str, kind: str, kubernetes: str) -> Any:
    """A validator by Kubernetes' own schema, where unknown fields are errors; None for kinds of others.

    ``kubernetes_validate.validate`` does the same and reads all definitions anew for each object.
    """
    from importlib.resources import files

    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    folder = files("kubernetes_validate") / f"kubernetes-json-schema/v{kubernetes}.0-local-strict"
    group, _, version = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.split(".")[0], version) if part)
    file = folder / f"{name}.json"
    if not file.is_file():
        assert (folder / "pod-v1.json").is_file(), f"kubernetes-validate has no schemas of {kubernetes}"
        return None
    definitions = Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))
    schema = json.loads(file.read_text())
    registry = definitions @ (Resource.from_contents(schema) @ Registry())
    return Draft202012Validator(schema, registry=registry)


def errors_of(one: Object, kubernetes: str) -> list[str]:
    """What a Kubernetes of this version has against an object."""
    validator = schema_of(one["apiVersion"], one["kind"], kubernetes)
    if validator is None:
        return (
            []
            if "kueue.x-k8s.io" in one["apiVersion"]
            else [f"no schema for {one['apiVersion']} {one['kind']}"]
        )
    where = f"{one['kind']} {one['metadata']['name']}"
    return [f"{where}: {error.json_path}: {error.message}" for error in validator.iter_errors(one)]
