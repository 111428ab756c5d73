"""Checks of a cluster: the API, what we may do there, what a pod needs to exist, and whether it would be admitted.

Only what the provider's Role grants is asked for; what it does not is found out by a server-side dry run.
"""

from __future__ import annotations

import base64
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.cli.doctor_findings import Finding, fail, ok, skip
from airflow_ml_provider.cli.doctor_services import Deployment
from airflow_ml_provider.cli.doctor_spark import check_operator
from airflow_ml_provider.compute.kubernetes_errors import is_unknown, message_of
from airflow_ml_provider.compute.permissions import SPARK_PERMISSIONS, Permission, needed_by
from airflow_ml_provider.compute.spark_kubernetes import SparkKubernetesCompute
from airflow_ml_provider.contract.errors import ConfigError, MLError

if TYPE_CHECKING:
    from airflow_ml_provider.compute.cluster import Cluster
    from airflow_ml_provider.compute.pods import StepPod

# What the check in a pod asks for; without credentials, no Secret is made.
POD_NEEDS = ("create pods", "get pods", "delete pods", "get pods/log")
CREDENTIALS_NEED = ("patch pods", "create secrets", "get secrets")
_TIMEOUT = 15


def cluster_checks(step: StepPod, found: Deployment) -> Generator[Finding, None, list[str] | None]:
    """All but the pod itself.

    :returns: the permissions that are missing, as "verb resource"; None if a pod could not be made anyway.
    """
    cluster = step.cluster
    answers = _api(cluster, step.compute.conn_id)
    yield answers
    if answers.status != "ok":
        for check in ("permissions", "admission"):
            yield skip(check, "the Kubernetes API does not answer")
        return None
    user, needed = _user(cluster), needed_by(step.compute)
    missing = yield from _permissions(cluster, user, needed)
    if isinstance(step.compute, SparkKubernetesCompute):
        yield check_operator(cluster, missing)
    try:
        document = step.document(deadline=None)
    except MLError as error:
        yield fail("admission", error)
        return None
    # Its own Secret comes with the pod.
    named = set(_named_in(document["spec"])) - {("secret", step.name)}
    yield from _needed(cluster, named, found)
    if "create pods" in missing:
        everything = sum(len(permission.verbs) for permission in needed)
        # Whoever has no right in a namespace is not told whether there is one.
        doubt = f"; is there a namespace {cluster.namespace!r}?" if len(missing) == everything else ""
        yield skip("admission", f"needs the permission to create pods{doubt}")
        return missing
    admitted = _admission(cluster, document)
    yield admitted
    return None if admitted.status == "FAIL" else missing


def _api(cluster: Cluster, conn_id: str) -> Finding:
    from airflow.sdk.exceptions import AirflowNotFoundException
    from kubernetes.client import VersionApi

    try:
        client = cluster.hook.api_client
        version = VersionApi(client).get_code(_request_timeout=_TIMEOUT)
        return ok(
            "Kubernetes",
            f"the API at {client.configuration.host} answers, version {version.git_version}; steps go to the "
            f"namespace {cluster.namespace!r}",
        )
    except MLError as error:
        return fail("Kubernetes", error)
    except AirflowNotFoundException:
        return fail(
            "Kubernetes",
            f"there is no Airflow connection {conn_id!r}",
            "add it (type Kubernetes), or name another one in conn_id=",
            object=f"connection {conn_id}",
        )
    except Exception as error:
        status = getattr(error, "status", None)
        said = f"HTTP {status}: {message_of(error)}" if status else f"{type(error).__name__}: {error}"[:300]
        todo = (
            "check the address in the Kubernetes connection or kubeconfig, and that it is reachable from here"
        )
        if not is_unknown(error):
            todo = "check the credentials of the Kubernetes connection or kubeconfig; they may have expired"
        return fail("Kubernetes", f"the API does not answer: {said}", todo, verb="get version")


def _user(cluster: Cluster) -> str:
    """Who we are there, for messages."""
    from kubernetes.client import AuthenticationV1Api

    try:
        answer = AuthenticationV1Api(cluster.hook.api_client).create_self_subject_review(
            {}, _request_timeout=_TIMEOUT
        )
        return str(answer.status.user_info.username)
    except Exception:
        return "the user of the Kubernetes connection"


def _permissions(
    cluster: Cluster, user: str, needed: Sequence[Permission]
) -> Generator[Finding, None, list[str]]:
    missing: list[str] = []
    asked, namespace = 0, cluster.namespace
    for permission in needed:
        for verb in permission.verbs:
            asked += 1
            try:
                allowed = _may(cluster, permission.group, permission.resource, verb)
            except MLError as error:
                yield fail("permissions", error, namespace=namespace)
                return ["create pods"]
            if allowed:
                continue
            missing.append(f"{verb} {permission.resource}")
            rule = (
                f'apiGroups: ["{permission.group}"], resources: ["{permission.resource}"], verbs: ["{verb}"]'
            )
            yield fail(
                "permissions",
                f"{user} may not {verb} {permission.resource} in namespace {namespace!r} ({permission.why})",
                f"give {user} a Role in namespace {namespace!r} with this rule: {{{rule}}}; the chart's Role "
                f"{_has_it(permission)}",
                object=permission.resource, namespace=namespace, verb=verb,
            )  # fmt: skip
    if not missing:
        yield ok("permissions", f"{user} has all {asked} that are needed in namespace {namespace!r}")
    return missing


