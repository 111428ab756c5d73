"""The object store behind the API: versions, unique names, graceful deletion, history and garbage."""

from __future__ import annotations

import copy
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from .kinds import KINDS, ApiError, Object, Selector, conflict, dig, expired, not_found, now, qualified

SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
HISTORY = 5_000
NODE = "node-1"
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
Key = tuple[str, str, str]


class Change(NamedTuple):
    """One entry of the history that watches replay: an object after and before."""

    version: int
    resource: str
    after: Object | None
    before: Object | None


def suffix() -> str:
    return "".join(random.choices(SUFFIX, k=5))


class Store:
    """Every object by (resource, namespace, name). A stored object is never changed, only replaced."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = 100
        self.oldest = 100
        self.objects: dict[Key, Object] = {}
        self.ever: dict[str, tuple[str, Object]] = {}
        self.history: deque[Change] = deque()
        self.watch_generation = 0
        self.stopped = False

    def list(self, resource: str, selector: Selector | None = None) -> list[Object]:
        with self.changed:
            found = [obj for key, obj in self.objects.items() if key[0] == resource]
        return [obj for obj in found if selector is None or selector.matches(obj)]

    def find(self, resource: str, namespace: str, name: str) -> Object | None:
        with self.changed:
            return self.objects.get((resource, namespace, name))

    def get(self, resource: str, namespace: str, name: str) -> Object:
        found = self.find(resource, namespace, name)
        if found is None:
            raise not_found(resource, name)
        return found

    def create(self, resource: str, namespace: str, body: Object) -> Object:
        kind, obj = KINDS[resource], copy.deepcopy(body)
        meta = obj.setdefault("metadata", {})
        if not meta.get("name"):
            meta["name"] = meta["generateName"][:58] + suffix()
        if kind.namespaced:
            meta["namespace"] = namespace
        with self.changed:
            existing = self.find(resource, namespace, meta["name"])
            if existing is not None:
                raise _exists(resource, existing)
            meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
            if resource in ("pods", "jobs"):
                meta["generation"] = 1
            obj = {"kind": kind.name, "apiVersion": kind.api_version, **obj}
            return self._record(resource, obj, None)

    def update(
        self, resource: str, namespace: str, name: str, change: Callable[[Object], None], *, uid: str = ""
    ) -> Object:
        """Applies a change to the newest version; an object that nothing holds any longer goes away."""
        with self.changed:
            before = self.get(resource, namespace, name)
            if uid and before["metadata"]["uid"] != uid:
                raise not_found(resource, name)
            after = copy.deepcopy(before)
            change(after)
            if after == before:
                return before
            if after["metadata"].get("resourceVersion") != before["metadata"]["resourceVersion"]:
                raise conflict(resource, name, MODIFIED)
            bound = dig(after, "spec.nodeName") != dig(before, "spec.nodeName")
            if after.get("spec") != before.get("spec") and "generation" in after["metadata"] and not bound:
                after["metadata"]["generation"] += 1
            meta = after["metadata"]
            gone = meta.get("deletionTimestamp") and not meta.get("deletionGracePeriodSeconds")
            if gone and not meta.get("finalizers"):
                self._record(resource, after, before, removed=True)
                return after
            return self._record(resource, after, before)

    def delete(
        self,
        resource: str,
        namespace: str,
        name: str,
        *,
        grace: int = 0,
        propagation: str = "Background",
        preconditions: Object | None = None,
    ) -> Object:
        with self.changed:
            meta = self.get(resource, namespace, name)["metadata"]
            for field in ("uid", "resourceVersion"):
                wanted = (preconditions or {}).get(field)
                if wanted and wanted != meta[field]:
                    shown = "UID" if field == "uid" else "ResourceVersion"
                    why = f"the {shown} in the precondition ({wanted}) does not match the {shown} in record "
                    why += f"({meta[field]}). The object might have been deleted and then recreated"
                    raise conflict(KINDS[resource].name, name, why)
            if propagation == "Orphan":
                self._orphan(meta["uid"])

            def mark(obj: Object) -> None:
                new = obj["metadata"]
                if propagation == "Foreground" and "foregroundDeletion" not in new.setdefault(
                    "finalizers", []
                ):
                    new["finalizers"].append("foregroundDeletion")
                old = new.get("deletionGracePeriodSeconds", grace)
                new.setdefault("deletionTimestamp", now())
                # A second deletion may only shorten the time a pod has left.
                new["deletionGracePeriodSeconds"] = min(grace, old)

            return self.update(resource, namespace, name, mark)

    def vanish(self, resource: str, namespace: str, name: str) -> None:
        """Removes an object whatever holds it."""
        with self.changed:
            before = self.get(resource, namespace, name)
            self._record(resource, before, before, removed=True)

    def collect_garbage(self) -> None:
        """Deletes what its owner left behind, and finishes foreground deletions."""
        with self.changed:
            uids = {
                (obj["metadata"].get("namespace"), obj["metadata"]["uid"]) for obj in self.objects.values()
            }
            leaving = {
                obj["metadata"]["uid"]
                for obj in self.objects.values()
                if "foregroundDeletion" in dig(obj, "metadata.finalizers", [])
            }
            owned: set[str] = set()
            for (resource, namespace, name), obj in list(self.objects.items()):
                owners = obj["metadata"].get("ownerReferences") or []
                of = {owner["uid"] for owner in owners}
                owned |= of
                lost = owners and not any((namespace, uid) in uids for uid in of)
                if (lost or of & leaving) and not obj["metadata"].get("deletionTimestamp"):
                    self.delete(resource, namespace, name, grace=pod_grace(resource, obj))
            for (resource, namespace, name), obj in list(self.objects.items()):
                if obj["metadata"]["uid"] in leaving - owned:
                    self.update(
                        resource, namespace, name, lambda new: drop_finalizer(new, "foregroundDeletion")
                    )

    def wait(self, version: int, timeout: float) -> None:
        """Returns when something changed after this version, or in vain after the timeout."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or self.version > version, timeout)

    def since(self, version: int) -> list[Change]:
        """The history after a version.

        :raises ApiError: 410 Expired when part of it is forgotten.
        """
        with self.changed:
            if version < self.oldest:
                raise expired(version, self.oldest)
            new: list[Change] = []
            for change in reversed(self.history):
                if change.version <= version:
                    break
                new.append(change)
            return new[::-1]

    def forget_history(self) -> None:
        """As a compaction of etcd does; open watches end with 410."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.watch_generation += 1
            self.history.clear()
            self.changed.notify_all()

    def _record(self, resource: str, obj: Object, before: Object | None, *, removed: bool = False) -> Object:
        self.version += 1
        meta = obj["metadata"]
        obj = {**obj, "metadata": {**meta, "resourceVersion": str(self.version)}}
        key = (resource, meta.get("namespace", ""), meta["name"])
        self.ever[meta["uid"]] = (resource, obj)
        if removed:
            del self.objects[key]
            self.history.append(Change(self.version, resource, None, obj))
        else:
            self.objects[key] = obj
            self.history.append(Change(self.version, resource, obj, before))
        while len(self.history) > HISTORY:
            self.oldest = self.history.popleft().version
        self.changed.notify_all()
        return obj

    def _orphan(self, uid: str) -> None:
        for (resource, namespace, name), obj in list(self.objects.items()):
            if any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences") or []):

                def leave(new: Object) -> None:
                    owners = new["metadata"]["ownerReferences"]
                    _keep(new["metadata"], "ownerReferences", [each for each in owners if each["uid"] != uid])

                self.update(resource, namespace, name, leave)


def pod_grace(resource: str, obj: Object) -> int:
    """How long a deleted object may linger: a running pod its grace period, anything else not at all."""
    unscheduled = not dig(obj, "spec.nodeName")
    if resource != "pods" or unscheduled or dig(obj, "status.phase") in ("Succeeded", "Failed"):
        return 0
    return dig(obj, "spec.terminationGracePeriodSeconds", 30)


def drop_finalizer(obj: Object, name: str) -> None:
    meta = obj["metadata"]
    _keep(meta, "finalizers", [each for each in meta.get("finalizers") or [] if each != name])


def _keep(meta: Object, field: str, items: list[Any]) -> None:
    """An empty list is no field at all."""
    meta[field] = items
    if not items:
        del meta[field]


def emit(store: Store, obj: Object, reason: str, message: str, *, kind: str = "Normal", source: str) -> None:
    """Writes an Event about an object; the same event again raises its count, as the recorder does."""
    meta, field = obj["metadata"], {}
    if obj["kind"] == "Pod" and source == "kubelet" and dig(obj, "spec.containers"):
        field = {"fieldPath": f"spec.containers{{{obj['spec']['containers'][0]['name']}}}"}
    about = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], **field}
    about |= {key: meta[key] for key in ("namespace", "name", "uid", "resourceVersion")}
    times = {"count": 1, "firstTimestamp": now(), "lastTimestamp": now(), "eventTime": None}
    times |= {"source": {"component": source}, "reportingInstance": ""}
    if source == "default-scheduler":
        # It writes events of the newer API, which have neither a count nor these times.
        times = {"eventTime": now(micro=True), "firstTimestamp": None, "lastTimestamp": None, "source": {}}
        times |= {"action": "Scheduling", "reportingInstance": f"{source}-{NODE}"}

    def again(event: Object) -> None:
        if event.get("count"):
            event |= {"count": event["count"] + 1, "lastTimestamp": now()}

    with store.changed:
        for event in store.list("events"):
            same = (event["involvedObject"]["uid"], event["reason"], event["message"])
            if same == (meta["uid"], reason, message):
                store.update("events", meta["namespace"], event["metadata"]["name"], again)
                return
        body = {
            "metadata": {"name": f"{meta['name']}.{time.time_ns():x}"},
            "involvedObject": about,
            "reason": reason,
            "message": message,
            "type": kind,
            "reportingComponent": source,
            **times,
        }
        store.create("events", meta["namespace"], body)


def _exists(resource: str, existing: Object) -> ApiError:
    name = existing["metadata"]["name"]
    message = f'{qualified(resource)} "{name}" already exists'
    if existing["metadata"].get("deletionTimestamp"):
        message = f"object is being deleted: {message}"
    details = {"group": KINDS[resource].group} if KINDS[resource].group else {}
    return ApiError(409, "AlreadyExists", message, name=name, kind=resource, **details)
