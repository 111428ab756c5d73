"""Least privilege, and no password where it can be read."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from airflow_ml_provider.compute.permissions import PERMISSIONS, SPARK_PERMISSIONS, Permission

from .conftest import VARIATIONS, Object, Render, containers, find, pods

STEP_LABELS = {
    "app.kubernetes.io/managed-by": "airflow-ml-provider",
    "app.kubernetes.io/component": "step",
    "airflow-ml/verb": "train",
    "airflow-ml/step-key": "a",
}


SPARK = "steps on Spark"


@pytest.mark.parametrize("variation", [name for name in VARIATIONS if name != SPARK])
def test_airflow_may_do_what_the_provider_calls_and_nothing_else(render: Render, variation: str) -> None:
    assert granted(render(VARIATIONS[variation])) == rules_of(PERMISSIONS), (
        "helm/airflow-ml/templates/airflow/rbac.yaml differs from compute/permissions.py"
    )


def test_airflow_may_make_spark_applications_where_the_values_say_so(render: Render) -> None:
    assert granted(render(VARIATIONS[SPARK])) == rules_of((*PERMISSIONS, *SPARK_PERMISSIONS))


def granted(objects: list[Object]) -> dict[tuple[str, str], set[str]]:
    """What the Role of Airflow has."""
    return {
        (group, resource): set(rule["verbs"])
        for rule in find(objects, "Role", "ml-airflow")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def rules_of(permissions: tuple[Permission, ...]) -> dict[tuple[str, str], set[str]]:
    needed: dict[tuple[str, str], set[str]] = {}
    for one in permissions:
        needed.setdefault((one.group, one.resource), set()).update(one.verbs)
    return needed


def test_only_the_named_accounts_of_airflow_may_do_it(render: Render) -> None:
    objects = render({"airflow": {"namespace": "orchestration", "serviceAccounts": ["worker", "triggerer"]}})
    binding = find(objects, "RoleBinding", "ml-airflow")
    assert binding["roleRef"]["name"] == "ml-airflow"
    assert [(one["kind"], one["namespace"], one["name"]) for one in binding["subjects"]] == [
        ("ServiceAccount", "orchestration", "worker"),
        ("ServiceAccount", "orchestration", "triggerer"),
    ]
    assert [one for one in objects if one["kind"].startswith("ClusterRole")] == []


def test_no_account_here_has_a_token_of_the_cluster(rendered: list[Object]) -> None:
    accounts = [one for one in rendered if one["kind"] == "ServiceAccount"]
    assert accounts
    assert all(one["automountServiceAccountToken"] is False for one in accounts)
    assert all(pod["spec"]["automountServiceAccountToken"] is False for pod in pods(rendered).values())


def test_every_pod_meets_the_restricted_standard_with_a_read_only_root(rendered: list[Object]) -> None:
    for name, pod in pods(rendered).items():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(pod["spec"].get(word) for word in ("hostNetwork", "hostPID", "hostIPC"))
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"])


def test_every_server_says_whether_it_is_ready(rendered: list[Object]) -> None:
    for pod in pods(rendered).values():
        for container in pod["spec"]["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()


def test_passwords_come_from_secrets_only(rendered: list[Object]) -> None:
    for pod in pods(rendered).values():
        for container in containers(pod):
            for variable in container["env"]:
                if any(word in variable["name"] for word in ("PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY")):
                    assert "secretKeyRef" in variable["valueFrom"], variable["name"]


def test_a_generated_password_is_in_no_object_but_secrets(rendered: list[Object]) -> None:
    secrets = [one for one in rendered if one["kind"] == "Secret"]
    passwords = {
        base64.b64decode(value).decode()
        for one in secrets
        for key, value in one["data"].items()
        if key in ("password", "flask-secret-key")
    }
    others = json.dumps([one for one in rendered if one["kind"] != "Secret"])
    assert not any(password in others for password in passwords)
    assert all(len(password) >= 32 for password in passwords)


def test_with_secrets_that_exist_none_is_made(render: Render) -> None:
    objects = render(VARIATIONS["secrets that exist"])
    assert [one["metadata"]["name"] for one in objects if one["kind"] == "Secret"] == []
    named = json.dumps(pods(objects))
    assert '"name": "mlflow-login"' in named
    assert '"name": "database-password"' in named


def test_without_passwords_mlflow_asks_for_none(render: Render) -> None:
    objects = render(VARIATIONS["no passwords"])
    assert "--app-name=basic-auth" not in json.dumps(pods(objects))
    connection = base64.b64decode(
        find(objects, "Secret", "ml-airflow-connections")["data"]["AIRFLOW_CONN_MLFLOW_DEFAULT"]
    )
    assert b"password" not in connection


# Who may speak to whom.


def policy(objects: list[Object], name: str) -> Any:
    return find(objects, "NetworkPolicy", name)["spec"]


def peers(rules: list[Object], port: int) -> list[Any]:
    """Who the rules allow on a port."""
    return [
        peer
        for rule in rules
        if port in [one["port"] for one in rule["ports"]]
        for peer in rule.get("to", rule.get("from", []))
    ]


def selects(selector: Any, labels: dict[str, str]) -> bool:
    """Whether a label selector matches."""
    expressions = all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ()))
    return selector.get("matchLabels", {}).items() <= labels.items() and expressions


def test_what_no_policy_allows_is_forbidden_in_both_namespaces(render: Render) -> None:
    objects = render(VARIATIONS["steps in a namespace of their own"])
    denials = [one for one in objects if one["metadata"]["name"] == "ml-default-deny"]
    assert sorted(one["metadata"]["namespace"] for one in denials) == ["ml", "ml-steps"]
    for one in denials:
        assert one["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_airflow_in_the_same_namespace_is_left_alone(render: Render) -> None:
    objects = render(VARIATIONS["laptop"])
    denial = policy(objects, "ml-default-deny")["podSelector"]
    assert not selects(denial, {"tier": "airflow", "component": "scheduler", "release": "airflow"})
    assert not selects(
        denial, {"app.kubernetes.io/name": "postgresql", "app.kubernetes.io/component": "primary"}
    )
    assert selects(denial, STEP_LABELS)
    for template in pods(objects).values():
        assert selects(denial, template["metadata"]["labels"])


def test_steps_reach_dns_mlflow_and_https_and_nobody_reaches_them(render: Render) -> None:
    objects = render()
    steps = policy(objects, "ml-steps")
    assert selects(steps["podSelector"], STEP_LABELS)
    assert "ingress" not in steps
    assert "Ingress" in steps["policyTypes"]
    ports = sorted({port["port"] for rule in steps["egress"] for port in rule["ports"]})
    assert ports == [53, 443, 5000]
    (mlflow,) = peers(steps["egress"], 5000)
    assert selects(mlflow["podSelector"], pods(objects)["ml-mlflow"]["metadata"]["labels"])
    assert not selects(mlflow["podSelector"], pods(objects)["ml-postgresql"]["metadata"]["labels"])


def test_drivers_and_executors_of_spark_reach_each_other_and_no_other_step_does(render: Render) -> None:
    executor = {
        "app.kubernetes.io/managed-by": "airflow-ml-provider", "app.kubernetes.io/component": "executor",
        "spark-role": "executor",
    }  # fmt: skip
    driver = {**STEP_LABELS, "spark-role": "driver"}
    objects = render(VARIATIONS[SPARK])
    spark = policy(objects, "ml-spark")
    [[inside]] = [rule["from"] for rule in spark["ingress"]]
    for selector in (spark["podSelector"], inside["podSelector"], spark["egress"][0]["to"][0]["podSelector"]):
        assert selects(selector, driver)
        assert selects(selector, executor)
        assert not selects(selector, STEP_LABELS)
        assert not selects(selector, {"spark-role": "driver"})
    assert [port["port"] for port in spark["egress"][1]["ports"]] == [443, 6443]
    assert peers(spark["egress"][2:], 5000)
    assert any(
        selects(peer["podSelector"], executor)
        for peer in peers(policy(objects, "ml-mlflow")["ingress"], 5000)
        if "podSelector" in peer
    )
    denial = policy(render({**VARIATIONS["laptop"], **VARIATIONS[SPARK]}), "ml-default-deny")["podSelector"]
    assert selects(denial, executor)


def test_mlflow_is_reached_by_steps_and_airflow_only(render: Render) -> None:
    objects = render()
    mlflow = policy(objects, "ml-mlflow")
    assert selects(mlflow["podSelector"], pods(objects)["ml-mlflow"]["metadata"]["labels"])
    steps, airflow = peers(mlflow["ingress"], 5000)
    assert selects(steps["podSelector"], STEP_LABELS)
    assert not selects(steps["podSelector"], {"app": "somebody"})
    assert steps["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ml"}
    assert airflow == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "airflow"}}}


def test_postgresql_is_reached_by_mlflow_only_and_reaches_nobody(render: Render) -> None:
    objects = render()
    database = policy(objects, "ml-postgresql")
    assert "egress" not in database
    (only,) = peers(database["ingress"], 5432)
    assert set(only) == {"podSelector"}
    assert selects(only["podSelector"], pods(objects)["ml-mlflow"]["metadata"]["labels"])
    assert not selects(only["podSelector"], STEP_LABELS)


@pytest.mark.parametrize("name", ["s3 and a secret, on a server in the cluster"])
def test_the_values_open_more_where_they_say_so(render: Render, name: str) -> None:
    objects = render(VARIATIONS[name])
    for one in ("ml-steps", "ml-mlflow"):
        assert peers(policy(objects, one)["egress"], 9000)
