"""What the chart makes, in every variation, is what Kubernetes takes."""

from __future__ import annotations

import base64
import re
from typing import Any

import helm_python
import pytest
import yaml

from .conftest import CHART, KUBERNETES, REPOSITORY, VARIATIONS, Object, Render, errors_of, find, pods

NAMESPACED_OUT = ("Namespace", "ResourceFlavor", "ClusterQueue")


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_every_object_is_valid_by_the_schemas_of_kubernetes(rendered: list[Object], kubernetes: str) -> None:
    assert [error for one in rendered for error in errors_of(one, kubernetes)] == []


def test_the_schemas_do_find_mistakes() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"selectors": {}}}
    assert "selectors" in errors_of(service, KUBERNETES[0])[0]
    assert errors_of({"apiVersion": "v2", "kind": "Service", "metadata": {"name": "a"}}, KUBERNETES[0])


def test_helm_lint_finds_nothing() -> None:
    for values in VARIATIONS.values():
        report = helm_python.lint(CHART, values, strict=True, kube_version="v1.31.0")
        findings = [one["error"] for one in report["messages"] if "icon" not in one["error"]]
        assert (findings, report["errors"]) == ([], [])


def test_every_object_names_its_namespace_and_carries_the_labels_of_the_release(
    rendered: list[Object],
) -> None:
    for one in rendered:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "ml"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert ("namespace" in one["metadata"]) == (one["kind"] not in NAMESPACED_OUT), one["metadata"][
            "name"
        ]


def test_no_object_is_made_twice(rendered: list[Object]) -> None:
    ids = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in rendered]
    assert len(ids) == len(set(ids))


def test_services_and_disruption_budgets_select_the_pods_they_are_for(rendered: list[Object]) -> None:
    templates = [template["metadata"]["labels"] for template in pods(rendered).values()]
    for one in rendered:
        if one["kind"] in ("Service", "PodDisruptionBudget"):
            selector = one["spec"]["selector"]
            selector = selector.get("matchLabels", selector)
            selected = [labels for labels in templates if selector.items() <= labels.items()]
            assert len(selected) == 1, one["metadata"]["name"]


def test_a_pod_finds_all_that_it_mounts_and_reads(rendered: list[Object]) -> None:
    made = {(one["kind"], one["metadata"]["name"]) for one in rendered}
    theirs = {"s3", "db", "mlflow-login", "database-password"}
    for template in pods(rendered).values():
        assert ("ServiceAccount", template["spec"]["serviceAccountName"]) in made
        text = yaml.safe_dump(template)
        for name in re.findall(r"claimName: (\S+)", text):
            assert ("PersistentVolumeClaim", name) in made
        for name in re.findall(r"configMap:\n +name: (\S+)", text):
            assert ("ConfigMap", name) in made
        for name in re.findall(r"secretKeyRef:\n +key: \S+\n +name: (\S+)", text):
            assert ("Secret", name) in made or name in theirs


def test_quota_and_limits_are_on_the_namespace_of_the_steps(render: Render) -> None:
    objects = render(VARIATIONS["steps in a namespace of their own"])
    for kind in ("ResourceQuota", "LimitRange"):
        assert find(objects, kind, "ml-steps")["metadata"]["namespace"] == "ml-steps"
    namespace = find(objects, "Namespace", "ml-steps")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert namespace["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_claims_with_data_in_them_outlive_the_release(rendered: list[Object]) -> None:
    for one in rendered:
        if one["kind"] == "PersistentVolumeClaim":
            assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_mlflow_on_a_volume_of_one_node_is_replaced_and_not_rolled(render: Render) -> None:
    def strategy(values: dict[str, Any]) -> str:
        return str(find(render(values), "Deployment", "ml-mlflow")["spec"]["strategy"]["type"])

    assert strategy({}) == "Recreate"
    assert strategy(VARIATIONS["s3 and workload identity"]) == "RollingUpdate"


def test_mlflow_answers_to_its_names_in_the_cluster_and_to_those_in_the_values(render: Render) -> None:
    deployment = find(render(VARIATIONS["placed and exposed"]), "Deployment", "ml-mlflow")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    hosts = next(one for one in arguments if one.startswith("--allowed-hosts=")).partition("=")[2].split(",")
    assert {"ml-mlflow.ml:*", "ml-mlflow.ml.svc.cluster.local:*", "mlflow.example.com"} <= set(hosts)
    assert "*" not in hosts
    assert "--cors-allowed-origins=https://mlflow.example.com" in arguments


def test_airflow_is_given_the_connection_to_this_mlflow(render: Render) -> None:
    secret = find(render(VARIATIONS["placed and exposed"]), "Secret", "ml-airflow-connections")
    assert secret["metadata"]["namespace"] == "airflow"
    connection = yaml.safe_load(base64.b64decode(secret["data"]["AIRFLOW_CONN_MLFLOW_DEFAULT"]))
    password = connection.pop("password")
    assert connection == {
        "conn_type": "mlflow",
        "host": "http://ml-mlflow.ml",
        "port": 80,
        "login": "airflow",
    }
    assert len(password) == 32


def test_queues_are_made_for_the_version_of_kueue_that_is_named(render: Render) -> None:
    for version, expected in (("", "v1beta1"), ("v1beta2", "v1beta2")):
        values = {"kueue": {**VARIATIONS["queues"]["kueue"], "apiVersion": version}}
        kinds = {
            one["kind"]: one for one in render(values) if one["apiVersion"] == f"kueue.x-k8s.io/{expected}"
        }
        assert set(kinds) == {"ResourceFlavor", "ClusterQueue", "LocalQueue"}
        group = kinds["ClusterQueue"]["spec"]["resourceGroups"][0]
        assert group["coveredResources"] == ["cpu", "memory", "nvidia.com/gpu"]
        assert group["flavors"][0]["name"] == kinds["ResourceFlavor"]["metadata"]["name"]
        assert kinds["LocalQueue"]["spec"]["clusterQueue"] == kinds["ClusterQueue"]["metadata"]["name"]


def test_the_notes_say_what_to_do_next(chart: Any) -> None:
    notes = chart.render({}, name="ml", namespace="ml")["airflow-ml/templates/NOTES.txt"]
    assert "kubectl --namespace ml port-forward service/ml-mlflow 5000:5000" in notes
    assert '"service_account": "ml-step"' in notes


def test_the_version_of_the_chart_is_that_of_the_provider() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text()
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'version = "{about["appVersion"]}"' in project
