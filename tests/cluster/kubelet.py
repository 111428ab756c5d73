"""One node: schedules pods onto it, runs their containers as processes, and reports their status."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from .environment import ConfigError, Image, command_of, environment_of, mount
from .kinds import ApiError, Object, dig, now, seconds_since, set_condition
from .objects import NODE, Store, emit
from .process import Process, sessions
from .quantities import parse, pod_requests

ENDED = ("Succeeded", "Failed")
PULL_BACKOFF = 0.5
MEMORY_POLL = 0.2
UNHELPFUL = (
    "no new claims to deallocate, preemption: 0/1 nodes are available: "
    "1 Preemption is not helpful for scheduling."
)
GONE = "The container could not be located when the pod was terminated"


class Container:
    """A container's state as the kubelet reports it, and its process once there is one."""

    def __init__(self, spec: Object):
        self.spec, self.name = spec, spec["name"]
        self.process: Process | None = None
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.pull_failed_at = 0.0

    @property
    def ended(self) -> bool:
        return "terminated" in self.state

    @property
    def exit_code(self) -> int | None:
        return self.state["terminated"]["exitCode"] if self.ended else None

    def wait(self, reason: str, message: str = "") -> None:
        self.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}

    def end(self, code: int, reason: str, message: str = "") -> None:
        at = now()
        started = f"{self.process.started:%Y-%m-%dT%H:%M:%SZ}" if self.process else at
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": at}
        ended["containerID"] = f"containerd://{id(self):064x}"
        self.state = {"terminated": ended | ({"message": message} if message else {})}

    def observe(self) -> None:
        """Turns a process that ended into a terminated state."""
        if self.process is None or self.ended or (code := self.process.exit_code()) is None:
            return
        reason = "OOMKilled" if self.process.out_of_memory else "Error" if code else "Completed"
        fallback = self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError" and code
        self.end(code, reason, self.process.log.tail() if fallback else "")

    def status(self) -> Object:
        running = "running" in self.state
        status = {"name": self.name, "image": self.spec["image"], "imageID": "", "restartCount": 0}
        status |= {"ready": running, "started": running, "state": self.state, "lastState": {}}
        if self.process:
            status["imageID"] = f"docker.io/library/{self.spec['image']}"
            status["containerID"] = f"containerd://{id(self):064x}"
        return status


class PodRun:
    """What the node knows of one pod."""

    def __init__(self, pod: Object, home: Path):
        self.home = home
        self.inits = [Container(each) for each in pod["spec"].get("initContainers") or []]
        self.mains = [Container(each) for each in pod["spec"]["containers"]]
        self.since = time.monotonic()
        self.kill_at: float | None = None
        self.failure: Object = {}
        self.lost = False

    @property
    def containers(self) -> list[Container]:
        return [*self.inits, *self.mains]

    def processes(self) -> list[Process]:
        return [each.process for each in self.containers if each.process and not each.ended]

    def kill(self, *, out_of_memory: bool = False) -> None:
        for process in self.processes():
            process.kill(out_of_memory=out_of_memory)

    def terminate(self, grace: float) -> None:
        if self.kill_at is None:
            for process in self.processes():
                process.terminate()
        self.kill_at = min(self.kill_at or float("inf"), time.monotonic() + grace)

    def phase(self) -> str:
        codes = [each.exit_code for each in self.mains]
        if self.kill_at is not None and not self.processes():
            return "Failed" if self.failure or any(codes) or None in codes else "Succeeded"
        if any(each.exit_code for each in self.inits):
            return "Failed"
        if None not in codes:
            return "Failed" if any(codes) or self.failure else "Succeeded"
        return "Running" if any("waiting" not in each.state for each in self.mains) else "Pending"


