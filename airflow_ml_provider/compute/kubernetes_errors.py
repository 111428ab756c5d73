"""What the Kubernetes API's refusals mean, for people: the object, the namespace, the verb, and the fix."""

from __future__ import annotations

import json
import re
from typing import Any

from airflow_ml_provider.contract.errors import ConfigError, MLError, TransientError

# What the API server, a gateway before it, or the wire between says when nothing is known about the request.
_UNKNOWN = frozenset({0, 408, 409, 425, 429, 500, 502, 503, 504})
_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
)
_WEBHOOK = re.compile(r'admission webhook "(?P<name>[^"]+)" denied the request')


def is_unknown(error: BaseException) -> bool:
    """Whether a failed request says nothing about what it asked for; anything but a clear answer."""
    status = getattr(error, "status", None)
    return not isinstance(status, int) or status in _UNKNOWN


def api_error(error: BaseException, doing: str, kind: str, name: str, namespace: str) -> MLError:
    """A failed request as an error of ours.

    :param error: the client's exception: an ``ApiException``, or what the wire raised.
    :param doing: the verb, as RBAC spells it.
    :param kind: the resource, such as ``pods``.
    """
    where = f"{doing} {kind[:-1]} {name!r} in namespace {namespace!r}"
    if is_unknown(error):
        return TransientError(
            f"the Kubernetes API did not answer clearly to: {where} ({_short(error)})",
            kept="whatever runs in the cluster goes on; it is unknown whether the request was carried out",
            retry="a retry looks for the step's pod first, adopts it or reads its result, and starts one only "
            "if there is none",
        )
    status, message = int(getattr(error, "status", 0)), message_of(error)
    said = f"Kubernetes refused to {where}: {message}"
    if status == 401:
        return ConfigError(
            said, todo="check the credentials of the Kubernetes connection; they may have expired"
        )
    if status == 404 and "namespaces" in message:
        return ConfigError(said, todo=f"create it: kubectl create namespace {namespace}")
    if status == 403:
        return _forbidden(said, message, namespace)
    webhook = _WEBHOOK.search(message)
    if webhook:
        return ConfigError(
            said,
            todo=f"the admission webhook {webhook['name']} decides this: meet its rule, or ask who owns it",
        )
    if status in (400, 422):
        return ConfigError(said, todo="correct what it names in the KubernetesCompute or its pod_template")
    return ConfigError(said)


def message_of(error: BaseException) -> str:
    """What the API server said, without headers."""
    try:
        document: Any = json.loads(getattr(error, "body", None) or "")
        return str(document.get("message") or document.get("reason"))
    except (ValueError, AttributeError):
        return str(getattr(error, "reason", None) or error)


def _forbidden(said: str, message: str, namespace: str) -> MLError:
    rbac = _FORBIDDEN.search(message)
    if rbac:
        user, rule = (
            rbac["user"],
            f'apiGroups: ["{rbac["group"]}"], resources: ["{rbac["resource"]}"], verbs: ["{rbac["verb"]}"]',
        )
        return ConfigError(
            said,
            todo=f"give {user} a Role in namespace {namespace!r} with this rule: {{{rule}}}; the chart's Role has "
            "all that are needed, and `airflow-ml doctor` checks them",
        )
    if "exceeded quota" in message:
        return TransientError(
            said,
            kept="nothing was started",
            retry="a retry asks again; it is admitted once others have ended",
            todo="raise the ResourceQuota, ask for less in resources=, or limit how many run with an Airflow pool",
        )
    if "serviceaccount" in message.lower() and "not found" in message:
        found = re.search(r'service ?account [^ ]*?/?"?([a-z0-9.-]+)"? ?(?::|not found)', message)
        name = found[1] if found else "NAME"
        return ConfigError(
            said,
            todo=f"create it: kubectl create serviceaccount {name} -n {namespace}; or name another in service_account=",
        )
    if "violates PodSecurity" in message:
        return ConfigError(
            said, todo="keep the defaults of KubernetesCompute, or change what it names in pod_template="
        )
    webhook = _WEBHOOK.search(message)
    if webhook:
        return ConfigError(
            said,
            todo=f"the admission webhook {webhook['name']} decides this: meet its rule, or ask who owns it",
        )
    return ConfigError(
        said, todo="correct what it names in the KubernetesCompute, or have the namespace's limits changed"
    )


def _short(error: BaseException) -> str:
    status = getattr(error, "status", None)
    return (
        f"HTTP {status}: {message_of(error)[:200]}"
        if status
        else f"{type(error).__name__}: {str(error)[:200]}"
    )
