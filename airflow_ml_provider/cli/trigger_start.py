"""Starts a run, or finds the one that an idempotency key names."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from airflow_ml_provider.cli.airflow_client import AirflowClient, path
from airflow_ml_provider.contract.errors import ConfigError, did_you_mean

# Read by our operators, of every DAG.
COMMON = ("mute_events",)


def run_id_of(dag_id: str, key: str) -> str:
    """The run id that a key stands for, the same each time; without a key one that nobody else has."""
    if key:
        return f"ci__{dag_id[:150]}__{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return f"manual__{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}_{secrets.token_hex(4)}"


def _check_dag(
    client: AirflowClient, dag_id: str, conf: Mapping[str, Any], warn: Callable[[str], None]
) -> None:
    """Whether a new run would run.

    :raises ConfigError: it is paused: the run would be queued until somebody unpauses it.
    :raises Refused: there is none of this id, or we may not see it.
    """
    dag = client.call("GET", path("dags", dag_id, "details"))
    if dag.get("is_paused"):
        raise ConfigError(
            f"the DAG {dag_id} is paused, so a run would wait for ever",
            kept="no run was started",
            todo="unpause it in Airflow, or give --unpause",
        )
    known = [*(dag.get("params") or {})]
    unknown = [name for name in conf if name not in (*known, *COMMON)]
    for name in unknown if known else ():
        warn(f"warning: {dag_id} has no parameter {name!r}: {did_you_mean(name, known)}")


def unpause(client: AirflowClient, dag_id: str) -> None:
    """Let the DAG run."""
    client.call("PATCH", path("dags", dag_id), json={"is_paused": False})


def start(
    client: AirflowClient,
    dag_id: str,
    run_id: str,
    conf: Mapping[str, Any],
    partition: str | None,
    warn: Callable[[str], None],
) -> tuple[dict[str, Any], bool]:
    """Start the run or find it; gives it and whether it was there already.

    :raises ConfigError: a run of this id has other parameters or another partition; or the DAG is paused.
    """
    earlier = client.run(dag_id, run_id)
    if earlier is None:
        _check_dag(client, dag_id, conf, warn)
    run = earlier or client.trigger(dag_id, run_id, dict(conf), partition)[0]
    if differs := _differences(run, conf, partition):
        raise ConfigError(
            f"the run {run_id} of {dag_id} exists, and differs from what was asked for in {', '.join(differs)}",
            kept="that run, as it is",
            todo="give the same parameters to attach to it, or another --key to start another run",
        )
    return run, earlier is not None


def attach(client: AirflowClient, dag_id: str, run_id: str) -> dict[str, Any]:
    """The run of this id.

    :raises ConfigError: there is none.
    """
    run = client.run(dag_id, run_id)
    if run is None:
        raise ConfigError(f"{dag_id} has no run {run_id}", todo="check both names in Airflow")
    return run


def retry_failed(client: AirflowClient, dag_id: str, run_id: str) -> None:
    """Clear the failed tasks of a run, so that it goes on from them."""
    body = {"dry_run": False, "only_failed": True}
    client.call("POST", path("dags", dag_id, "dagRuns", run_id, "clear"), json=body)


def cancel(client: AirflowClient, dag_id: str, run_id: str) -> None:
    """Mark a run failed: Airflow ends its tasks, and these end their pods."""
    client.call("PATCH", path("dags", dag_id, "dagRuns", run_id), json={"state": "failed"})


def _differences(run: Mapping[str, Any], conf: Mapping[str, Any], partition: str | None) -> list[str]:
    """Names only: a value may be nobody's business."""
    there = run.get("conf") or {}
    names = [f"parameter {name}" for name in sorted({*there, *conf}) if _of(there, name) != _of(conf, name)]
    return [*names, *(["partition"] if run.get("partition_key") != partition else [])]


def _of(conf: Mapping[str, Any], name: str) -> str:
    return json.dumps(conf[name], sort_keys=True) if name in conf else ""