class Kubelet:
    """The only node: ``capacity`` bounds what fits, ``start_seconds`` is how long a container takes."""

    def __init__(self, store: Store, home: Path):
        self.store, self.home = store, home
        self.images: dict[str, Image] = {}
        self.capacity: dict[str, Any] = {}
        self.labels = {
            "kubernetes.io/hostname": NODE,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        self.start_seconds = 0.0
        self.most_grace = 3.0
        self.runs: dict[str, PodRun] = {}
        self._memory_polled = 0.0

    def sync(self) -> None:
        pods = self.store.list("pods")
        present = {pod["metadata"]["uid"] for pod in pods}
        for uid in self.runs.keys() - present:
            self.runs[uid].kill()
            if not self.runs[uid].processes() or all(
                p.exit_code() is not None for p in self.runs[uid].processes()
            ):
                del self.runs[uid]
        self._enforce_memory()
        for pod in pods:
            try:
                self._sync_pod(pod)
            except ApiError as error:
                if error.code != 404:  # gone meanwhile
                    raise

    def stop(self) -> None:
        for run in self.runs.values():
            run.kill()
        for run in self.runs.values():
            for process in run.processes():
                process.exit_code()

    def run_of(self, pod: Object) -> PodRun | None:
        return self.runs.get(pod["metadata"]["uid"])

    def fail(self, pod: Object, reason: str, message: str, *, grace: float) -> None:
        """Ends a pod for the node's own reasons, as at a deadline or under pressure."""
        run = self.runs.setdefault(pod["metadata"]["uid"], self._new_run(pod))
        if not run.failure:
            run.failure = {"reason": reason, "message": message}
            run.terminate(grace)

    def _new_run(self, pod: Object) -> PodRun:
        home = self.home / pod["metadata"]["namespace"] / pod["metadata"]["uid"]
        home.mkdir(parents=True, exist_ok=True)
        return PodRun(pod, home)

    def _sync_pod(self, pod: Object) -> None:
        meta = pod["metadata"]
        run = self.runs.get(meta["uid"])
        if dig(pod, "status.phase") in ENDED:
            if meta.get("deletionGracePeriodSeconds"):
                self._update(pod, lambda new: new["metadata"].update(deletionGracePeriodSeconds=0))
            return
        if not dig(pod, "spec.nodeName"):
            if meta.get("deletionTimestamp"):
                # Held by a finalizer only; the pod garbage collector fails it.
                self._update(pod, lambda new: new["status"].update(phase="Failed"))
            else:
                self._schedule(pod)
            return
        if run is None:
            run = self.runs[meta["uid"]] = self._new_run(pod)
        if run.lost:
            return
        self._limit_life(pod, run)
        for container in run.containers:
            container.observe()
        if run.kill_at is None:
            self._start_containers(pod, run)
        self._report(pod, run)

    def _limit_life(self, pod: Object, run: PodRun) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            if run.kill_at is None:
                emit(self.store, pod, "Killing", f"Stopping container {run.mains[0].name}", source="kubelet")
            run.terminate(min(pod["metadata"]["deletionGracePeriodSeconds"], self.most_grace))
        deadline = pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None and seconds_since(pod["status"]["startTime"]) >= deadline:
            why = "Pod was active on the node longer than the specified deadline"
            self.fail(pod, "DeadlineExceeded", why, grace=min(30, self.most_grace))
        if run.kill_at is None:
            return
        if time.monotonic() >= run.kill_at:
            run.kill()
        if not run.processes():
            for container in run.containers:
                if not container.ended:
                    container.end(137, "ContainerStatusUnknown", GONE)

    def _start_containers(self, pod: Object, run: PodRun) -> None:
        if time.monotonic() - run.since < self.start_seconds:
            return
        for number, container in enumerate(run.inits):
            if "waiting" in container.state and all(each.exit_code == 0 for each in run.inits[:number]):
                self._start(pod, run, container)
        if all(each.exit_code == 0 for each in run.inits):
            for container in run.mains:
                if "waiting" in container.state:
                    self._start(pod, run, container)
        else:
            for container in run.mains:
                container.wait("PodInitializing")

    def _start(self, pod: Object, run: PodRun, container: Container) -> None:
        image = self.images.get(container.spec["image"])
        if image is None:
            self._fail_pull(pod, container)
            return
        try:
            paths = mount(self.store, pod, container.spec, run.home)
            env = environment_of(self.store, pod, container.spec, image, run.home, paths)
        except ConfigError as error:
            container.wait("CreateContainerConfigError", str(error))
            emit(self.store, pod, "Failed", f"Error: {error}", kind="Warning", source="kubelet")
            return
        command = command_of(container.spec, image, env, paths)
        directory = Path(container.spec.get("workingDir") or run.home)
        try:
            container.process = Process(command, env, directory if directory.is_dir() else run.home)
        except OSError:
            why = f'exec: "{command[0]}": executable file not found in $PATH: unknown'
            container.end(128, "StartError", f"failed to create containerd task: failed to start: {why}")
            emit(self.store, pod, "Failed", f"Error: {why}", kind="Warning", source="kubelet")
            return
        container.state = {"running": {"startedAt": now()}}
        name = container.spec["image"]
        emit(
            self.store,
            pod,
            "Pulled",
            f'Container image "{name}" already present on machine',
            source="kubelet",
        )
        emit(self.store, pod, "Started", f"Started container {container.name}", source="kubelet")

    def _fail_pull(self, pod: Object, container: Container) -> None:
        name, clock = container.spec["image"], time.monotonic()
        if container.spec.get("imagePullPolicy") == "Never":
            container.wait(
                "ErrImageNeverPull", f'Container image "{name}" is not present with pull policy of Never'
            )
            return
        reference = name if "/" in name else f"docker.io/library/{name}"
        unpack = f'failed to pull and unpack image "{reference}": failed to resolve reference "{reference}"'
        why = f"{unpack}: {reference}: not found"
        if not container.pull_failed_at:
            container.pull_failed_at = clock
            container.wait("ErrImagePull", why)
            emit(
                self.store,
                pod,
                "Failed",
                f'Failed to pull image "{name}": {why}',
                kind="Warning",
                source="kubelet",
            )
            emit(self.store, pod, "Failed", "Error: ErrImagePull", kind="Warning", source="kubelet")
        elif clock - container.pull_failed_at > PULL_BACKOFF:
            back_off = f'Back-off pulling image "{name}"'
            if container.state["waiting"]["reason"] != "ImagePullBackOff":
                emit(self.store, pod, "BackOff", back_off, source="kubelet")
            container.wait("ImagePullBackOff", f"{back_off}: ErrImagePull: {why}")

    def _report(self, pod: Object, run: PodRun) -> None:
        phase = run.phase()

        def write(new: Object) -> None:
            status = new["status"]
            status["phase"] = phase
            status["containerStatuses"] = [each.status() for each in run.mains]
            if run.inits:
                status["initContainerStatuses"] = [each.status() for each in run.inits]
            ready = phase == "Running" and all("running" in each.state for each in run.mains)
            unready = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase, "ContainersNotReady")
            started = "True" if all(each.exit_code == 0 for each in run.inits) else "False"
            set_condition(status, "Initialized", started)
            for kind in ("Ready", "ContainersReady"):
                why = f"containers with unready status: [{' '.join(each.name for each in run.mains)}]"
                why = why if unready == "ContainersNotReady" else ""
                set_condition(status, kind, *(("True",) if ready else ("False", unready, why)))
            if phase in ENDED:
                status |= run.failure
                if run.failure.get("reason") == "Evicted":
                    why = run.failure["message"]
                    set_condition(status, "DisruptionTarget", "True", "TerminationByKubelet", why)
                if new["metadata"].get("deletionTimestamp"):
                    new["metadata"]["deletionGracePeriodSeconds"] = 0

        self._update(pod, write)

    def _schedule(self, pod: Object) -> None:
        spec = pod["spec"]
        if spec.get("schedulingGates"):
            why = "Scheduling is blocked due to non-empty scheduling gates"
            self._refuse(pod, "SchedulingGated", why, event=False)
            return
        missing = self._missing(pod)
        if missing:
            self._refuse(pod, "Unschedulable", f"0/1 nodes are available: {', '.join(missing)}. {UNHELPFUL}")
            return

        def bind(new: Object) -> None:
            new["spec"]["nodeName"] = NODE
            status = new["status"]
            set_condition(status, "PodScheduled", "True")
            status |= {"startTime": now(), "hostIP": "10.0.0.1", "podIP": "10.244.0.2"}
            status["containerStatuses"] = [Container(each).status() for each in spec["containers"]]

        bound = self._update(pod, bind)
        where = f"Successfully assigned {pod['metadata']['namespace']}/{pod['metadata']['name']} to {NODE}"
        emit(self.store, bound, "Scheduled", where, source="default-scheduler")

    def _missing(self, pod: Object) -> list[str]:
        """What the node lacks for this pod, in the scheduler's words."""
        wanted = dig(pod, "spec.nodeSelector", {})
        if any(self.labels.get(key) != value for key, value in wanted.items()):
            return ["1 node(s) didn't match Pod's node affinity/selector"]
        used: dict[str, Decimal] = {}
        for other in self.store.list("pods"):
            if dig(other, "spec.nodeName") and dig(other, "status.phase") not in ENDED:
                for name, value in pod_requests(other).items():
                    used[name] = used.get(name, Decimal(0)) + value
        short = []
        for name, value in pod_requests(pod).items():
            # A plain resource is plentiful until the test bounds it; a device exists only if it says so.
            capacity = self.capacity.get(name, 0 if "/" in name else None)
            if capacity is not None and used.get(name, Decimal(0)) + value > parse(capacity):
                short.append(f"1 Insufficient {name}")
        return short

    def _refuse(self, pod: Object, reason: str, message: str, *, event: bool = True) -> None:
        before = next((c for c in dig(pod, "status.conditions", []) if c["type"] == "PodScheduled"), {})
        self._update(pod, lambda new: set_condition(new["status"], "PodScheduled", "False", reason, message))
        if event and before.get("message") != message:
            emit(self.store, pod, "FailedScheduling", message, kind="Warning", source="default-scheduler")

    def _enforce_memory(self) -> None:
        if time.monotonic() - self._memory_polled < MEMORY_POLL:
            return
        self._memory_polled = time.monotonic()
        limited = [
            (container.process, int(parse(limit)))
            for run in self.runs.values()
            for container in run.containers
            if container.process
            and not container.ended
            and (limit := dig(container.spec, "resources.limits.memory"))
        ]
        members = sessions() if limited else {}
        for process, limit in limited:
            if process.memory(members.get(process.pid, [])) > limit:
                process.kill(out_of_memory=True)

    def _update(self, pod: Object, change: Any) -> Object:
        meta = pod["metadata"]
        return self.store.update("pods", meta["namespace"], meta["name"], change, uid=meta["uid"])
