"""What it costs to tell MLflow of 1,000 trials, on a real server: a run for each, and as a search tells them.

The reference is measured on 200 trials and taken five times. ``--rows`` does not matter.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from bench.measuring import Cost, Row, in_turn
from bench.scene import REPOSITORY, Scene

TRIALS, MEASURED = 1_000, 200
TELL = """
import sys, time
from types import SimpleNamespace
import mlflow
from mlflow.entities import Metric, Param
from airflow_ml_provider.contract.arguments import SearchArguments
from airflow_ml_provider.contract.documents import StepSpec, Tracking
from airflow_ml_provider.contract.search import Floats
from airflow_ml_provider.contract.search_ledger import TrialRecord
from airflow_ml_provider.steps.search_summary import BestTrial
from airflow_ml_provider.steps.search_tracking import TrialLog
from airflow_ml_provider.steps.tracking import Tracker

how, uri, trials = sys.argv[1], sys.argv[2], int(sys.argv[3])
key, tracking = f"k{time.time_ns()}", Tracking(uri, "bench")
spec = StepSpec("search", "/nowhere", {}, step_key=key, fingerprint="f", tracking=tracking)
tracker = Tracker(spec)
run = tracker.start_run("search")
mlflow.set_tracking_uri(uri)
client = mlflow.MlflowClient(uri) if how == "runs" else tracker.client
began = time.perf_counter()
if how == "runs":
    for number in range(trials):
        child = client.create_run(run.experiment_id, tags={"mlflow.parentRunId": run.run_id}).info.run_id
        client.log_batch(child, metrics=[Metric("loss", 1 / (number + 1), 0, 0)], params=[Param("x", str(number))])
        client.set_terminated(child)
else:
    arguments = SearchArguments(function="a:b", space={"x": Floats(0, 1)}, metric="-loss")
    known = [({"x": 0.5}, TrialRecord(n, "done", {"loss": 1 / (n + 1)}, ended=n)) for n in range(trials)]
    study = SimpleNamespace(known=known)
    log = TrialLog(SimpleNamespace(tracker=tracker, spec=spec), run, arguments)
    log.catch_up(study, at_last=True)
    top = [BestTrial(n, {"x": 0.5}, 0.1, {"loss": 0.1}) for n in range(10)]
    best = SimpleNamespace(best=top[0], numbers=lambda: {"trials": trials}, leading=lambda most: top[:most])
    log.tell_best(study, best)
print(time.perf_counter() - began)
"""


def rows(scene: Scene) -> Iterator[Row]:
    """One."""
    with _server(scene) as uri:

        def told(how: str, trials: int) -> Cost:
            done = subprocess.run(
                [sys.executable, "-c", TELL, how, uri, str(trials)],
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            return Cost(float(done.stdout.strip().splitlines()[-1]) * TRIALS / trials)

        ours, theirs = in_turn(lambda: told("ours", TRIALS), lambda: told("runs", MEASURED), scene.repeats)
    yield Row(
        f"tracking of {TRIALS:,} trials",
        "an MLflow run for each, by the client",
        "–",
        ours,
        theirs,
        note="as points of one run, and the ten best as runs; seconds are milliseconds a trial",
    )


@contextmanager
def _server(scene: Scene) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = scene.folder / f"mlflow-{port}"
    folder.mkdir()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (folder / "server.log").open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                if time.monotonic() > until or process.poll() is not None:
                    sys.exit(f"MLflow did not come up:\n{(folder / 'server.log').read_text()[-3000:]}")
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
