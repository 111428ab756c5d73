"""The light client of MLflow against a real server, seen with MLflow's own client."""

from __future__ import annotations

import math
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import mlflow
import pytest
import requests
from mlflow.entities import Metric as MlflowMetric

from airflow_ml_provider.contract.documents import StepSpec, Tracking
from airflow_ml_provider.contract.errors import ConfigError, DataError, TransientError
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.steps.mlflow_client import Metric, Pair, RestClient
from airflow_ml_provider.steps.mlflow_rest import RestError, is_spoken
from airflow_ml_provider.steps.tracking import Tracker


@pytest.fixture
def own(mlflow_uri: str) -> mlflow.MlflowClient:
    """MLflow's own client."""
    mlflow.set_tracking_uri(mlflow_uri)
    return mlflow.MlflowClient(mlflow_uri, mlflow_uri)


@pytest.fixture
def client(mlflow_uri: str) -> RestClient:
    return RestClient(mlflow_uri)


@pytest.fixture
def run_id(client: RestClient) -> str:
    found = client.get_experiment_by_name("light")
    experiment = found.experiment_id if found else client.create_experiment("light")
    return str(client.create_run(experiment, run_name="a run", tags={"color": "blue"}).info.run_id)


class Answering(ThreadingHTTPServer):
    """Answers everything the same, and remembers how its client logged in."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body = status, body
        self.logins: list[str | None] = []
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.server.logins.append(self.headers.get("Authorization"))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def answering() -> Iterator[type[Answering]]:
    servers: list[Answering] = []

    class Remembered(Answering):
        def __init__(self, status: int, body: bytes) -> None:
            super().__init__(status, body)
            servers.append(self)

    yield Remembered
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_run_is_the_same_seen_with_either_client(
    client: RestClient, own: mlflow.MlflowClient, run_id: str
) -> None:
    client.log_batch(
        run_id,
        [Metric(f"m{n}", n / 8, 1_000 + n, n) for n in range(2_100)]
        + [Metric("none", math.nan, 1), Metric("much", math.inf, 1), Metric("little", -math.inf, 1)],
        [Pair(f"p{n}", "ä ß") for n in range(150)],
        [Pair(f"t{n}", str(n)) for n in range(230)],
    )
    client.log_batch(run_id, [MlflowMetric("theirs", 2.5, 1, 0)])
    given = {
        "name": "rows", "digest": "v3", "source_type": "delta_table", "source": "{}", "schema": "{}", "profile": "{}",
    }  # fmt: skip
    client.log_dataset(run_id, given, "training")
    client.update_run(run_id, status="RUNNING")
    client.set_terminated(run_id, "FINISHED")

    light, theirs = client.get_run(run_id), own.get_run(run_id)
    assert len(theirs.data.metrics) == 2_104
    metrics = dict(light.data.metrics)
    assert math.isnan(metrics.pop("none"))
    # MLflow's databases keep an infinite value as the largest finite one.
    assert metrics == {name: value for name, value in theirs.data.metrics.items() if name != "none"}
    assert (metrics["m17"], metrics["theirs"]) == (17 / 8, 2.5)
    assert (light.data.params, light.data.tags) == (theirs.data.params, theirs.data.tags)
    assert theirs.data.tags["color"] == "blue"
    for field in ("run_id", "experiment_id", "run_name", "status", "artifact_uri", "start_time", "end_time"):
        assert getattr(light.info, field) == getattr(theirs.info, field)
    assert theirs.info.status == "FINISHED"
    assert theirs.inputs is not None
    [used] = theirs.inputs.dataset_inputs
    assert {name: getattr(used.dataset, name) for name in given} == given
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]


def test_runs_are_found_page_by_page(client: RestClient, run_id: str) -> None:
    experiment = client.get_run(run_id).info.experiment_id
    for number in range(3):
        client.create_run(experiment, tags={"of": run_id, "number": str(number)})
    wanted = f"tags.of = '{run_id}'"
    first = client.search_runs([experiment], wanted, max_results=2)
    rest = client.search_runs([experiment], wanted, max_results=2, page_token=first.token)
    assert (len(first), len(rest), rest.token) == (2, 1, "")
    assert {run.data.tags["number"] for run in [*first, *rest]} == {"0", "1", "2"}


def test_a_version_is_the_same_seen_with_either_client(
    client: RestClient, own: mlflow.MlflowClient, run_id: str
) -> None:
    name = f"light model {run_id[:6]}"
    client.create_registered_model(name)
    with pytest.raises(RestError) as twice:
        client.create_registered_model(name)
    assert twice.value.error_code == "RESOURCE_ALREADY_EXISTS"
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    made = client.create_model_version(name, source, run_id, tags={"kind": "small"})
    client.set_model_version_tag(name, made.version, "size", "2")
    client.set_registered_model_alias(name, "champion", made.version)

    theirs = own.get_model_version_by_alias(name, "champion")
    assert theirs.tags == {"kind": "small", "size": "2"}
    [searched] = client.search_model_versions(f"run_id = '{run_id}'")
    for light in (
        client.get_model_version(name, "1"),
        client.get_model_version_by_alias(name, "champion"),
        searched,
    ):
        for field in ("name", "version", "run_id", "source", "tags"):
            assert getattr(light, field) == getattr(theirs, field)


def test_files_go_there_and_back(
    client: RestClient, own: mlflow.MlflowClient, run_id: str, tmp_path: Path
) -> None:
    folder = tmp_path / "a model"
    (folder / "below").mkdir(parents=True)
    contents = {"MLmodel": b"flavors: {}", "below/weights 1.bin": bytes(range(256)), "below/empty": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    client.log_artifacts(run_id, str(folder), "model")
    client.log_artifact(run_id, str(folder / "MLmodel"))

    assert {file.path for file in own.list_artifacts(run_id)} == {"MLmodel", "model"}
    assert [(file.path, file.is_dir) for file in client.list_artifacts(run_id)] == [
        ("MLmodel", False), ("model", True),
    ]  # fmt: skip
    theirs = Path(own.download_artifacts(run_id, "model", str(tmp_path)))
    for number, uri in enumerate([f"runs:/{run_id}/model", f"{own.get_run(run_id).info.artifact_uri}/model"]):
        found = client.download(uri, tmp_path / str(number))
        assert found == tmp_path / str(number) / "model"
        for place in (found, theirs):
            files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
            assert {name: (place / name).read_bytes() for name in files} == contents
    alone = client.download(f"runs:/{run_id}/MLmodel", tmp_path / "alone")
    assert alone.read_bytes() == contents["MLmodel"]
    assert "mlflow_client" not in vars(client)


def test_large_files_and_other_methods_are_left_to_mlflows_own_client(
    client: RestClient, run_id: str, tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(17 << 20))
    client.log_artifact(run_id, str(large), "weights")
    assert "mlflow_client" in vars(client)
    found = client.download(f"runs:/{run_id}/weights", tmp_path / "back")
    assert (found / "large.bin").stat().st_size == 17 << 20
    assert [metric.value for metric in client.get_metric_history(run_id, "nothing")] == []
    with pytest.raises(AttributeError):
        client.no_such_method  # noqa: B018


@pytest.mark.parametrize(
    ("variables", "spoken"),
    [
        ({}, True),
        ({"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "secret"}, True),
        ({"MLFLOW_TRACKING_AWS_SIGV4": "true"}, False),
        ({"MLFLOW_TRACKING_AUTH": "kubernetes"}, False),
        ({"MLFLOW_WORKSPACE": "ours"}, False),
    ],
)
def test_a_login_that_only_mlflows_own_client_knows_is_left_to_it(
    variables: dict[str, str], spoken: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_spoken("https://mlflow.example.com") is spoken
    assert not is_spoken("sqlite:///mlflow.db")
    assert not is_spoken("databricks")
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").touch()
    assert not is_spoken("https://mlflow.example.com")


@pytest.mark.parametrize(
    ("variables", "login"),
    [
        ({}, None),
        (
            {
                "MLFLOW_TRACKING_USERNAME": "ada",
                "MLFLOW_TRACKING_PASSWORD": "x",
                "MLFLOW_TRACKING_TOKEN": "t",
            },
            "Basic YWRhOng=",
        ),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
    ],
)
def test_it_logs_in_as_mlflow_does(
    variables: dict[str, str], login: str | None, answering: type[Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    server = answering(200, b'{"model_versions": []}')
    assert RestClient(server.url).search_model_versions("") == []
    assert server.logins == [login]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, b"You are not authenticated", ConfigError),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', ConfigError),
        (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}', DataError),
        (404, b"<html>a proxy's page</html>", TransientError),
        (200, b"<html>a login page</html>", TransientError),
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "broken"}', TransientError),
    ],
)
def test_an_error_is_told_by_whether_a_retry_helps(
    status: int,
    body: bytes,
    error: type[Exception],
    answering: type[Answering],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = answering(status, body)
    tracker = Tracker(StepSpec("predict", "file:///store", {}, tracking=Tracking(uri=server.url)))
    with pytest.raises(error, match="find model"):
        tracker.resolve(Model("late", version=1))


def test_a_server_that_is_not_there_raises_as_requests_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(requests.ConnectionError):
        RestClient("http://127.0.0.1:9").get_run("a")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """A tracking server that is only a database."""
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    yield f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


def test_a_tracking_server_that_is_a_database_is_used_through_mlflows_own_client(
    database: str, tmp_path: Path
) -> None:
    spec = StepSpec(
        "train", tmp_path.as_uri(), {}, step_key="k", fingerprint="f", tracking=Tracking(uri=database, experiment="e")
    )  # fmt: skip
    tracker = Tracker(spec)
    tracker.client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    (tmp_path / "note.txt").write_text("hello")
    with tracker.run("by hand") as run:
        tracker.log(run.run_id, params={"depth": 3}, metrics={"auc": 0.5}, tags={"a": "b"})
        tracker.log_dataset(
            run.run_id, "training", name="rows", digest="v1", source_type="delta_table", source="{}"
        )
        tracker.log_file(run.run_id, tmp_path / "note.txt")
    found = tracker.client.get_run(run.run_id)
    assert (found.data.params, found.data.metrics) == ({"depth": "3"}, {"auc": 0.5})
    assert found.inputs.dataset_inputs[0].dataset.name == "rows"
    assert tracker.download(f"runs:/{run.run_id}/note.txt", tmp_path / "back").read_text() == "hello"
