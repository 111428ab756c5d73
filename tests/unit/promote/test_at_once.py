"""Eight processes promote and roll back at once, against a real MLflow on SQLite and on PostgreSQL."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from champions import Registry
from model_world import World
from servers import free_port, wait_for_http

from airflow_ml_provider.contract.documents import StepResult, read_result

PROCESSES = 8
ROUNDS = 3


@contextmanager
def on_postgres(folder: Path) -> Iterator[str]:
    """A tracking server of its own, on PostgreSQL."""
    from deployment_postgres import Postgres

    database = Postgres(folder / "postgres")
    database.start(("mlflow",))
    port, log = free_port(), folder / "server.log"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2",
        "--backend-store-uri", database.uri("mlflow"), "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    try:
        with log.open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output, env=env, start_new_session=True)
        try:
            wait_for_http(f"http://127.0.0.1:{port}/health", server, log, 180)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(20)
    finally:
        database.stop()


def moves_often(world: World, name: str, number: int) -> None:
    """What one process does: promotions on fresh verdicts, and rollbacks, some of them too late."""
    registry = Registry(world, name, versions=0)
    for turn in range(ROUNDS):
        key = f"step-{number}-{turn}"
        if number % 2 and turn:
            registry.roll_back(key, reason=f"by {key}")
        else:
            registry.promote(registry.verdict(number + 1, registry.champion), step_key=key)


@pytest.mark.parametrize("database", ["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.slow)])
def test_the_ledger_explains_what_eight_processes_did_at_once(
    mlflow_uri: str, tmp_path: Path, database: str
) -> None:
    if database == "SQLite":
        explains(World.at(tmp_path, mlflow_uri))
        return
    with on_postgres(tmp_path) as uri:
        explains(World.at(tmp_path, uri))


def result_of(world: World, key: str) -> StepResult:
    return read_result((world.folder_of(key) / "result.json").read_bytes(), source=key)


def explains(world: World) -> None:
    registry = Registry(world, "moved_at_once", versions=PROCESSES)
    registry.champion = PROCESSES
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["airflow_ml_provider.steps.promote", "mlflow", "polars", "deltalake", "champions"]
    )
    movers = [
        context.Process(target=moves_often, args=(world, registry.name, number))
        for number in range(PROCESSES)
    ]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join(200)
    assert [mover.exitcode for mover in movers] == [0] * PROCESSES
    entries = registry.explained()
    done = [
        result_of(world, f"step-{number}-{turn}") for number in range(PROCESSES) for turn in range(ROUNDS)
    ]
    moved = {
        result.step_key
        for result in done
        if result.status == "success" and result.verdict and result.verdict.get("ledger_entry")
    }
    assert moved == {entry.step_key for entry in entries if entry.kind != "external"}, (
        "no entry is lost, none is more"
    )
    assert moved, "however many come too late, somebody always wins"
    assert all(result.failure is None or result.failure.kind == "data" for result in done), "too late is told"
    assert [entry.kind for entry in entries].count("external") == 1, "nobody was taken for somebody's hand"
