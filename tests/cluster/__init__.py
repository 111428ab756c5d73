"""A Kubernetes whose pods are local processes: a real API over HTTP for the provider's real code.

Not kmock: it answers from scripts and keeps no resourceVersions, selectors, owners or pod lifecycles.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from .admission import GATE, Admission
from .environment import Image
from .faults import Faults
from .jobs import JobController
from .kinds import ApiError, Object, Selector, bad_request, dig, set_condition
from .kubelet import Kubelet
from .objects import Store, emit, pod_grace
from .process import Log
from .server import Request, Server, prepare
from .spark import SparkOperator

__all__ = ["ApiError", "Cluster", "Image", "Request"]

TICK = 0.05
GARBAGE_EVERY = 0.2


class ServiceAccounts:
    """``add((namespace, name))`` and ``discard((namespace, name))``."""

    def __init__(self, cluster: Cluster):
        self._cluster = cluster

    def add(self, account: tuple[str, str]) -> None:
        namespace, name = account
        self._cluster.namespace(namespace)
        if not self._cluster.store.find("serviceaccounts", namespace, name):
            self._cluster.store.create("serviceaccounts", namespace, {"metadata": {"name": name}})

    def discard(self, account: tuple[str, str]) -> None:
        if self._cluster.store.find("serviceaccounts", *account):
            self._cluster.store.delete("serviceaccounts", *account)


class Cluster:
    """One node and its control plane, in threads of this process; what pods run dies with it.

    Methods that take a pod or Job accept the dict, a client's model, or a name (``"name"`` or ``"ns/name"``).
    """

    token = "double-token"

    def __init__(self, home: Path, *, user: str = "system:serviceaccount:default:airflow"):
        self.home, self.user = Path(home), user
        self.store = Store()
        self.faults = Faults()
        self.admission = Admission(self.store, user)
        self.kubelet = Kubelet(self.store, self.home / "pods")
        self._jobs = JobController(self)
        self.spark = SparkOperator(self)
        self.requests: list[Request] = []
        self.errors: list[Exception] = []
        self.service_accounts = ServiceAccounts(self)
        self._server = Server(self)
        self._thread = threading.Thread(target=self._control, daemon=True)
        for name in ("default", "kube-system"):
            self.namespace(name)

    def __enter__(self) -> Cluster:
        self.home.mkdir(parents=True, exist_ok=True)
        self.kubeconfig.write_text(KUBECONFIG.format(url=self.url, token=self.token))
        self.kubeconfig.chmod(0o600)
        self._server.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.stopped = True
        with self.store.changed:
            self.store.changed.notify_all()
        self._thread.join()
        self._server.stop()
        self.kubelet.stop()
        if self.errors and kind is None:
            raise self.errors[0]

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def kubeconfig(self) -> Path:
        return self.home / "kubeconfig"

    @property
    def images(self) -> dict[str, Image]:
        return self.kubelet.images

    @property
    def node_capacity(self) -> dict[str, Any]:
        return self.kubelet.capacity

    @node_capacity.setter
    def node_capacity(self, capacity: dict[str, Any]) -> None:
        self.kubelet.capacity = capacity

    @property
    def suspend_jobs(self) -> bool:
        """Acts as Kueue: Jobs and pods that name a queue wait until ``admit``."""
        return self.admission.suspend_jobs

    @suspend_jobs.setter
    def suspend_jobs(self, value: bool) -> None:
        self.admission.suspend_jobs = value

    # What there is.

    def pods(self, namespace: str | None = None, labels: str = "") -> list[Object]:
        return self.all("pods", namespace, labels)

    def jobs(self, namespace: str | None = None, labels: str = "") -> list[Object]:
        return self.all("jobs", namespace, labels)

    def secrets(self, namespace: str | None = None, labels: str = "") -> list[Object]:
        return self.all("secrets", namespace, labels)

    def events(self, namespace: str | None = None) -> list[Object]:
        return self.all("events", namespace)

    def all(self, resource: str, namespace: str | None = None, labels: str = "") -> list[Object]:
        return copy.deepcopy(self.store.list(resource, Selector(resource, labels, "", namespace or "")))

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        return copy.deepcopy(self.store.find(resource, namespace, name))

    def ever(self, resource: str) -> list[Object]:
        """Every object ever created, in its last state, oldest first."""
        with self.store.changed:
            return copy.deepcopy([obj for of, obj in self.store.ever.values() if of == resource])

    def logs(self, pod: Any, container: str | None = None) -> str:
        return b"".join(line for _, line in self.log_of(self._pod(pod), container).lines).decode()

    def until(self, what: Callable[[], Any], timeout: float = 10) -> Any:
        """The first true value of ``what()``; an AssertionError when none comes in time."""
        ends = time.monotonic() + timeout
        while not (found := what()):
            if self.errors:
                raise self.errors[0]
            assert time.monotonic() < ends, (
                f"nothing in {timeout} s; pods: {[p['status'] for p in self.pods()]}"
            )
            time.sleep(0.02)
        return found

    # What a test arranges.

    def namespace(self, name: str) -> None:
        """Makes sure that a namespace exists, with its default service account."""
        if not self.store.find("namespaces", "", name):
            self.store.create("namespaces", "", {"metadata": {"name": name}, "status": {"phase": "Active"}})
            self.store.create("serviceaccounts", name, {"metadata": {"name": "default"}})

    def create(self, resource: str, namespace: str, body: Object, *, dry: bool = False) -> Object:
        """Creates an object as a client would, without HTTP.

        :raises ApiError: what the API server would answer.
        """
        return prepare(self, resource, namespace, body, dry=dry)

    def quota(self, namespace: str, hard: dict[str, Any], name: str = "quota") -> None:
        self.namespace(namespace)
        hard = {item: str(value) for item, value in hard.items()}
        self.store.create("resourcequotas", namespace, {"metadata": {"name": name}, "spec": {"hard": hard}})

    def limits(self, namespace: str, **rule: dict[str, str]) -> None:
        """A LimitRange: ``limits("ml", default={"cpu": "1"}, max={"memory": "2Gi"})``."""
        self.namespace(namespace)
        body = {"metadata": {"name": "limits"}, "spec": {"limits": [{"type": "Container", **rule}]}}
        self.store.create("limitranges", namespace, body)

    def forbid(self, verb: str, resource: str, namespace: str | None = None) -> None:
        """Takes a permission away: ``forbid("get", "pods/log")``; the verb ``*`` is all of them."""
        self.admission.denied.add((verb, resource, namespace))

    def allow(self, verb: str, resource: str, namespace: str | None = None) -> None:
        self.admission.denied.discard((verb, resource, namespace))

    def expire_watches(self) -> None:
        """Ends open watches with 410 and forgets every resourceVersion up to now."""
        self.store.forget_history()

    # What befalls pods and Jobs.

    def evict(self, pod: Any) -> None:
        """The kubelet under pressure: the pod fails as Evicted and stays to be read."""
        why = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        found = self._pod(pod)
        self._on_node(lambda: self.kubelet.fail(found, "Evicted", why, grace=0))
        emit(self.store, found, "Evicted", why, kind="Warning", source="kubelet")

    def preempt(self, pod: Any) -> None:
        found = self._pod(pod)
        emit(self.store, found, "Preempted", "Preempted by a more important pod", source="default-scheduler")
        why = "default-scheduler: preempting to accommodate a higher priority pod"
        self._disrupt(found, "PreemptionByScheduler", why)

    def drain(self, pod: Any) -> None:
        self._disrupt(self._pod(pod), "EvictionByEvictionAPI", "Eviction API: evicting")

    def oom(self, pod: Any) -> None:
        run = self.kubelet.run_of(self._pod(pod))
        assert run, "the pod has no running container"
        run.kill(out_of_memory=True)

    def lose_node(self, pod: Any, *, gone_after: float = 1.0) -> None:
        """The pod's node falls silent: phase Unknown, no logs, deleted by the pod garbage collector later."""
        found = self._pod(pod)

        def silence() -> None:
            run = self.kubelet.run_of(found)
            if run:
                run.lost = True
                run.kill()

        self._on_node(silence)
        message = f"Node {found['spec'].get('nodeName')} which was running pod {_name(found)} is unresponsive"

        def unknown(new: Object) -> None:
            new["status"] |= {"phase": "Unknown", "reason": "NodeLost", "message": message}
            set_condition(new["status"], "Ready", "False", "NodeLost")

        self._change_pod(found, unknown)

        def collect() -> None:
            def fail(new: Object) -> None:
                new["status"]["phase"] = "Failed"
                why = "PodGC: node no longer exists"
                set_condition(new["status"], "DisruptionTarget", "True", "DeletionByPodGC", why)

            with self.store.changed:
                still = self.store.find("pods", *_key(found))
                if still and still["metadata"]["uid"] == found["metadata"]["uid"]:
                    self._change_pod(found, fail)
                    self.store.delete("pods", *_key(found))

        timer = threading.Timer(gone_after, collect)
        timer.daemon = True
        timer.start()

    def delete(self, resource: str, namespace: str, name: str, *, propagation: str = "Background") -> None:
        obj = self.store.get(resource, namespace, name)
        self.store.delete(resource, namespace, name, grace=pod_grace(resource, obj), propagation=propagation)

    def vanish(self, pod: Any) -> None:
        """The object, its process and its logs are gone at once."""
        self.store.vanish("pods", *_key(self._pod(pod)))

    def admit(self, what: Any) -> None:
        """Kueue admits a Job (or a pod) that waits in its queue."""
        job = self._find("jobs", what, missing_ok=True)
        if job:
            self.store.update("jobs", *_key(job), lambda new: new["spec"].update(suspend=False))
            return

        def open_gate(new: Object) -> None:
            gates = new["spec"].get("schedulingGates") or []
            new["spec"]["schedulingGates"] = [gate for gate in gates if gate["name"] != GATE]

        self._change_pod(self._pod(what), open_gate)

    def log_of(self, pod: Object, container: str | None) -> Log:
        """The log of a container.

        :raises ApiError: the kubelet has none to give.
        """
        name, spec = _name(pod), pod["spec"]
        names = [each["name"] for each in [*spec["containers"], *(spec.get("initContainers") or [])]]
        if container is None and len(spec["containers"]) > 1:
            raise bad_request(f"a container name must be specified for pod {name}, choose one of: {names}")
        container = container or spec["containers"][0]["name"]
        if container not in names:
            raise bad_request(f"container {container} is not valid for pod {name}")
        if not spec.get("nodeName"):
            return _nothing()
        run = self.kubelet.run_of(pod)
        if run and run.lost:
            where = f"https://10.0.0.1:10250/containerLogs/{pod['metadata']['namespace']}/{name}/{container}"
            raise ApiError(500, "InternalError", f'Get "{where}": dial tcp 10.0.0.1:10250: no route to host')
        found = next((each for each in run.containers if each.name == container), None) if run else None
        if found is None or found.process is None:
            state = found.state if found else {}
            if "terminated" in state:
                return _nothing()
            reason = dig(state, "waiting.reason", "ContainerCreating")
            why = PULLS.get(reason, reason)
            verb = "is waiting to start"
            raise bad_request(f'container "{container}" in pod "{name}" {verb}: {why}')
        return found.process.log

    def _disrupt(self, pod: Object, reason: str, message: str) -> None:
        self._change_pod(
            pod, lambda new: set_condition(new["status"], "DisruptionTarget", "True", reason, message)
        )
        self.delete("pods", *_key(pod))

    def _on_node(self, act: Callable[[], None]) -> None:
        """Runs between two rounds of the kubelet, which shares its state with no lock but this."""
        with self.store.changed:
            act()

    def _change_pod(self, pod: Object, change: Callable[[Object], None]) -> None:
        self.store.update("pods", *_key(pod), change)

    def _pod(self, pod: Any) -> Object:
        found = self._find("pods", pod)
        assert found
        return found

    def _find(self, resource: str, what: Any, *, missing_ok: bool = False) -> Object | None:
        if isinstance(what, dict):
            key = _key(what)
        elif isinstance(what, str):
            key = tuple(what.split("/")) if "/" in what else ("", what)
        else:
            key = (what.metadata.namespace, what.metadata.name)
        for obj in self.store.list(resource):
            of_kind = not isinstance(what, dict) or what["kind"] == obj["kind"]
            if of_kind and _name(obj) == key[1] and key[0] in ("", obj["metadata"]["namespace"]):
                return obj
        if missing_ok:
            return None
        raise KeyError(f"no {resource} {key}")

    def _control(self) -> None:
        """The control plane: level-triggered rounds, after every change and at least each tick."""
        collected = 0.0
        while not self.store.stopped:
            version = self.store.version
            try:
                with self.store.changed:
                    self.kubelet.sync()
                    self._jobs.sync()
                    self.spark.sync()
                if time.monotonic() - collected > GARBAGE_EVERY:
                    collected = time.monotonic()
                    self.store.collect_garbage()
                    self.admission.refresh_quotas()
            except Exception as error:
                self.errors.append(error)
            self.store.wait(version, TICK)
            time.sleep(0.01)


def _nothing() -> Log:
    log = Log()
    log.close()
    return log


def _name(obj: Object) -> str:
    return obj["metadata"]["name"]


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


PULLS = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}
KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: double
clusters: [{{name: double, cluster: {{server: "{url}"}}}}]
users: [{{name: airflow, user: {{token: {token}}}}}]
contexts: [{{name: double, context: {{cluster: double, user: airflow, namespace: default}}}}]
"""
