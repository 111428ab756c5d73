"""The Job controller: counts finished pods, decides what comes of the Job, and creates the pods it lacks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .kinds import ApiError, Object, condition, dig, holds, now, seconds_since, set_condition
from .objects import drop_finalizer, emit, pod_grace, suffix

if TYPE_CHECKING:
    from . import Cluster

TRACKED = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES = "batch.kubernetes.io/job-index-failure-count"
BACKOFF = 0.2
MESSAGES = {
    "BackoffLimitExceeded": "Job has reached the specified backoff limit",
    "DeadlineExceeded": "Job was active longer than specified deadline",
    "FailedIndexes": "Job has failed indexes",
    "MaxFailedIndexesExceeded": "Job has exceeded the specified maximal number of failed indexes",
    "CompletionsReached": "Reached expected number of succeeded pods",
}


@dataclass
class Memory:
    """What the controller remembers of a Job between rounds."""

    succeeded: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    failures: dict[int, int] = field(default_factory=dict)
    retry_at: float = 0.0
    index_retry_at: dict[int, float] = field(default_factory=dict)
    refused: str = ""


class JobController:
    def __init__(self, cluster: Cluster):
        self.cluster, self.store = cluster, cluster.store
        self.memory: dict[str, Memory] = {}

    def sync(self) -> None:
        jobs = {job["metadata"]["uid"]: job for job in self.store.list("jobs")}
        owned: dict[str, list[Object]] = {uid: [] for uid in jobs}
        for pod in self.store.list("pods"):
            owner = next(
                (o["uid"] for o in pod["metadata"].get("ownerReferences") or [] if o.get("controller")), ""
            )
            if owner in jobs:
                owned[owner].append(pod)
            elif TRACKED in dig(pod, "metadata.finalizers", []):
                self._release(pod)
        for uid, job in jobs.items():
            Round(self, job, owned[uid], self.memory.setdefault(uid, Memory())).run()

    def _release(self, pod: Object) -> None:
        meta = pod["metadata"]
        self.store.update("pods", meta["namespace"], meta["name"], lambda new: drop_finalizer(new, TRACKED))


class Round:
    """One look at one Job."""

    def __init__(self, controller: JobController, job: Object, pods: list[Object], memory: Memory):
        self.controller, self.store, self.job, self.pods, self.memory = (
            controller,
            controller.store,
            job,
            pods,
            memory,
        )
        self.spec, self.meta = job["spec"], job["metadata"]
        self.status: Object = {**(job.get("status") or {})}
        self.status["conditions"] = list(self.status.get("conditions") or [])
        self.indexed = self.spec["completionMode"] == "Indexed"
        self.per_index = self.spec.get("backoffLimitPerIndex")
        self.failure = ("", "")

    def run(self) -> None:
        if holds(self.job, "Complete") or holds(self.job, "Failed"):
            self._expire()
            for pod in self.pods:
                if TRACKED in dig(pod, "metadata.finalizers", []):
                    self.controller._release(pod)
            return
        self._count()
        ended = next(
            (kind for kind in ("FailureTarget", "SuccessCriteriaMet") if holds(self.job, kind)), None
        )
        if ended is None:
            ended = self._decide()
        if ended:
            self._finish(ended)
        elif not self.meta.get("deletionTimestamp"):
            self._suspend() if self.spec.get("suspend") else self._work()
        self._write()

    def _active(self) -> list[Object]:
        return [pod for pod in self.pods if not _ended(pod) and not pod["metadata"].get("deletionTimestamp")]

    def _terminating(self) -> list[Object]:
        return [pod for pod in self.pods if not _ended(pod) and pod["metadata"].get("deletionTimestamp")]

    def _count(self) -> None:
        """Each ended pod once: its finalizer holds it until it is counted."""
        early = self.spec["podReplacementPolicy"] == "TerminatingOrFailed"
        for pod in self.pods:
            failed = dig(pod, "status.phase") == "Failed" or (early and pod in self._terminating())
            if TRACKED not in dig(pod, "metadata.finalizers", []):
                continue
            if dig(pod, "status.phase") == "Succeeded":
                self._count_success(pod)
            elif failed:
                self._count_failure(pod)
            else:
                continue
            self.controller._release(pod)

    def _count_success(self, pod: Object) -> None:
        index = _index(pod)
        if index is None or index not in self.memory.succeeded:
            self.status["succeeded"] = self.status.get("succeeded", 0) + 1
        if index is not None:
            self.memory.succeeded.add(index)

    def _count_failure(self, pod: Object) -> None:
        action, why = self._policy(pod)
        index, memory = _index(pod), self.memory
        if action == "FailJob":
            self.failure = ("PodFailurePolicy", why)
        if action != "Ignore":
            self.status["failed"] = self.status.get("failed", 0) + 1
        memory.retry_at = time.monotonic() + BACKOFF
        if index is None:
            return
        memory.index_retry_at[index] = memory.retry_at
        if action != "Ignore":
            memory.failures[index] = memory.failures.get(index, 0) + 1
        if self.per_index is not None and (
            action == "FailIndex" or memory.failures.get(index, 0) > self.per_index
        ):
            memory.failed.add(index)

    def _policy(self, pod: Object) -> tuple[str, str]:
        """The action of the first rule that matches, and the message of FailJob."""
        name = f"{self.meta['namespace']}/{pod['metadata']['name']}"
        for number, rule in enumerate(dig(self.spec, "podFailurePolicy.rules", [])):
            matching = f"matching {rule['action']} rule at index {number}"
            for pattern in rule.get("onPodConditions") or []:
                found = condition(pod, pattern["type"])
                if found and found["status"] == pattern.get("status", "True"):
                    return rule["action"], f"Pod {name} has condition {pattern['type']} {matching}"
            for container in dig(pod, "status.containerStatuses", []):
                code = dig(container, "state.terminated.exitCode", 0)
                if code and _code_matches(rule.get("onExitCodes"), container["name"], code):
                    who = f"Container {container['name']} for pod {name}"
                    return rule["action"], f"{who} failed with exit code {code} {matching}"
        return "Count", ""

    def _decide(self) -> str | None:
        """The condition that announces the Job's end, if it has come."""
        completions, done = self.spec.get("completions"), self.status.get("succeeded", 0)
        limit, deadline = self.spec.get("maxFailedIndexes"), self.spec.get("activeDeadlineSeconds")
        failed, start = self.memory.failed, self.status.get("startTime")
        reason, why = self.failure
        if not reason and self.status.get("failed", 0) > self.spec["backoffLimit"]:
            reason = "BackoffLimitExceeded"
        elif not reason and deadline is not None and start and seconds_since(start) >= deadline:
            reason = "DeadlineExceeded"
        elif not reason and limit is not None and len(failed) > limit:
            reason = "MaxFailedIndexesExceeded"
        elif not reason and failed and len(failed) + done >= completions:
            reason = "FailedIndexes"
        if reason:
            set_condition(self.status, "FailureTarget", "True", reason, why or MESSAGES[reason])
            return "FailureTarget"
        reached = done >= completions if completions is not None else bool(done) and not self._active()
        if reached:
            why = MESSAGES["CompletionsReached"]
            set_condition(self.status, "SuccessCriteriaMet", "True", "CompletionsReached", why)
            return "SuccessCriteriaMet"
        return None

    def _finish(self, announced: str) -> None:
        """The final condition comes only when no pod runs any more."""
        self._stop(self._active())
        if self._active() or self._terminating():
            return
        found = next(each for each in self.status["conditions"] if each["type"] == announced)
        final = "Failed" if announced == "FailureTarget" else "Complete"
        set_condition(self.status, final, "True", found["reason"], found["message"])
        if final == "Complete":
            self.status["completionTime"] = now()
            self._emit("Completed", "Job completed")
        else:
            self._emit(found["reason"], found["message"], kind="Warning")

    def _suspend(self) -> None:
        if not holds(self.job, "Suspended"):
            set_condition(self.status, "Suspended", "True", "JobSuspended", "Job suspended")
            self._emit("Suspended", "Job suspended")
        self.status.pop("startTime", None)
        for pod in self._active():
            # Released first: what suspension stops is no failure.
            self.controller._release(pod)
        self._stop(self._active())

    def _work(self) -> None:
        if holds(self.job, "Suspended"):
            set_condition(self.status, "Suspended", "False", "JobResumed", "Job resumed")
            self._emit("Resumed", "Job resumed")
        self.status.setdefault("startTime", now())
        busy = self._active()
        if self.spec["podReplacementPolicy"] == "Failed":
            busy = [*busy, *self._terminating()]
        completions, done = self.spec.get("completions"), self.status.get("succeeded", 0)
        wanted = self.spec["parallelism"]
        if completions is not None:
            wanted = min(wanted, completions - done - len(self.memory.failed))
        elif done:
            wanted = min(wanted, len(busy))
        self._stop(self._active()[max(wanted, 0) :] if len(busy) > wanted else [])
        clock = time.monotonic()
        if self.indexed:
            taken = {_index(pod) for pod in busy} | self.memory.succeeded | self.memory.failed
            free = (index for index in range(completions) if index not in taken)
            ready = [index for index in free if self.memory.index_retry_at.get(index, 0) <= clock]
            for index in ready[: max(wanted - len(busy), 0)]:
                self._create_pod(index)
        elif self.memory.retry_at <= clock:
            for _ in range(wanted - len(busy)):
                self._create_pod(None)

    def _create_pod(self, index: int | None) -> None:
        template = self.spec["template"]
        meta = template.get("metadata") or {}
        stem = self.meta["name"] if index is None else f"{self.meta['name']}-{index}"
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": self.meta["name"], "uid": self.meta["uid"]}
        labels, notes = dict(meta.get("labels") or {}), dict(meta.get("annotations") or {})
        spec = {**template["spec"], "containers": [dict(each) for each in template["spec"]["containers"]]}
        if index is not None:
            labels[INDEX] = notes[INDEX] = str(index)
            if self.per_index is not None:
                notes[FAILURES] = str(self.memory.failures.get(index, 0))
            spec["hostname"] = stem
            source = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{INDEX}']"}}
            for container in spec["containers"]:
                own = [each for each in container.get("env") or [] if each["name"] != "JOB_COMPLETION_INDEX"]
                container["env"] = [*own, {"name": "JOB_COMPLETION_INDEX", "valueFrom": source}]
        metadata = {
            "name": f"{stem[:57]}-{suffix()}",
            "generateName": f"{stem}-",
            "labels": labels,
            "annotations": notes,
            "finalizers": [TRACKED],
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        }
        try:
            pod = self.controller.cluster.create(
                "pods", self.meta["namespace"], {"metadata": metadata, "spec": spec}
            )
        except ApiError as error:
            self.memory.retry_at = time.monotonic() + BACKOFF
            if index is not None:
                self.memory.index_retry_at[index] = self.memory.retry_at
            # Its name is random; the first refusal tells enough.
            if self.memory.refused != error.status["reason"]:
                self.memory.refused = error.status["reason"]
                self._emit("FailedCreate", f"Error creating: {error}", kind="Warning")
            return
        self.memory.refused = ""
        self.pods.append(pod)
        self._emit("SuccessfulCreate", f"Created pod: {pod['metadata']['name']}")

    def _stop(self, pods: list[Object]) -> None:
        for pod in pods:
            meta = pod["metadata"]
            self.store.delete("pods", meta["namespace"], meta["name"], grace=pod_grace("pods", pod))
        keys = {(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in pods}
        fresh = [
            self.store.find("pods", p["metadata"]["namespace"], p["metadata"]["name"]) for p in self.pods
        ]
        if keys:
            self.pods = [pod for pod in fresh if pod]

    def _expire(self) -> None:
        ttl = self.spec.get("ttlSecondsAfterFinished")
        ended = condition(self.job, "Complete") or condition(self.job, "Failed")
        if ttl is None or ended is None or self.meta.get("deletionTimestamp"):
            return
        if seconds_since(ended["lastTransitionTime"]) >= ttl:
            self.store.delete("jobs", self.meta["namespace"], self.meta["name"], propagation="Foreground")

    def _write(self) -> None:
        active = self._active()
        self.status["active"] = len(active)
        self.status["ready"] = sum(1 for pod in active if holds(pod, "Ready"))
        self.status["terminating"] = len(self._terminating())
        self.status["uncountedTerminatedPods"] = {}
        if self.indexed:
            self.status["completedIndexes"] = ranges(self.memory.succeeded)
            if self.per_index is not None:
                self.status["failedIndexes"] = ranges(self.memory.failed)
        always = ("ready", "terminating", "failedIndexes")
        fresh = {
            key: value for key, value in self.status.items() if key in always or value not in (0, "", [])
        }
        self.store.update(
            "jobs",
            self.meta["namespace"],
            self.meta["name"],
            lambda new: new.update(status=fresh),
            uid=self.meta["uid"],
        )

    def _emit(self, reason: str, message: str, kind: str = "Normal") -> None:
        emit(self.store, self.job, reason, message, kind=kind, source="job-controller")


def ranges(indexes: Iterable[int]) -> str:
    """``{0, 1, 2, 5}`` as ``0-2,5``; two neighbours as ``0,1``."""
    parts: list[list[int]] = []
    for index in sorted(indexes):
        if parts and parts[-1][-1] == index - 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 2 else ",".join(map(str, p)) for p in parts)


def _ended(pod: Object) -> bool:
    return dig(pod, "status.phase") in ("Succeeded", "Failed")


def _index(pod: Object) -> int | None:
    text = dig(pod, "metadata.annotations", {}).get(INDEX)
    return None if text is None else int(text)


def _code_matches(rule: Object | None, container: str, code: int) -> bool:
    if not rule or rule.get("containerName") not in (None, container):
        return False
    return (code in rule["values"]) == (rule["operator"] == "In")
