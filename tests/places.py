"""The places that steps run in, for scenarios that are the same in all of them: a place is data and four verbs."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml
from cluster import Cluster, Image
from servers import s3_server

from airflow_ml_provider.compute import Compute, KubernetesCompute, LocalCompute
from airflow_ml_provider.compute.permissions import PERMISSIONS
from airflow_ml_provider.contract.store import Store

NAMESPACE = "ml"
IMAGE = "mlsteps:dev"


class Place(ABC):
    """Where a scenario's steps run.

    :param environment: what a deployment there has in its environment, its store above all.
    """

    environment: dict[str, str]

    @abstractmethod
    def compute(self, **fields: Any) -> Compute:
        """The deployment's compute, with some fields different."""

    @abstractmethod
    def running(self) -> Any:
        """Something true while a step runs, and its user's function may."""

    @abstractmethod
    def interrupt(self) -> None:
        """Take the running step's place away."""

    @abstractmethod
    def leftovers(self) -> list[str]:
        """What of steps is still there."""

    def until(self, what: Callable[[], Any], seconds: float = 60) -> Any:
        """The first true value of ``what()``."""
        end = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < end, f"nothing within {seconds} s; left over: {self.leftovers()}"
            time.sleep(0.1)
        return found


class Local(Place):
    """Processes beside the task."""

    def __init__(self, folder: Path) -> None:
        self.store = (folder / "store").as_uri()
        self.environment = {"AIRFLOW__ML__STORE": self.store}

    def compute(self, **fields: Any) -> Compute:
        return LocalCompute().but(fields)

    def running(self) -> Any:
        return [each for each in self._processes() if time.time() - each.create_time() > 1.5]

    def interrupt(self) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    def leftovers(self) -> list[str]:
        return [str(process.pid) for process in self._processes()]

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            line = " ".join(process.info["cmdline"] or [])
            if (
                "airflow_ml_provider.steps" in line
                and self.store in line
                and process.info["status"] != "zombie"
            ):
                found.append(process)
        return found


