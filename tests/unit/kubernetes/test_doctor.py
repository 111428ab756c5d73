"""``airflow-ml doctor``: what is missing is named before anything runs, with what to do about it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from on_cluster import IMAGE, NAMESPACE, World
from test_code_and_credentials import permission_of

from airflow_ml_provider import __version__
from airflow_ml_provider.cli import main
from airflow_ml_provider.compute import SparkKubernetesCompute
from airflow_ml_provider.compute.permissions import PERMISSIONS, SPARK_PERMISSIONS
from airflow_ml_provider.contract.documents import PROTOCOL
from airflow_ml_provider.contract.store import local_path
from airflow_ml_provider.steps import self_check

PASSWORD = "pl4nted-s3cret"
USER = "system:serviceaccount:default:airflow"
EVERY = [(each.resource, verb) for each in PERMISSIONS for verb in each.verbs]
ON_SPARK = SparkKubernetesCompute(image=IMAGE, service_account="spark", start_timeout=4)


class Mlflow(BaseHTTPRequestHandler):
    """As much of a tracking server as the doctor asks: it wants a login, and tells its version."""

    version = "3.17.0"

    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(f"mlops:{PASSWORD}".encode()).decode()
        if self.path == "/version":
            self._answer(200, self.version)
        elif self.headers.get("Authorization") != wanted:
            self._answer(401, "You are not authenticated")
        else:
            self._answer(200, '{"experiments": []}')

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Mlflow, "version", "3.17.0")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mlflow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


Doctor = Callable[..., dict[str, list[dict[str, Any]]]]


@pytest.fixture
def settings(world: World, mlflow: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Changes fields of the configured compute; that of the deployment all is well with, to begin with."""

    def change(**fields: Any) -> None:
        configured = {"image": IMAGE, "start_timeout": 4, **fields}
        monkeypatch.setenv("AIRFLOW__ML__KUBERNETES", json.dumps(configured))

    monkeypatch.setenv("AIRFLOW__ML__COMPUTE", "kubernetes")
    connect(monkeypatch, mlflow)
    change()
    return change


@pytest.fixture
def doctor(settings: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> Doctor:
    """Runs it; gives what failed by its check, after asserting that exit code and output agree."""

    def run(*options: str) -> dict[str, list[dict[str, Any]]]:
        capfd.readouterr()
        code = main(["doctor", "--json", *options])
        told = "".join(capfd.readouterr())
        assert PASSWORD not in told
        report = json.loads(told[told.index("{") : told.rindex("}") + 1])
        failed: dict[str, list[dict[str, Any]]] = {}
        for each in report["checks"]:
            if each["status"] == "FAIL":
                failed.setdefault(each["check"], []).append(each)
        assert code == (1 if failed else 0)
        assert report["ok"] == (not failed)
        return failed

    return run


def connect(monkeypatch: pytest.MonkeyPatch, uri: str, password: str = PASSWORD) -> None:
    connection = {"conn_type": "mlflow", "host": uri, "login": "mlops", "password": password}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(connection))


