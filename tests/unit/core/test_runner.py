"""A step's process: what it prints, writes and exits with, and that it ends with its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil

from airflow_ml_provider.contract.documents import read_result

VALIDATE = {"table": {"name": "nowhere"}, "suite": "a.b:c"}


def write_spec(folder: Path, store: str, **changes: object) -> Path:
    path = folder / "spec.json"
    path.write_text(json.dumps({"verb": "validate", "store": store, "arguments": VALIDATE, **changes}))
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "airflow_ml_provider.steps", *arguments],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_failed_step_exits_with_its_kind_and_leaves_a_typed_result(tmp_path: Path, store: str) -> None:
    spec = write_spec(tmp_path, store, step_key="a-key")
    done = run("validate", "--spec", str(spec))
    assert done.returncode == 66
    assert "data error: there is no table 'nowhere'" in done.stdout
    assert "next: run the step that publishes it first" in done.stdout
    result = read_result((tmp_path / "store/runs/a-key/result.json").read_bytes(), source="result.json")
    assert result.status == "failed"
    assert result.failure is not None
    assert (result.failure.kind, result.failure.error) == ("data", "DataError")


def test_a_spec_of_another_verb_is_refused(tmp_path: Path, store: str) -> None:
    done = run("train", "--spec", str(write_spec(tmp_path, store)))
    assert done.returncode == 64
    assert "is the spec of a validate step, not of train" in done.stdout


def test_a_spec_of_another_protocol_is_refused_with_both_numbers(tmp_path: Path, store: str) -> None:
    done = run("validate", "--spec", str(write_spec(tmp_path, store, protocol=2)))
    assert done.returncode == 64
    assert "protocol 2; this installation speaks protocol 1" in done.stdout


def test_the_step_process_loads_no_airflow() -> None:
    code = """
        import importlib, pkgutil, sys
        import airflow_ml_provider.steps as steps
        for module in pkgutil.iter_modules(steps.__path__):
            if module.name != "__main__":
                importlib.import_module(f"airflow_ml_provider.steps.{module.name}")
        import airflow_ml_provider.cli
        print([name for name in sys.modules if name.split(".")[0] in ("airflow", "airflowctl")])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_step_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    code = (
        "import time; from airflow_ml_provider.steps.runner import end_with_parent; "
        "end_with_parent(); time.sleep(60)"
    )
    parent_code = f"""
        import subprocess, sys, time
        command = [sys.executable, "-c", {code!r}]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        print(child.pid, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(parent_code)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 30
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.1)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
