"""The shards of a step over processes of this machine, where no Job runs them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml_provider.contract.errors import ERRORS_BY_KIND
from airflow_ml_provider.steps.threads import processors
from airflow_ml_provider.steps.workers import environment_of, spec_for_workers

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext

_LOOK_EVERY = 0.1
_FINAL = {error.exit_code for error in ERRORS_BY_KIND.values() if not error.retryable}


def run(step: StepContext, numbers: Sequence[int], parallelism: int) -> None:
    """Run shards, each in a process; what came of them is in the store.

    No further ones are started when one failed as a retry cannot help. The processes end with this one.
    """
    spec = spec_for_workers(step)
    at_once = max(1, min(parallelism, processors(), len(numbers)))
    environment = environment_of(at_once, step.scratch)
    waiting, running = deque(numbers), list[subprocess.Popen[bytes]]()
    hopeless = False
    with step.progress("shards", len(numbers)) as progress:
        try:
            while running or (waiting and not hopeless):
                while waiting and len(running) < at_once and not hopeless:
                    running.append(_start(spec, step.spec.verb, waiting.popleft(), environment))
                time.sleep(_LOOK_EVERY)
                for process in [process for process in running if process.poll() is not None]:
                    running.remove(process)
                    _close(process)
                    progress.advance(1)
                    if process.returncode:
                        step.log.error("the process of a shard ended with %s", process.returncode)
                    hopeless |= process.returncode in _FINAL
        finally:
            for process in running:
                process.kill()
                process.wait()
                _close(process)


def _start(spec: Path, verb: str, number: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-P", "-m", "airflow_ml_provider.steps", verb, "--spec", str(spec),
        "--index", str(number), "--end-with-parent",
    ]  # fmt: skip
    # Its end of the pipe closes when this process is gone, however that comes.
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