def interpreter(folder: Path, text: str) -> str:
    """A program in the place of an image's python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("settings")
def test_a_deployment_that_is_fine_passes_every_check(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "ok    configuration", "ok    configuration", "ok    store", "ok    MLflow", "ok    Kubernetes",
        "ok    permissions", "ok    admission", "ok    package", "ok    store from a step", "ok    MLflow from a step",
    ]  # fmt: skip
    assert f"with protocol {PROTOCOL}, as here ({__version__})" in lines[7]


@pytest.mark.usefixtures("settings")
def test_nothing_is_left_behind(world: World, doctor: Doctor) -> None:
    assert not doctor()
    assert len(world.pods_ever()) == 1
    world.cluster.until(lambda: not world.cluster.pods() and not world.cluster.secrets())
    assert not [path for path in local_path(world.store.uri).rglob("*") if path.is_file()]
    assert "AIRFLOW__ML__COMPUTE" in os.environ
    assert "_AIRFLOW_PROCESS_CONTEXT" not in os.environ


def test_it_asks_for_nothing_that_the_role_does_not_grant(world: World, doctor: Doctor) -> None:
    doctor()
    granted = {(each.group, each.resource, verb) for each in PERMISSIONS for verb in each.verbs}
    of_namespace = [each for each in world.cluster.requests if "/namespaces/" in each.path]
    assert {permission_of(request) for request in of_namespace} <= granted


def test_the_password_of_mlflow_is_in_no_object_but_its_secret(world: World, doctor: Doctor) -> None:
    doctor()
    assert PASSWORD not in json.dumps([world.pods_ever(), world.cluster.events()])
    assert len(world.cluster.ever("secrets")) == 1


@pytest.mark.parametrize(("resource", "verb"), EVERY)
def test_a_missing_permission_is_named_with_the_rule_to_add(
    world: World, doctor: Doctor, resource: str, verb: str
) -> None:
    world.cluster.forbid(verb, resource)
    [missing] = doctor("--no-pod")["permissions"]
    group = "batch" if resource == "jobs" else ""
    assert (missing["object"], missing["verb"], missing["namespace"]) == (resource, verb, NAMESPACE)
    assert f"{USER} may not {verb} {resource} in namespace 'ml'" in missing["what"]
    assert f'{{apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"]}}' in missing["todo"]


@pytest.mark.parametrize("verb", SPARK_PERMISSIONS[0].verbs)
def test_a_right_that_only_spark_needs_is_asked_for_with_spark_alone(
    world: World, doctor: Doctor, verb: str
) -> None:
    world.cluster.forbid(verb, "sparkapplications")
    assert not doctor("--no-pod")
    [missing] = doctor("--no-pod", "--compute", f"{__name__}:ON_SPARK")["permissions"]
    assert (missing["object"], missing["verb"]) == ("sparkapplications", verb)
    assert (
        f'{{apiGroups: ["sparkoperator.k8s.io"], resources: ["sparkapplications"], verbs: ["{verb}"]}}'
        in missing["todo"]
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_cluster_without_the_spark_operator_is_found_out_with_spark_alone(
    world: World, doctor: Doctor, known: bool
) -> None:
    world.cluster.service_accounts.add((NAMESPACE, "spark"))
    if not known:
        message = "the server could not find the requested resource"
        world.cluster.faults.add(path="/sparkapplications", status=404, message=message, times=None)
    assert not doctor("--no-pod")
    failed = doctor("--no-pod", "--compute", f"{__name__}:ON_SPARK")
    assert list(failed) == ([] if known else ["Spark operator"])
    if not known:
        assert "install the Spark operator" in failed["Spark operator"][0]["todo"]


def test_every_missing_permission_has_a_line_and_no_pod_is_tried(world: World, doctor: Doctor) -> None:
    world.cluster.forbid("*", "pods")
    world.cluster.forbid("*", "secrets")
    failed = doctor()
    asked = [verb for resource, verb in EVERY if resource in ("pods", "secrets")]
    assert len(failed.pop("permissions")) == len(asked)
    assert not failed
    assert not world.pods_ever()


def test_a_missing_service_account_is_named(doctor: Doctor, settings: Callable[..., None]) -> None:
    settings(service_account="ml-step")
    [refused] = doctor()["admission"]
    assert 'serviceaccount "ml-step" not found' in refused["what"]
    assert refused["todo"].startswith("create it: kubectl create serviceaccount ml-step -n ml")
    assert (refused["verb"], refused["namespace"]) == ("create", NAMESPACE)
    assert refused["object"].startswith("pod airflow-ml-doctor-")


def test_a_missing_namespace_is_named(doctor: Doctor, settings: Callable[..., None]) -> None:
    settings(namespace="nowhere")
    [refused] = doctor()["admission"]
    assert refused["object"] == "namespace nowhere"
    assert "kubectl create namespace nowhere" in refused["todo"]


def test_who_may_do_nothing_is_asked_whether_there_is_such_a_namespace(
    world: World, settings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    for permission in PERMISSIONS:
        world.cluster.forbid("*", permission.resource)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "skip  admission: needs the permission to create pods; is there a namespace 'ml'?" in lines


def test_a_quota_that_leaves_no_room_is_named(world: World, doctor: Doctor) -> None:
    world.cluster.quota(NAMESPACE, {"pods": 0})
    [refused] = doctor()["admission"]
    assert "exceeded quota" in refused["what"]
    assert "raise the ResourceQuota" in refused["todo"]


def test_a_limit_of_the_namespace_is_named(
    world: World, doctor: Doctor, settings: Callable[..., None]
) -> None:
    world.cluster.limits(NAMESPACE, max={"memory": "1Gi"})
    settings(resources={"memory": "2Gi"})
    [refused] = doctor()["admission"]
    assert "maximum memory usage per Container is 1Gi" in refused["what"]


def test_missing_secrets_are_named(world: World, doctor: Doctor, settings: Callable[..., None]) -> None:
    settings(secrets=["keys"], image_pull_secrets=["registry"])
    failed = doctor()
    assert [each["object"] for each in failed["objects"]] == ["secret keys", "secret registry"]
    assert failed["objects"][0]["todo"].startswith("create it: kubectl create secret generic keys -n ml")
    assert 'secret "keys" not found' in failed["package"][0]["what"]


def test_objects_that_we_may_not_read_are_left_to_the_pod(
    world: World, settings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    world.cluster.create("secrets", NAMESPACE, {"metadata": {"name": "keys"}})
    world.cluster.forbid("get", "persistentvolumeclaims")
    settings(secrets=["keys"], volumes={"/data": "raw"})
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ok    objects: secret 'keys' exists in namespace 'ml'" in lines
    assert "skip  objects: claim 'raw' may not be read by us; the pod will tell" in lines


def test_an_unknown_image_is_named(doctor: Doctor, settings: Callable[..., None]) -> None:
    settings(image="nobody/pushed:this")
    [unpulled] = doctor()["package"]
    assert "the image 'nobody/pushed:this' cannot be pulled" in unpulled["what"]
    assert "image_pull_secrets=" in unpulled["todo"]


@pytest.mark.parametrize(
    "said",
    [
        "python: Error while finding module specification for 'airflow_ml_provider.steps.self_check' "
        "(ModuleNotFoundError: No module named 'airflow_ml_provider')",
        "/usr/local/bin/python: No module named airflow_ml_provider.steps.self_check",
    ],
)
def test_an_image_without_the_package_is_told_from_a_broken_one(
    world: World, doctor: Doctor, tmp_path: Path, said: str
) -> None:
    world.cluster.images[IMAGE].python = interpreter(tmp_path, f'echo "{said}" >&2; exit 1')
    [foreign] = doctor()["package"]
    assert foreign["what"] == f"the image {IMAGE!r} has no airflow-ml-provider, or one older than 0.1"
    assert foreign["todo"].startswith(f"build the image with airflow-ml-provider {__version__}")


def test_an_image_of_another_protocol_is_refused_with_both_numbers(
    world: World, doctor: Doctor, tmp_path: Path
) -> None:
    line = json.dumps({"package": "9.0.0", "protocol": 7, "python": "3.14.0"})
    world.cluster.images[IMAGE].python = interpreter(tmp_path, f"echo '{line}'")
    [other] = doctor()["package"]
    assert "airflow-ml-provider 9.0.0, which speaks protocol 7" in other["what"]
    assert f"here is {__version__}, which speaks protocol {PROTOCOL}" in other["what"]
    assert other["todo"].startswith(f"build the image with airflow-ml-provider {__version__}")


def test_what_a_broken_image_says_is_shown_without_the_secrets_in_it(
    world: World, doctor: Doctor, settings: Callable[..., None], tmp_path: Path
) -> None:
    key = {"metadata": {"name": "keys"}, "stringData": {"CLOUD_KEY": "cl0ud-s3cret"}}
    world.cluster.create("secrets", NAMESPACE, key)
    settings(secrets=["keys"])
    dumps = 'echo "no module: $MLFLOW_TRACKING_PASSWORD $CLOUD_KEY"; exit 3'
    world.cluster.images[IMAGE].python = interpreter(tmp_path, dumps)
    [broken] = doctor()["package"]
    assert broken["what"].endswith("does not run the check; it said: no module: *** ***")


def test_what_a_broken_image_says_is_not_shown_where_its_secrets_are_unknown(
    world: World,
    doctor: Doctor,
    settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_MLFLOW_DEFAULT")
    key = {"metadata": {"name": "keys"}, "stringData": {"CLOUD_KEY": PASSWORD}}
    world.cluster.create("secrets", NAMESPACE, key)
    world.cluster.forbid("get", "secrets")
    settings(secrets=["keys"])
    world.cluster.images[IMAGE].python = interpreter(tmp_path, 'echo "no module: $CLOUD_KEY"; exit 3')
    [broken] = doctor()["package"]
    assert "it said: what is not shown" in broken["what"]


def test_a_pod_that_finds_no_place_is_explained(
    world: World, doctor: Doctor, settings: Callable[..., None]
) -> None:
    world.cluster.node_capacity = {"cpu": 2, "memory": "4Gi", "pods": 10}
    settings(resources={"cpu": 1000}, start_timeout=1)
    [unplaced] = doctor()["package"]
    assert "Insufficient cpu" in unplaced["what"]
    world.cluster.until(lambda: not world.cluster.pods())


def test_a_pod_that_sees_another_store_is_found_out(world: World, doctor: Doctor, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    world.cluster.images[IMAGE].python = interpreter(
        tmp_path, f'exec {sys.executable} -P -m airflow_ml_provider.steps.self_check --store {elsewhere} '
        '--planted "$7"',
    )  # fmt: skip
    world.cluster.images[IMAGE].env["PYTHONPATH"] = str(Path(self_check.__file__).parents[2])
    [other] = doctor()["store from a step"]
    assert "is another store here than where Airflow runs" in other["what"]
    assert other["verb"] == "find"


def test_a_store_that_cannot_be_written_is_named(
    world: World, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AIRFLOW__ML__STORE", str(tmp_path / "file" / "store"))
    failed = doctor()
    for check in ("store", "store from a step"):
        [refused] = failed[check]
        assert refused["verb"] == "write"
        assert refused["object"] == (tmp_path / "file" / "store").as_uri()
        assert "read and write access" in refused["todo"]


def test_a_store_that_lets_two_create_the_same_document_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore.store import MemoryStore

    from airflow_ml_provider.contract.store import Store

    memory = MemoryStore()
    monkeypatch.setattr(Store, "_objects", memory)
    monkeypatch.setattr(Store, "create", lambda store, path, content: bool(store.write(path, content)))
    tried = self_check.try_store("memory://x")
    assert not tried["ok"]
    assert "lets a document be created twice" in tried["error"]


def test_without_a_store_the_rest_is_checked_and_the_pod_is_left_out(
    world: World, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW__ML__STORE")
    failed = doctor()
    assert list(failed) == ["configuration"]
    assert "no store is configured" in failed["configuration"][0]["what"]
    assert not world.pods_ever()


def test_an_mlflow_that_is_too_old_is_refused_with_what_is_supported(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mlflow, "version", "2.22.1")
    failed = doctor("--no-pod")
    assert "is MLflow 2.22.1; supported: 3.0 or newer" in failed["MLflow"][0]["what"]
    assert "mlflow db upgrade" in failed["MLflow"][0]["todo"]


def test_an_mlflow_that_is_not_reachable_is_told_from_one_that_refuses_the_password(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, mlflow: str
) -> None:
    connect(monkeypatch, mlflow, "wr0ng-s3cret")
    [refused] = doctor("--no-pod")["MLflow"]
    assert "refused the connection 'mlflow_default' (HTTP 401)" in refused["what"]
    connect(monkeypatch, "http://127.0.0.1:9")
    [unreachable] = doctor("--no-pod")["MLflow"]
    assert "http://127.0.0.1:9 is not reachable" in unreachable["what"]


def test_a_missing_mlflow_connection_says_where_it_was_looked_for(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_MLFLOW_DEFAULT")
    [missing] = doctor("--no-pod")["MLflow"]
    assert missing["object"] == "connection mlflow_default"
    assert "there is no Airflow connection 'mlflow_default'" in missing["what"]


def test_an_mlflow_that_only_airflow_reaches_fails_from_the_step(
    world: World, doctor: Doctor, settings: Callable[..., None]
) -> None:
    # The pod's own variables win over those of its Secret.
    settings(environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    failed = doctor()
    assert list(failed) == ["MLflow from a step"]
    assert "not reachable" in failed["MLflow from a step"][0]["what"]


def test_a_missing_kubernetes_connection_is_named(doctor: Doctor, settings: Callable[..., None]) -> None:
    settings(conn_id="another")
    [missing] = doctor()["Kubernetes"]
    assert missing["what"] == "there is no Airflow connection 'another'"


def test_an_api_that_does_not_answer_ends_the_checks_of_the_cluster(
    world: World, doctor: Doctor, settings: Callable[..., None]
) -> None:
    text = world.cluster.kubeconfig.read_text()
    world.cluster.kubeconfig.write_text(text.replace(world.cluster.url, "http://127.0.0.1:9"))
    failed = doctor()
    assert list(failed) == ["Kubernetes"]
    assert "reachable from here" in failed["Kubernetes"][0]["todo"]


def test_credentials_that_the_api_refuses_are_named(world: World, doctor: Doctor) -> None:
    text = world.cluster.kubeconfig.read_text()
    world.cluster.kubeconfig.write_text(text.replace(world.cluster.token, "expired"))
    [refused] = doctor()["Kubernetes"]
    assert "HTTP 401" in refused["what"]
    assert "credentials of the Kubernetes connection" in refused["todo"]


def test_the_pod_is_removed_when_the_doctor_is_interrupted(
    world: World, settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_ml_provider.cli import doctor_pod

    def interrupt(step: Any) -> str:
        assert world.cluster.pods()
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor_pod, "_log_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main(["doctor"])
    world.cluster.until(lambda: not world.cluster.pods())


@pytest.mark.usefixtures("settings")
def test_a_local_compute_is_checked_by_a_process_with_its_interpreter(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not doctor("--compute", "local")
    fake = interpreter(tmp_path, 'echo "python: No module named airflow_ml_provider.steps" >&2; exit 1')
    (tmp_path / "places.py").write_text(
        f"from airflow_ml_provider.compute import LocalCompute\nmine = LocalCompute(python={fake!r})\n"
        f"none = LocalCompute(python={str(tmp_path / 'none')!r})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "places", raising=False)
    [foreign] = doctor("--compute", "places:mine")["package"]
    monkeypatch.delitem(sys.modules, "places")
    assert foreign["what"] == f"{fake} has no airflow-ml-provider, or one older than 0.1"
    assert foreign["todo"].startswith(f"pip install airflow-ml-provider=={__version__}")


@pytest.mark.usefixtures("settings")
def test_a_failure_is_a_line_and_its_fix_the_next(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.cluster.forbid("get", "pods/log")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    where = next(number for number, line in enumerate(lines) if line.startswith("FAIL  permissions: "))
    assert lines[where + 1].startswith(f"      fix: give {USER} a Role in namespace 'ml' with this rule: ")
    assert "skip  package: needs the permission to get pods/log" in lines
    assert lines[-1] == f"1 of {len(lines) - 2} checks failed"


def test_without_airflow_it_says_where_to_run_it_and_the_rest_works(tmp_path: Path) -> None:
    hidden = (
        "import importlib.abc, sys\n"
        "class Hidden(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.split('.')[0] == 'airflow': raise ModuleNotFoundError(name=name)\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'airflow' else real(name, *more)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from airflow_ml_provider.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", hidden, *arguments], capture_output=True, text=True, check=False
        )

    told = run("doctor")
    assert told.returncode == 1
    assert told.stdout.startswith(
        "FAIL  Airflow: the doctor runs where Airflow runs, and here is no Airflow\n"
    )
    assert 'pip install "airflow-ml-provider[airflow,kubernetes]"' in told.stdout
    assert json.loads(run("doctor", "--json").stdout)["ok"] is False
    spec = tmp_path / "spec.json"
    spec.write_text("{}")
    assert run("run-step", "--spec", str(spec)).returncode == 64


def test_a_check_that_takes_too_long_is_given_up() -> None:
    waiting = threading.Event()
    assert self_check.within(0.05, lambda: {"ok": waiting.wait(10)}) == {
        "ok": False, "error": "there was no answer within 0 s",
    }  # fmt: skip
    waiting.set()