def _has_it(permission: Permission) -> str:
    return "has it with spark.enabled=true" if permission in SPARK_PERMISSIONS else "has it"


def _may(cluster: Cluster, group: str, resource: str, verb: str) -> bool:
    from kubernetes.client import AuthorizationV1Api

    name, _, sub = resource.partition("/")
    asked = {
        "namespace": cluster.namespace,
        "group": group,
        "resource": name,
        "subresource": sub,
        "verb": verb,
    }
    review = {"spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}}}
    api = AuthorizationV1Api(cluster.hook.api_client)
    answer = cluster.ask(
        "create",
        "selfsubjectaccessreviews",
        f"{verb} {resource}",
        lambda: api.create_self_subject_access_review(review, _request_timeout=_TIMEOUT),
    )
    return answer is not None and bool(answer.status.allowed)


def _needed(cluster: Cluster, named: set[tuple[str, str]], found: Deployment) -> Iterator[Finding]:
    """That the Secrets and claims which the pod names exist, where we may read them."""
    for kind, name in sorted(named):
        resource, read = "secrets", cluster.core.read_namespaced_secret
        if kind == "claim":
            resource, read = "persistentvolumeclaims", cluster.core.read_namespaced_persistent_volume_claim
        try:
            if not _may(cluster, "", resource, "get"):
                found.unread = found.unread or kind == "secret"
                yield skip("objects", f"{kind} {name!r} may not be read by us; the pod will tell")
                continue
            there = read(name, cluster.namespace, _request_timeout=_TIMEOUT)
        except Exception as error:
            if getattr(error, "status", None) == 404:
                yield fail(
                    "objects", f"there is no {kind} {name!r} in namespace {cluster.namespace!r}",
                    f"create it: kubectl create secret generic {name} -n {cluster.namespace} --from-env-file=FILE"
                    if kind == "secret" else "create it, or name another in volumes=",
                    object=f"{kind} {name}", namespace=cluster.namespace, verb="get",
                )  # fmt: skip
            else:
                found.unread = found.unread or kind == "secret"
                status = getattr(error, "status", None) or type(error).__name__
                yield skip("objects", f"{kind} {name!r} could not be read ({status}); the pod will tell")
            continue
        if kind == "secret":
            found.secrets.update(_values(there))
        yield ok("objects", f"{kind} {name!r} exists in namespace {cluster.namespace!r}")


def _named_in(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for one in spec.get("imagePullSecrets") or []:
        yield "secret", one["name"]
    for volume in spec.get("volumes") or []:
        secret, claim = volume.get("secret") or {}, volume.get("persistentVolumeClaim") or {}
        if secret.get("secretName") and not secret.get("optional"):
            yield "secret", secret["secretName"]
        if claim.get("claimName"):
            yield "claim", claim["claimName"]
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        references = [each.get("secretRef") for each in container.get("envFrom") or []]
        references += [
            (each.get("valueFrom") or {}).get("secretKeyRef") for each in container.get("env") or []
        ]
        for reference in references:
            if reference and not reference.get("optional"):
                yield "secret", reference["name"]


def _values(secret: Any) -> Iterator[str]:
    for encoded in (secret.data or {}).values():
        yield from base64.b64decode(encoded).decode(errors="replace").splitlines()


def _admission(cluster: Cluster, pod: dict[str, Any]) -> Finding:
    """Whether the API server would take the step's pod; it goes through all of admission and is not stored."""
    name, namespace = pod["metadata"]["name"], cluster.namespace
    about = {"object": f"pod {name}", "namespace": namespace, "verb": "create"}
    try:
        taken = cluster.ask(
            "create", "pods", name,
            lambda: cluster.core.create_namespaced_pod(namespace, pod, dry_run="All", _request_timeout=_TIMEOUT),
        )  # fmt: skip
    except ConfigError as error:
        if "does not support dry run" in error.what:
            return skip("admission", f"cannot be tried without making a pod: {error.what}")
        return fail("admission", error, **about)
    except MLError as error:
        return fail("admission", error, **about)
    if taken is None:
        return fail(
            "admission", f"Kubernetes refused to create pod {name!r}: there is no namespace {namespace!r}",
            f"create it: kubectl create namespace {namespace}; or name another in namespace=",
            **{**about, "object": f"namespace {namespace}"},
        )  # fmt: skip
    account = taken.spec.service_account_name or "default"
    return ok(
        "admission", f"a step's pod would be admitted in namespace {namespace!r}, service account {account!r}"
    )
