"""What the API server serves, how it selects objects, and the failures it answers with."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

Object = dict[str, Any]


class Kind(NamedTuple):
    """A served resource: ``pods`` is Kind("Pod", "", "v1")."""

    name: str
    group: str
    version: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}".lstrip("/")


KINDS = {
    "pods": Kind("Pod", "", "v1"),
    "events": Kind("Event", "", "v1"),
    "secrets": Kind("Secret", "", "v1"),
    "configmaps": Kind("ConfigMap", "", "v1"),
    "serviceaccounts": Kind("ServiceAccount", "", "v1"),
    "resourcequotas": Kind("ResourceQuota", "", "v1"),
    "limitranges": Kind("LimitRange", "", "v1"),
    "namespaces": Kind("Namespace", "", "v1", namespaced=False),
    "jobs": Kind("Job", "batch", "v1"),
    "sparkapplications": Kind("SparkApplication", "sparkoperator.k8s.io", "v1beta2"),
}
GROUPS = {"": ["v1"], "batch": ["v1"], "sparkoperator.k8s.io": ["v1beta2"]}
GROUPS |= {"authorization.k8s.io": ["v1"], "authentication.k8s.io": ["v1"]}
ONLY_METADATA = {"metadata.name", "metadata.namespace"}
FIELDS = {
    "pods": ONLY_METADATA
    | {f"spec.{name}" for name in ("nodeName", "restartPolicy", "schedulerName", "serviceAccountName")}
    | {"status.phase", "status.podIP"},
    "events": ONLY_METADATA
    | {f"involvedObject.{name}" for name in ("kind", "namespace", "name", "uid", "apiVersion", "fieldPath")}
    | {"reason", "type"},
    "jobs": ONLY_METADATA | {"status.successful"},
    "secrets": ONLY_METADATA | {"type"},
}


class ApiError(Exception):
    """A request the API server refuses; ``status`` is the body a client reads."""

    def __init__(self, code: int, reason: str, message: str, **details: Any):
        super().__init__(message)
        self.code = code
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        if details:
            self.status["details"] = details


def qualified(resource: str) -> str:
    """``jobs.batch``: how messages name a resource."""
    kind = KINDS.get(resource)
    return f"{resource}.{kind.group}" if kind and kind.group else resource


def not_found(resource: str, name: str) -> ApiError:
    message = f'{qualified(resource)} "{name}" not found'
    return ApiError(404, "NotFound", message, name=name, **_of(resource))


def conflict(resource: str, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {qualified(resource)} "{name}": {why}'
    return ApiError(409, "Conflict", message, name=name, **_of(resource))


def forbidden(resource: str, name: str, why: str) -> ApiError:
    message = f'{qualified(resource)} "{name}" is forbidden: {why}'
    return ApiError(403, "Forbidden", message, name=name, **_of(resource))


def invalid(resource: str, name: str, field: str, why: str) -> ApiError:
    kind = KINDS[resource]
    shown = f"{kind.name}.{kind.group}" if kind.group else kind.name
    code = {
        "Required": "FieldValueRequired",
        "Not": "FieldValueNotFound",
        "Forbidden:": "FieldValueForbidden",
    }
    cause = {"reason": code.get(why.split()[0], "FieldValueInvalid"), "message": why, "field": field}
    group = {"group": kind.group} if kind.group else {}
    message = f'{shown} "{name}" is invalid: {field}: {why}'
    return ApiError(422, "Invalid", message, name=name, kind=kind.name, **group, causes=[cause])


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def expired(asked: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def _of(resource: str) -> Object:
    kind = KINDS.get(resource)
    return {"kind": resource, "group": kind.group} if kind and kind.group else {"kind": resource}


def now(*, micro: bool = False) -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def seconds_since(text: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()


def dig(obj: Any, path: str, default: Any = None) -> Any:
    """``dig(pod, "status.phase")``; the default where any part is missing."""
    for part in path.split("."):
        if not isinstance(obj, dict) or obj.get(part) is None:
            return default
        obj = obj[part]
    return obj


def condition(obj: Object, kind: str) -> Object | None:
    """The condition of this type, whatever its status."""
    return next((each for each in dig(obj, "status.conditions", []) if each["type"] == kind), None)


def holds(obj: Object, kind: str) -> bool:
    return (condition(obj, kind) or {}).get("status") == "True"


def set_condition(status: Object, kind: str, value: str, reason: str = "", message: str = "") -> None:
    """Sets a condition as controllers do: the transition time moves only when the status does."""
    conditions = status.setdefault("conditions", [])
    old = next((each for each in conditions if each["type"] == kind), None)
    at = old["lastTransitionTime"] if old and old["status"] == value else now()
    new = {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": at}
    new |= {key: text for key, text in (("reason", reason), ("message", message)) if text}
    if old is None:
        conditions.append(new)
    else:
        conditions[conditions.index(old)] = new


class Selector:
    """``labelSelector`` and ``fieldSelector`` of a request."""

    def __init__(self, resource: str, labels: str = "", fields: str = "", namespace: str = ""):
        self.resource, self.namespace = resource, namespace
        self.labels = [part.strip() for part in re.split(r",(?![^(]*\))", labels) if part.strip()]
        self.fields = [re.match(r"(.+?)(!=|==?)(.*)", part) for part in fields.split(",") if part]
        for match in self.fields:
            if match is None:
                raise bad_request(f"invalid selector: {fields!r}")
            if match[1] not in FIELDS.get(self.resource, ONLY_METADATA):
                raise bad_request(f"field label not supported: {match[1]}")

    def matches(self, obj: Object) -> bool:
        if self.namespace and obj["metadata"].get("namespace") != self.namespace:
            return False
        labels = dig(obj, "metadata.labels", {})
        return all(_label_matches(part, labels) for part in self.labels) and all(
            (str(dig(obj, field[1], "")) == field[3]) == (field[2] != "!=") for field in self.fields if field
        )


def _label_matches(part: str, labels: dict[str, str]) -> bool:
    if match := re.fullmatch(r"(\S+)\s+(in|notin)\s+\((.*)\)", part):
        chosen = {value.strip() for value in match[3].split(",")}
        return (labels.get(match[1]) in chosen) == (match[2] == "in")
    if match := re.fullmatch(r"([^!=\s]+)\s*(!=|==?)\s*([\w.-]*)", part):
        return (labels.get(match[1]) == match[3]) == (match[2] != "!=")
    if re.fullmatch(r"!?[\w./-]+", part):
        return (part.lstrip("!") in labels) != part.startswith("!")
    raise bad_request(f"unable to parse requirement: {part!r}")
