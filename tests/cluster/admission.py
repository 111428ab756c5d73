"""What a request passes before it is stored: permission, defaults, validation, service accounts, quota."""

from __future__ import annotations

import base64
import binascii
import re
from decimal import Decimal

from .kinds import KINDS, ApiError, Object, bad_request, dig, forbidden, invalid, qualified
from .objects import Store
from .quantities import parse, pod_requests, show

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character"
)
QUEUE = "kueue.x-k8s.io/queue-name"
GATE = "kueue.x-k8s.io/admission"
BAD_ENV = (
    'Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field '
    "EnvVar.spec.containers.env.value of type string"
)
JOB_LABELS = ("controller-uid", "batch.kubernetes.io/controller-uid")
FIXED_JOB_FIELDS = (
    "selector",
    "completionMode",
    "podFailurePolicy",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
)


class Admission:
    """Who may do what (``denied``), and what an object must be before it is stored."""

    def __init__(self, store: Store, user: str):
        self.store, self.user = store, user
        self.denied: set[tuple[str, str, str | None]] = set()
        self.suspend_jobs = False

    def allows(self, verb: str, resource: str, namespace: str) -> bool:
        return not any(
            (verb, resource, scope) in self.denied or ("*", resource, scope) in self.denied
            for scope in (None, namespace)
        )

    def authorize(self, verb: str, resource: str, namespace: str, name: str) -> None:
        if self.allows(verb, resource, namespace):
            return
        base = resource.split("/")[0]
        group = KINDS[base].group if base in KINDS else ""
        named = f'{qualified(base)} "{name}"' if name else qualified(base)
        where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
        message = (
            f'{named} is forbidden: User "{self.user}" cannot {verb} resource "{resource}" '
            f'in API group "{group}"{where}'
        )
        raise ApiError(403, "Forbidden", message, name=name, kind=base, group=group)

    def admit(self, resource: str, namespace: str, obj: Object) -> Object:
        """The object as it would be stored, defaults filled in.

        :raises ApiError: what the API server would answer.
        """
        if KINDS[resource].namespaced and self.store.find("namespaces", "", namespace) is None:
            raise ApiError(
                404, "NotFound", f'namespaces "{namespace}" not found', name=namespace, kind="namespaces"
            )
        _check_metadata(resource, namespace, obj)
        if resource == "secrets":
            _admit_secret(obj)
        if resource == "jobs":
            _check_pod_spec("jobs", obj, dig(obj, "spec.template.spec", {}), "spec.template.spec")
            self._default_job(obj)
        if resource == "pods":
            _check_pod_spec("pods", obj, obj.get("spec") or {}, "spec")
            self._admit_pod(namespace, obj)
        return obj

    def check_update(self, resource: str, before: Object, after: Object) -> None:
        """Refuses a change of what cannot change."""
        old, new, name = before.get("spec") or {}, after.get("spec") or {}, after["metadata"]["name"]
        _check_metadata(resource, before["metadata"].get("namespace", ""), after)
        if resource == "secrets":
            _admit_secret(after)
            if before.get("immutable") and after.get("data") != before.get("data"):
                raise invalid(resource, name, "data", "Forbidden: field is immutable when `immutable` is set")
        if resource == "jobs":
            fixed = [*FIXED_JOB_FIELDS, *([] if old.get("suspend") else ["template"])]
            for field in fixed:
                if old.get(field) != new.get(field):
                    raise invalid(resource, name, f"spec.{field}", "Invalid value: field is immutable")
        if resource == "pods":
            loose = ("activeDeadlineSeconds", "tolerations", "schedulingGates", "nodeName")
            strict = [
                {key: value for key, value in spec.items() if key not in loose}
                | {"containers": [{**each, "image": ""} for each in spec["containers"]]}
                for spec in (old, new)
            ]
            if strict[0] != strict[1]:
                why = (
                    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
                    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations`"
                )
                raise invalid(resource, name, "spec", why)

    def refresh_quotas(self) -> None:
        """Writes what each quota has used, as the quota controller does."""
        for quota in self.store.list("resourcequotas"):
            meta = quota["metadata"]
            used = {item: show(self._used(meta["namespace"], item)) for item in quota["spec"]["hard"]}
            status = {"hard": quota["spec"]["hard"], "used": used}
            if quota.get("status") != status:
                self.store.update(
                    "resourcequotas",
                    meta["namespace"],
                    meta["name"],
                    lambda new, to=status: new.update(status=to),
                )

    def check_quota(self, resource: str, namespace: str, obj: Object) -> None:
        wanted = _usage(resource, obj)
        name = obj["metadata"].get("name") or obj["metadata"]["generateName"]
        for quota in self.store.list("resourcequotas"):
            if quota["metadata"]["namespace"] != namespace:
                continue
            hard, called = quota["spec"]["hard"], quota["metadata"]["name"]
            if resource == "pods":
                for item in hard:
                    if item.startswith(("requests.", "limits.")) and item not in wanted and "gpu" not in item:
                        missing = ",".join(each["name"] for each in obj["spec"]["containers"])
                        why = f"failed quota: {called}: must specify {item} for: {missing}"
                        raise forbidden("pods", name, why)
            over = {
                item: (wanted[item], self._used(namespace, item), parse(hard[item]))
                for item in hard
                if item in wanted and self._used(namespace, item) + wanted[item] > parse(hard[item])
            }
            if over:
                asked, used, limit = (
                    ",".join(f"{item}={show(over[item][part])}" for item in sorted(over)) for part in range(3)
                )
                why = f"exceeded quota: {called}, requested: {asked}, used: {used}, limited: {limit}"
                raise forbidden(resource, name, why)

    def _used(self, namespace: str, item: str) -> Decimal:
        resources = [item.split("/")[1].split(".")[0]] if item.startswith("count/") else [item, "pods"]
        return sum(
            (
                _usage(resource, obj).get(item, Decimal(0))
                for resource in dict.fromkeys(resources)
                if resource in KINDS
                for obj in self.store.list(resource)
                if obj["metadata"].get("namespace") == namespace
                and dig(obj, "status.phase") not in ("Succeeded", "Failed")
            ),
            Decimal(0),
        )

    def _admit_pod(self, namespace: str, pod: Object) -> None:
        spec, meta = pod["spec"], pod["metadata"]
        name = meta.get("name") or meta["generateName"]
        account = spec.setdefault("serviceAccountName", "default")
        spec["serviceAccount"] = account
        if self.store.find("serviceaccounts", namespace, account) is None:
            missing = f'serviceaccount "{account}" not found'
            raise forbidden(
                "pods", name, f"error looking up service account {namespace}/{account}: {missing}"
            )
        self._apply_limit_ranges(namespace, name, spec)
        _default_pod_spec(spec)
        if self.suspend_jobs and QUEUE in meta.get("labels", {}):
            spec.setdefault("schedulingGates", []).append({"name": GATE})
        pod["status"] = {"phase": "Pending", "qosClass": _qos_class(spec)}

    def _apply_limit_ranges(self, namespace: str, name: str, spec: Object) -> None:
        for limits in self.store.list("limitranges"):
            if limits["metadata"]["namespace"] != namespace:
                continue
            for rule in limits["spec"]["limits"]:
                for container in spec["containers"]:
                    resources = container.setdefault("resources", {})
                    asked = dict(resources.get("limits") or {})
                    resources["limits"] = {**rule.get("default", {}), **asked}
                    requests = {
                        **rule.get("defaultRequest", {}),
                        **asked,
                        **(resources.get("requests") or {}),
                    }
                    resources["requests"] = requests
                    for item, most in rule.get("max", {}).items():
                        value = resources["limits"].get(item)
                        if value is not None and parse(value) > parse(most):
                            why = f"maximum {item} usage per Container is {most}, but limit is {value}"
                            raise forbidden("pods", name, why)

    def _default_job(self, job: Object) -> None:
        spec = job["spec"]
        if spec.get("completions") is None and spec.get("parallelism") is None:
            spec["completions"] = 1
        defaults = {"parallelism": 1, "completionMode": "NonIndexed", "suspend": False}
        defaults["podReplacementPolicy"] = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
        defaults["backoffLimit"] = 2**31 - 1 if spec.get("backoffLimitPerIndex") is not None else 6
        for field, value in defaults.items():
            if spec.get(field) is None:
                spec[field] = value
        if spec["completionMode"] == "Indexed" and spec.get("completions") is None:
            why = "Required value: when completion mode is Indexed"
            raise invalid("jobs", job["metadata"].get("name", ""), "spec.completions", why)
        if self.suspend_jobs and QUEUE in dig(job, "metadata.labels", {}):
            spec["suspend"] = True
        _default_pod_spec(spec["template"]["spec"])
        job["status"] = {}


def own_job_pods(job: Object) -> None:
    """The selector and labels that tie a Job to its pods; they need the Job's uid."""
    uid, name = job["metadata"]["uid"], job["metadata"]["name"]
    labels = dict.fromkeys(JOB_LABELS, uid) | {"job-name": name, "batch.kubernetes.io/job-name": name}
    meta = job["spec"]["template"].setdefault("metadata", {})
    meta["labels"] = {**(meta.get("labels") or {}), **labels}
    job["spec"]["selector"] = {"matchLabels": {JOB_LABELS[1]: uid}}


def _usage(resource: str, obj: Object) -> dict[str, Decimal]:
    usage = {qualified_count(resource): Decimal(1)}
    if resource != "pods":
        return usage | {resource: Decimal(1)}
    requests, limits = pod_requests(obj), pod_requests(obj, "limits")
    usage |= {f"requests.{item}": value for item, value in requests.items()}
    usage |= {f"limits.{item}": value for item, value in limits.items()}
    return {**requests, **usage, "pods": Decimal(1)}


def qualified_count(resource: str) -> str:
    return f"count/{qualified(resource)}"


def _check_metadata(resource: str, namespace: str, obj: Object) -> None:
    meta = obj.setdefault("metadata", {})
    name = meta.get("name") or ""
    if meta.get("namespace") not in (None, "", namespace) and KINDS[resource].namespaced:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if not name and not meta.get("generateName"):
        raise invalid(resource, "", "metadata.name", "Required value: name or generateName is required")
    if name and (len(name) > 253 or not NAME.fullmatch(name)):
        raise invalid(resource, name, "metadata.name", f'Invalid value: "{name}": {SUBDOMAIN}')
    if resource == "jobs" and len(name) > 63:
        raise invalid(
            resource, name, "metadata.name", f'Invalid value: "{name}": must be no more than 63 bytes'
        )
    for key, value in (meta.get("labels") or {}).items():
        if not isinstance(value, str):
            raise bad_request(
                f"json: cannot unmarshal {type(value).__name__} into labels.{key} of type string"
            )
        if len(value) > 63 or not LABEL.fullmatch(value):
            raise invalid(resource, name, "metadata.labels", f'Invalid value: "{value}": not a label value')
    for key, value in (meta.get("annotations") or {}).items():
        if not isinstance(value, str):
            raise bad_request(
                f"json: cannot unmarshal {type(value).__name__} into annotations.{key} of type string"
            )


def _check_pod_spec(resource: str, obj: Object, spec: Object, at: str) -> None:
    name = obj["metadata"].get("name", "")
    if not spec.get("containers"):
        raise invalid(resource, name, f"{at}.containers", "Required value")
    if resource == "jobs" and spec.get("restartPolicy") not in ("Never", "OnFailure"):
        why = 'Required value: valid values: "OnFailure", "Never"'
        raise invalid(resource, name, f"{at}.restartPolicy", why)
    volumes = {volume["name"] for volume in spec.get("volumes") or []}
    for number, container in enumerate(spec["containers"]):
        here = f"{at}.containers[{number}]"
        for field in ("name", "image"):
            if not container.get(field):
                raise invalid(resource, name, f"{here}.{field}", "Required value")
        for variable in container.get("env") or []:
            if not isinstance(variable.get("value", ""), str | None):
                raise bad_request(BAD_ENV)
        for mount in container.get("volumeMounts") or []:
            if mount["name"] not in volumes:
                raise invalid(resource, name, f"{here}.volumeMounts[0].name", f'Not found: "{mount["name"]}"')
        resources = container.get("resources") or {}
        for item, limit in (resources.get("limits") or {}).items():
            asked = (resources.get("requests") or {}).get(item)
            if asked is not None and parse(asked) > parse(limit):
                why = f'Invalid value: "{asked}": must be less than or equal to {item} limit of {limit}'
                raise invalid(resource, name, f"{here}.resources.requests", why)


def _default_pod_spec(spec: Object) -> None:
    defaults = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst"}
    defaults |= {"schedulerName": "default-scheduler", "securityContext": {}, "enableServiceLinks": True}
    for field, value in defaults.items():
        if spec.get(field) is None:
            spec[field] = value
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        container.setdefault("imagePullPolicy", "IfNotPresent")
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        resources = container.setdefault("resources", {})
        if resources.get("limits"):
            resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}


def _qos_class(spec: Object) -> str:
    asked = [
        (dig(each, "resources.limits", {}), dig(each, "resources.requests", {}))
        for each in spec["containers"]
    ]
    if not any(item in of for pair in asked for of in pair for item in ("cpu", "memory")):
        return "BestEffort"
    equal = all(limits == requests and {"cpu", "memory"} <= limits.keys() for limits, requests in asked)
    return "Guaranteed" if equal else "Burstable"


def _admit_secret(secret: Object) -> None:
    data = secret.setdefault("data", {}) or {}
    for key, value in data.items():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            why = f'Secret in version "v1" cannot be handled as a Secret: illegal base64 data ({key})'
            raise bad_request(why) from error
    for key, value in (secret.pop("stringData", None) or {}).items():
        data[key] = base64.b64encode(value.encode()).decode()
    secret["data"] = data
    secret.setdefault("type", "Opaque")
