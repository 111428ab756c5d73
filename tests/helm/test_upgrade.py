"""Somebody who installed an earlier version upgrades, with the values they have."""

from __future__ import annotations

import base64
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from .conftest import CHART, KUBERNETES, VARIATIONS, Object, Render, errors_of

HERE = Path(__file__).parent
# Versions that were released: values-VERSION.yaml is what its users have (its values.yaml), release-VERSION.json what
# it made that Kubernetes does not let change, by variation. RECORD=1 writes both for the version of Chart.yaml.
RELEASED = sorted(path.stem.removeprefix("values-") for path in HERE.glob("values-*.yaml"))


def immutable(objects: list[Object]) -> dict[str, Any]:
    """What cannot change under objects that exist, or what others call them by."""
    fields = {
        "Deployment": ("selector",),
        "StatefulSet": ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy"),
        "Service": ("selector",),
        "PersistentVolumeClaim": ("accessModes", "storageClassName"),
        "ClusterQueue": (),
    }
    found: dict[str, Any] = {}
    for one in objects:
        where = f"{one['kind']} {one['metadata'].get('namespace', '')}/{one['metadata']['name']}"
        spec = one.get("spec", {})
        found[where] = {field: spec[field] for field in fields.get(one["kind"], ()) if field in spec}
        if one["kind"] == "RoleBinding":
            found[where]["roleRef"] = one["roleRef"]
        if one["kind"] == "Secret":
            found[where] = {"keys": sorted(one["data"]), "type": one["type"]}
    return found


@pytest.mark.parametrize("version", RELEASED)
@pytest.mark.parametrize("how", ["is_install", "is_upgrade"])
def test_the_values_of_an_earlier_version_still_work(render: Render, version: str, how: str) -> None:
    values = yaml.safe_load((HERE / f"values-{version}.yaml").read_text())
    objects = render(values, **{how: True})
    assert [error for one in objects for error in errors_of(one, KUBERNETES[-1])] == []


@pytest.mark.parametrize("version", RELEASED)
def test_an_upgrade_changes_nothing_that_kubernetes_does_not_let_change(render: Render, version: str) -> None:
    values = yaml.safe_load((HERE / f"values-{version}.yaml").read_text())
    recorded = json.loads((HERE / f"release-{version}.json").read_text())
    for name, before in recorded.items():
        now = immutable(render(values if name == "defaults" else VARIATIONS[name], is_upgrade=True))
        assert {where: now.get(where) for where in before} == before, name


def test_this_version_is_recorded_for_those_to_come(render: Render, chart: Any) -> None:
    made = {name: immutable(render(values)) for name, values in VARIATIONS.items()}
    if os.environ.get("RECORD"):
        (HERE / f"release-{chart.version}.json").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
        shutil.copy(CHART / "values.yaml", HERE / f"values-{chart.version}.yaml")
    assert chart.version in RELEASED
    assert json.loads((HERE / f"release-{chart.version}.json").read_text()) == made


class KubernetesWithSecrets(BaseHTTPRequestHandler):
    """As much of the API as Helm's ``lookup`` of a Secret asks for."""

    secrets: dict[tuple[str, str], dict[str, str]]

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        status, answer = (
            404,
            {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404},
        )
        if parts == ["api", "v1"]:
            resource = {
                "name": "secrets",
                "singularName": "secret",
                "kind": "Secret",
                "namespaced": True,
                "verbs": ["get"],
            }
            status, answer = 200, {"kind": "APIResourceList", "groupVersion": "v1", "resources": [resource]}
        elif parts[:2] == ["api", "v1"] and len(parts) == 6:
            found = self.secrets.get((parts[3], parts[5]))
            if found is not None:
                data = {key: base64.b64encode(value.encode()).decode() for key, value in found.items()}
                metadata = {"namespace": parts[3], "name": parts[5]}
                status, answer = (
                    200,
                    {"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "data": data},
                )
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[tuple[helm_python.Config, dict[tuple[str, str], dict[str, str]]]]:
    """Helm's connection to a cluster, and the Secrets in it."""
    secrets: dict[tuple[str, str], dict[str, str]] = {}
    handler = type("Handler", (KubernetesWithSecrets,), {"secrets": secrets})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "users": [{"name": "c", "user": {}}],
    }
    with helm_python.Config(kubeconfig_content=json.dumps(kubeconfig), namespace="ml") as config:
        yield config, secrets
    server.shutdown()
    server.server_close()


def secrets_of(files: dict[str, str]) -> dict[str, dict[str, str]]:
    documents = [one for text in files.values() for one in yaml.safe_load_all(text) if isinstance(one, dict)]
    return {
        one["metadata"]["name"]: {key: base64.b64decode(value).decode() for key, value in one["data"].items()}
        for one in documents
        if one.get("kind") == "Secret"
    }


def test_generated_passwords_stay_the_same_over_upgrades(cluster: Any, chart: Any) -> None:
    config, secrets = cluster

    def rendered(**options: Any) -> dict[str, dict[str, str]]:
        values = {name: text for name, text in config.render(chart, {}, name="ml", namespace="ml", **options).items()
                  if name.endswith(".yaml")}  # fmt: skip
        return secrets_of(values)

    first = rendered(is_install=True)
    assert first != rendered(is_install=True)
    for name in ("ml-mlflow-auth", "ml-postgresql"):
        secrets["ml", name] = first[name]
    assert rendered(is_upgrade=True) == first
    login = json.loads(first["ml-airflow-connections"]["AIRFLOW_CONN_MLFLOW_DEFAULT"])
    assert login["password"] == first["ml-mlflow-auth"]["password"]