class Double(Place):
    """Pods that are processes, behind a real API over HTTP."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        cluster.namespace(NAMESPACE)
        cluster.images[IMAGE] = Image(python=sys.executable)
        extra = {"kube_config_path": str(cluster.kubeconfig), "namespace": NAMESPACE}
        self.environment = {
            "AIRFLOW__ML__STORE": (folder / "store").as_uri(),
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps({"conn_type": "kubernetes", "extra": extra}),
        }

    def compute(self, **fields: Any) -> Compute:
        return KubernetesCompute(image=IMAGE).but(fields)

    def running(self) -> Any:
        return [pod for pod in self.cluster.pods(NAMESPACE) if pod["status"].get("phase") == "Running"]

    def interrupt(self) -> None:
        for pod in self.running():
            self.cluster.preempt(pod)

    def leftovers(self) -> list[str]:
        kinds = (self.cluster.pods, self.cluster.jobs, self.cluster.secrets)
        return [each["metadata"]["name"] for kind in kinds for each in kind(NAMESPACE)]


class RealCluster(Place):
    """Whatever cluster the current kube context names, in a namespace made for the tests.

    Airflow's side has a service account of its own with exactly the permissions of the chart. The store is an S3
    server on this machine, so the cluster's pods have to reach it: at ``host``.

    :param image: what steps run in; the nodes must have it or be able to pull it.
    :param host: this machine's address as pods see it.
    """

    def __init__(self, image: str, host: str | None, folder: Path) -> None:
        from kubernetes import client, config

        config.load_kube_config()
        self.image, self.folder = image, folder
        self.core, self.rbac, self.batch = (
            client.CoreV1Api(),
            client.RbacAuthorizationV1Api(),
            client.BatchV1Api(),
        )
        self.namespace = f"airflow-ml-test-{secrets.token_hex(3)}"
        self.host = host or self._host()
        self.bucket = "ml-steps"
        self._servers = contextlib.ExitStack()

    def __enter__(self) -> RealCluster:
        try:
            self._serve()
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self.core.delete_namespace(self.namespace)
        self._servers.close()

    def compute(self, **fields: Any) -> Compute:
        standard = KubernetesCompute(
            image=self.image, namespace=self.namespace, secrets=["ml-store"], service_account="ml-step",
            image_pull_policy="IfNotPresent", pod_template={"spec": {"terminationGracePeriodSeconds": 5}},
        )  # fmt: skip
        return standard.but(fields)

    def running(self) -> Any:
        found = self.core.list_namespaced_pod(self.namespace, field_selector="status.phase=Running").items
        return [pod for pod in found if pod.metadata.deletion_timestamp is None]

    def interrupt(self) -> None:
        from kubernetes import client

        for pod in self.running():
            name = client.V1ObjectMeta(name=pod.metadata.name, namespace=self.namespace)
            self.core.create_namespaced_pod_eviction(
                pod.metadata.name, self.namespace, client.V1Eviction(metadata=name)
            )

    def leftovers(self) -> list[str]:
        secrets_ = [
            s for s in self.core.list_namespaced_secret(self.namespace).items if s.metadata.name != "ml-store"
        ]
        pods = self.core.list_namespaced_pod(self.namespace).items
        jobs = self.batch.list_namespaced_job(self.namespace).items
        return [each.metadata.name for each in [*pods, *jobs, *secrets_]]

    def new_store(self) -> None:
        """A store that nobody else uses."""
        self.environment["AIRFLOW__ML__STORE"] = f"s3://{self.bucket}/{secrets.token_hex(4)}"

    def _host(self) -> str:
        """The address of this machine on the way to a node: pods see it there in kind, k3d and minikube."""
        for node in self.core.list_node().items:
            for address in node.status.addresses or []:
                if address.type == "InternalIP":
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                        probe.connect((address.address, 9))
                        return str(probe.getsockname()[0])
        raise RuntimeError("no node tells its address; give this machine's, as pods see it, with HOST=")

    def _serve(self) -> None:
        endpoint = self._servers.enter_context(s3_server(self.folder / "s3.log", self.host))
        self.credentials = {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "steps",
            "AWS_SECRET_ACCESS_KEY": "kept-in-a-secret", "AWS_REGION": "us-east-1",
        }  # fmt: skip
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{self.bucket}", method="PUT")).close()

    def _prepare(self) -> None:
        enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.core.create_namespace({"metadata": {"name": self.namespace, "labels": enforced}})
        for name in ("airflow", "ml-step"):
            self.core.create_namespaced_service_account(self.namespace, {"metadata": {"name": name}})
        self.core.create_namespaced_secret(
            self.namespace, {"metadata": {"name": "ml-store"}, "stringData": self.credentials}
        )
        rules = [
            {"apiGroups": [p.group], "resources": [p.resource], "verbs": list(p.verbs)} for p in PERMISSIONS
        ]
        self.rbac.create_namespaced_role(self.namespace, {"metadata": {"name": "airflow"}, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": "airflow", "namespace": self.namespace}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "airflow"}
        self.rbac.create_namespaced_role_binding(
            self.namespace, {"metadata": {"name": "airflow"}, "subjects": [subject], "roleRef": reference}
        )
        extra = {"kube_config_path": str(self._kubeconfig()), "namespace": self.namespace}
        self.environment = {
            **self.credentials,
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps({"conn_type": "kubernetes", "extra": extra}),
        }
        self.new_store()

    def _kubeconfig(self) -> Path:
        """How Airflow's side reaches the cluster: as its own service account."""
        from kubernetes.client import Configuration

        token = self.core.create_namespaced_service_account_token(
            "airflow", self.namespace, {"spec": {"expirationSeconds": 7200}}
        ).status.token
        current = Configuration.get_default_copy()
        cluster: dict[str, Any] = {"server": current.host}
        if current.ssl_ca_cert:
            cluster["certificate-authority"] = current.ssl_ca_cert
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "airflow", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "airflow"}}],
        }  # fmt: skip
        path = self.folder / "kubeconfig"
        path.write_text(yaml.safe_dump(document))
        path.chmod(0o600)
        return path


def store_of(place: Place) -> Store:
    """The place's store, as this process sees it."""
    return Store(place.environment["AIRFLOW__ML__STORE"])
