"""The HTTP API: discovery, objects, watches, logs. A thread per connection: watches stay open."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from .admission import own_job_pods
from .faults import REASONS, Fault
from .kinds import GROUPS, KINDS, ApiError, Object, Selector, bad_request, dig, expired, not_found
from .objects import Change, pod_grace
from .patches import apply_patch
from .process import stamp

if TYPE_CHECKING:
    from . import Cluster

PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>v\d\w*)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<rest>.+)"
)
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
SUBRESOURCES = ("status", "log", "eviction")
VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.2", "gitCommit": "double", "compiler": "gc"}
VERSION |= {"gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.25"}
VERSION |= {"platform": "linux/amd64"}


class Request(NamedTuple):
    """One call as it arrived; status 0 means that it was dropped unanswered."""

    time: float
    verb: str
    path: str
    status: int
    user_agent: str
    body: Object | None


class Target(NamedTuple):
    resource: str
    namespace: str
    name: str
    sub: str


class Dropped(Exception):
    """The connection ends here, by order of a fault."""


class Server(ThreadingHTTPServer):
    """Serves a cluster on an ephemeral port of the loopback interface."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, cluster: Cluster):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cluster = cluster
        self.connections: set[socket.socket] = set()
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of the server's; Handler answers the others with 500."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: tests read ``cluster.requests``."""

    def do_GET(self) -> None:
        self.cluster = self.server.cluster
        self.store = self.cluster.store
        url = urlsplit(self.path)
        self.route, self.query = (
            unquote(url.path).rstrip("/"),
            dict(parse_qsl(url.query, keep_blank_values=True)),
        )
        self.fault: Fault | None = self.cluster.faults.meet(self.command, self.route, unquote(url.query))
        self.sent, self.body = 0, None
        try:
            self.body = self._read_body()
            if self.fault and self._befall(self.fault):
                return
            answer = self._answer()
            if self.fault and self.fault.status and self.fault.processed:
                self._fail(self.fault)
            elif answer is not None:
                self._send(*answer)
        except ApiError as error:
            self._send(error.code, error.status)
        except (Dropped, BrokenPipeError, ConnectionError):
            self.close_connection = True
            if not self.sent:
                self._record(0)
        except Exception as error:
            self.cluster.errors.append(error)
            self._send(500, ApiError(500, "InternalError", f"Internal error occurred: {error!r}").status)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _befall(self, fault: Fault) -> bool:
        """Whether the fault has answered in the server's place."""
        if fault.delay:
            time.sleep(fault.delay)
        if fault.drop and fault.after_bytes is None:
            raise Dropped
        if fault.status and not fault.processed:
            self._fail(fault)
            return True
        return False

    def _fail(self, fault: Fault) -> None:
        assert fault.status
        reason, message = REASONS.get(fault.status, ("InternalError", "Internal error occurred"))
        headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
        self._send(fault.status, ApiError(fault.status, reason, fault.message or message).status, headers)

    def _read_body(self) -> Any:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not raw:
            return None
        try:
            return yaml.safe_load(raw) if "yaml" in self.headers.get("Content-Type", "") else json.loads(raw)
        except ValueError as error:
            raise bad_request(f"the object provided is unrecognized: {error}") from error

    def _answer(self) -> tuple[int, Object | str] | None:
        if self.route in ("/readyz", "/healthz", "/livez"):
            return 200, "ok"
        if self.headers.get("Authorization") != f"Bearer {self.cluster.token}":
            raise ApiError(401, "Unauthorized", "Unauthorized")
        if self.route == "/version":
            return 200, VERSION
        if (discovered := _discover(self.route)) is not None:
            return 200, discovered
        match = PATH.fullmatch(self.route)
        if match and match["rest"].startswith("selfsubject"):
            return 201, self._review(match["rest"])
        target = _target(match, self.route)
        verb = VERBS.get(self.command) or self._reading(target)
        if self.command == "DELETE" and not target.name:
            verb = "deletecollection"
        resource = f"{target.resource}/{target.sub}" if target.sub else target.resource
        self.cluster.admission.authorize(verb, resource, target.namespace, target.name)
        action = getattr(self, f"_{target.sub}" if target.sub in ("log", "eviction") else f"_{verb}")
        return action(target)

    def _reading(self, target: Target) -> str:
        if target.name:
            return "get"
        return "watch" if self.query.get("watch") in ("true", "True", "1") else "list"

    def _get(self, target: Target) -> tuple[int, Object]:
        return 200, self.store.get(target.resource, target.namespace, target.name)

    def _list(self, target: Target) -> tuple[int, Object]:
        kind = KINDS[target.resource]
        with self.store.changed:
            version, items = self.store.version, self.store.list(target.resource, self._selector(target))
        asked = self.query.get("resourceVersion", "")
        if asked and self.query.get("resourceVersionMatch") == "Exact" and int(asked) < self.store.oldest:
            raise expired(int(asked), self.store.oldest)
        meta: Object = {"resourceVersion": str(version)}
        first = int(base64.b64decode(self.query.get("continue") or "MA=="))
        last = first + int(self.query.get("limit") or len(items) or 1)
        if last < len(items):
            meta |= {
                "continue": base64.b64encode(str(last).encode()).decode(),
                "remainingItemCount": len(items) - last,
            }
        # As in a real list, items do not repeat the kind.
        bare = [
            {key: part for key, part in obj.items() if key not in ("kind", "apiVersion")} for obj in items
        ]
        return 200, {
            "kind": f"{kind.name}List",
            "apiVersion": kind.api_version,
            "metadata": meta,
            "items": bare[first:last],
        }

    def _create(self, target: Target) -> tuple[int, Object]:
        if not isinstance(self.body, dict):
            raise bad_request("EOF")
        return 201, self.cluster.create(
            target.resource, target.namespace, self.body, dry=bool(self.query.get("dryRun"))
        )

    def _update(self, target: Target) -> tuple[int, Object]:
        return 200, self._change(target, lambda before: self.body)

    def _patch(self, target: Target) -> tuple[int, Object]:
        content = self.headers.get("Content-Type", "")
        if (
            "apply-patch" in content
            and self.store.find(target.resource, target.namespace, target.name) is None
        ):
            return self._create(target)
        return 200, self._change(target, lambda before: apply_patch(content, before, self.body))

    def _change(self, target: Target, make: Any) -> Object:
        def change(obj: Object) -> None:
            new = make(obj)
            if target.sub == "status":
                new = {
                    **obj,
                    "status": new.get("status"),
                    "metadata": {
                        **obj["metadata"],
                        "resourceVersion": dig(
                            new, "metadata.resourceVersion", obj["metadata"]["resourceVersion"]
                        ),
                    },
                }
            elif "status" in obj:
                new["status"] = obj["status"]
            keep = (
                "uid",
                "creationTimestamp",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "generation",
            )
            new["metadata"] = {"resourceVersion": obj["metadata"]["resourceVersion"], **new["metadata"]}
            new["metadata"] |= {key: obj["metadata"][key] for key in keep if key in obj["metadata"]}
            self.cluster.admission.check_update(target.resource, obj, new)
            obj.clear()
            obj.update(new)

        return self.store.update(target.resource, target.namespace, target.name, change)

    def _delete(self, target: Target) -> tuple[int, Object]:
        obj = self.store.get(target.resource, target.namespace, target.name)
        gone = self._remove(target.resource, obj, self.body or {})
        left_to_others = self._policy(target.resource) != "Background"
        if target.resource == "pods" or gone["metadata"].get("finalizers") or left_to_others:
            return 200, gone
        details = {"name": target.name, "kind": target.resource, "uid": gone["metadata"]["uid"]}
        return 200, {**_success(), "details": details}

    def _deletecollection(self, target: Target) -> tuple[int, Object]:
        answer = self._list(target)
        for obj in self.store.list(target.resource, self._selector(target)):
            self._remove(target.resource, obj, {**(self.body or {}), "preconditions": None})
        return answer

    def _remove(self, resource: str, obj: Object, options: Object) -> Object:
        asked = self.query.get("gracePeriodSeconds", options.get("gracePeriodSeconds"))
        grace = pod_grace(resource, obj)
        meta = obj["metadata"]
        return self.store.delete(
            resource,
            meta.get("namespace", ""),
            meta["name"],
            grace=grace if asked is None or not grace else int(asked),
            propagation=self._policy(resource),
            preconditions=options.get("preconditions"),
        )

    def _policy(self, resource: str) -> str:
        asked = self.query.get("propagationPolicy", (self.body or {}).get("propagationPolicy"))
        # A Job deleted without a policy leaves its pods behind: batch/v1 keeps that default for old clients.
        return asked or ("Orphan" if resource == "jobs" else "Background")

    def _eviction(self, target: Target) -> tuple[int, Object]:
        self.cluster.drain(self.store.get("pods", target.namespace, target.name))
        return 201, _success()

    def _review(self, kind: str) -> Object:
        body = self.body or {}
        if kind == "selfsubjectreviews":
            return {
                **body,
                "status": {"userInfo": {"username": self.cluster.user, "groups": ["system:authenticated"]}},
            }
        asked = dig(body, "spec.resourceAttributes", {})
        resource = "/".join(filter(None, (asked.get("resource"), asked.get("subresource"))))
        allowed = self.cluster.admission.allows(asked.get("verb"), resource, asked.get("namespace", ""))
        return {**body, "status": {"allowed": allowed}}

    def _watch(self, target: Target) -> None:
        selector, asked = self._selector(target), self.query.get("resourceVersion", "")
        ends = time.monotonic() + float(self.query.get("timeoutSeconds") or 1800)
        self._start_stream("application/json")
        with self.store.changed:
            generation, version = self.store.watch_generation, self.store.version
            initial = [] if asked not in ("", "0") else self.store.list(target.resource, selector)
        for obj in initial:
            self._event("ADDED", obj)
        if asked not in ("", "0"):
            version = int(asked)
        try:
            while time.monotonic() < ends and not self.store.stopped and self._connected():
                if self.store.watch_generation != generation:
                    raise expired(version, self.store.oldest)
                for change in self.store.since(version):
                    version = change.version
                    if change.resource == target.resource and (seen := _seen(change, selector)):
                        self._event(*seen)
                self.store.wait(version, min(1, ends - time.monotonic()))
        except ApiError as error:
            self._event("ERROR", error.status)
        else:
            if self.query.get("allowWatchBookmarks") in ("true", "True", "1"):
                kind = KINDS[target.resource]
                mark = {"kind": kind.name, "apiVersion": kind.api_version}
                self._event("BOOKMARK", {**mark, "metadata": {"resourceVersion": str(version)}})
        self._chunk(b"")

    def _event(self, kind: str, obj: Object) -> None:
        self._chunk(json.dumps({"type": kind, "object": obj}).encode() + b"\n")

    def _log(self, target: Target) -> tuple[int, str] | None:
        pod = self.store.get("pods", target.namespace, target.name)
        log = self.cluster.log_of(pod, self.query.get("container"))
        lines, truthy = log.lines[:], ("true", "True", "1")
        since = 0
        if seconds := self.query.get("sinceSeconds"):
            since = time.time_ns() - int(seconds) * 10**9
        elif moment := self.query.get("sinceTime"):
            from datetime import datetime

            since = int(datetime.fromisoformat(moment).timestamp() * 10**9)
        shown = [line for line in lines if line[0] >= since]
        if (tail := self.query.get("tailLines")) is not None:
            shown = shown[len(shown) - int(tail) :] if int(tail) < len(shown) else shown
        left = int(self.query.get("limitBytes") or 2**62)
        stamps = self.query.get("timestamps") in truthy

        def text(line: tuple[int, bytes]) -> bytes:
            return stamp(line[0]) + b" " + line[1] if stamps else line[1]

        self._start_stream("text/plain")
        if shown:
            whole = b"".join(map(text, shown))
            self._chunk(whole[:left])
            left -= len(whole)
        if self.query.get("follow") in truthy:
            for line in log.follow(len(lines)):
                if self.store.stopped or left <= 0 or not self._connected():
                    break
                if line is not None:
                    self._chunk(text(line)[:left])
                    left -= len(text(line))
        self._chunk(b"")
        return None

    def _connected(self) -> bool:
        """Whether the client still listens; a silent stream would not show it."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _selector(self, target: Target) -> Selector:
        labels, fields = self.query.get("labelSelector", ""), self.query.get("fieldSelector", "")
        return Selector(target.resource, labels, fields, target.namespace)

    def _send(self, code: int, answer: Object | str, headers: dict[str, str] | None = None) -> None:
        content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self._record(code)
        self._lose_answer()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        with contextlib.suppress(BrokenPipeError, ConnectionError, Dropped):
            self.end_headers()
            self._write(content)
            return
        self.close_connection = True

    def _start_stream(self, content_type: str) -> None:
        self._record(200)
        self._lose_answer()
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _lose_answer(self) -> None:
        if self.fault and self.fault.after_bytes == 0:
            self.sent = 1
            raise Dropped

    def _chunk(self, data: bytes) -> None:
        self._write(data, chunked=True)

    def _write(self, data: bytes, *, chunked: bool = False) -> None:
        """Writes content; a fault may cut it after so many bytes."""
        most = self.fault.after_bytes if self.fault else None
        cut = most is not None and self.sent + len(data) >= most
        if cut:
            data = data[: most - self.sent]
        if data or not cut:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            self.wfile.flush()
        self.sent += len(data)
        if cut:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            raise Dropped

    def _record(self, status: int) -> None:
        agent = self.headers.get("User-Agent", "")
        self.cluster.requests.append(Request(time.time(), self.command, self.path, status, agent, self.body))


def prepare(cluster: Cluster, resource: str, namespace: str, body: Object, *, dry: bool = False) -> Object:
    """Admits and stores a new object."""
    with cluster.store.changed:
        obj = cluster.admission.admit(resource, namespace, json.loads(json.dumps(body)))
        name = obj["metadata"].get("name")
        if not (name and cluster.store.find(resource, namespace, name)):
            cluster.admission.check_quota(resource, namespace, obj)
        if dry:
            return obj
        made = cluster.store.create(resource, namespace, obj)
        if resource == "jobs":
            made = cluster.store.update(resource, namespace, made["metadata"]["name"], own_job_pods)
        return made


def _target(match: re.Match[str] | None, route: str) -> Target:
    parts = match["rest"].split("/") if match else []
    if match and match["namespace"] and parts and parts[0] not in KINDS and len(parts) == 1:
        parts = []
    kind = KINDS.get(parts[0]) if parts else None
    if (
        match is None
        or kind is None
        or (kind.group, kind.version) != (match["group"] or "", match["version"])
    ):
        raise ApiError(404, "NotFound", "the server could not find the requested resource")
    resource, name, sub = (*parts, "", "")[:3]
    if sub and (sub not in SUBRESOURCES or (sub in ("log", "eviction") and resource != "pods")):
        raise not_found(f"{resource}/{sub}", name)
    return Target(resource, match["namespace"] or "", name, sub)


def _seen(change: Change, selector: Selector) -> tuple[str, Object] | None:
    """What a watch with this selector sees of a change: an object may enter or leave the selection."""
    after = change.after if change.after and selector.matches(change.after) else None
    before = change.before if change.before and selector.matches(change.before) else None
    if after:
        return ("MODIFIED" if before else "ADDED"), after
    if before:
        # What left carries the version of its leaving.
        meta = {**before["metadata"], "resourceVersion": str(change.version)}
        return "DELETED", {**(change.after or before), "metadata": meta}
    return None


def _success() -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def _discover(route: str) -> Object | None:
    if route == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if route == "/apis":
        groups = [
            {
                "name": group,
                "versions": [
                    {"groupVersion": f"{group}/{version}", "version": version} for version in versions
                ],
                "preferredVersion": {"groupVersion": f"{group}/{versions[0]}", "version": versions[0]},
            }
            for group, versions in GROUPS.items()
            if group
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    return None
