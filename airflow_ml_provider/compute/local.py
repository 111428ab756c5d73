"""Steps as subprocesses of the Airflow task, on the worker's machine."""

from __future__ import annotations

import logging
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml_provider.compute.base import Compute, Exit, Launch
from airflow_ml_provider.compute.output import Output
from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError
from airflow_ml_provider.contract.scratch import VARIABLE as SCRATCH

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

# Airflow itself kills a task five seconds after it asked it to end.
_PATIENCE = 3.0
_POLL_EVERY = 0.5
_BLINK = 0.05
_LONGEST_LINE = 32_768

_running: dict[str, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class LocalCompute(Compute):
    """A subprocess beside the Airflow task, in a session of its own.

    It ends with the task that started it, however that ends. It sees the worker's environment without
    Airflow's configuration, connections and variables.

    :param python: the interpreter, one that has this package installed; the worker's own by default.
    :param environment: more environment variables, as a mapping or pairs. They show in the DAG: no secrets.
    """

    python: str | None = None
    environment: Mapping[str, str] | tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        # A sorted tuple, so that the value can be hashed and its repr is the same at every parse.
        object.__setattr__(self, "environment", tuple(sorted(dict(self.environment).items())))

    def run(self, launch: Launch, context: Context) -> Exit:
        """Run the step; its output goes to the task log line by line."""
        wanted = dict(self.environment).get("TMPDIR")
        scratch = tempfile.mkdtemp(prefix="step-", dir=wanted if wanted and Path(wanted).is_dir() else None)
        try:
            return self._run(launch, scratch)
        finally:
            # Whatever the step laid down, also when it was killed.
            shutil.rmtree(scratch, ignore_errors=True)

    def _run(self, launch: Launch, scratch: str) -> Exit:
        process = self._start(launch, scratch)
        _running[launch.step_key] = process
        output = Output()
        try:
            for line in _lines(process):
                output.tell(line)
            # What the step left behind in its session; before it is reaped, while its id cannot be reused.
            _signal_session(process, signal.SIGKILL)
            code = process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            del _running[launch.step_key]
            _close(process)
        error = _signal_error(launch, code)
        if error is not None:
            # Among the step's own last lines, where people look for its end.
            log.error("%s", error)
        return Exit(code, error, output.last_lines)

    def cancel(self, launch: Launch) -> None:
        """End the step's session: SIGTERM, then SIGKILL."""
        process = _running.get(launch.step_key)
        if process is not None:
            log.info("ending the %s step %s", launch.verb, launch.step_key)
            _end(process)

    def _start(self, launch: Launch, scratch: str) -> subprocess.Popen[bytes]:
        # -P: nothing is imported from the working directory by accident.
        command = [self.python or sys.executable, "-P", *launch.arguments, "--end-with-parent"]
        try:
            # The pipe to its standard input is never written to: the step ends when it closes, and the
            # kernel closes it when this process ends, even by kill -9.
            return subprocess.Popen(
                command,
                env={**self._environment(launch), SCRATCH: scratch},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(
                f"the {launch.verb} step could not be started with {command[0]}: {error.strerror}",
                todo="check LocalCompute(python=...)",
            ) from error

    def _environment(self, launch: Launch) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not _is_airflows(name)}
        roots = [*launch.code_roots, *env.get("PYTHONPATH", "").split(os.pathsep)]
        if self.python is None:
            # Found even where this package is run from its sources.
            roots.append(str(Path(__file__).parents[2]))
        env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(root for root in roots if root))
        env["PYTHONUNBUFFERED"] = "1"
        return {**env, **dict(self.environment), **launch.credentials}


def _is_airflows(name: str) -> bool:
    """Whether a variable configures Airflow, and so may hold a secret; which run this is, is none."""
    return name.startswith(("AIRFLOW_", "_AIRFLOW")) and not name.startswith("AIRFLOW_CTX_")


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """The lines of a process as they come, until it has ended; watches over our own parent meanwhile."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    orphaned = _parent_watch()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            # Looked up before reading: what was written before the end is then read after it.
            ended = _has_ended(process)
            if orphaned():
                raise InfrastructureError(
                    "the Airflow worker that started this task is gone; the step is ended"
                )
            if not selector.select(0 if ended else _POLL_EVERY) and not ended:
                continue
            chunk = _read(output)
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                yield line.decode(errors="replace").rstrip("\r")
            if not chunk and ended:
                break
            if not chunk:
                # It closed its output: most likely it is about to end.
                time.sleep(_BLINK)
    if rest:
        yield rest.decode(errors="replace")


def _read(output: int) -> bytes:
    with suppress(BlockingIOError):
        return os.read(output, 65_536)
    return b""


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended, without reaping it."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its session. Also called in signal handlers: waits by looking, never on a lock."""
    _signal_session(process, signal.SIGTERM)
    until = time.monotonic() + _PATIENCE
    while not _has_ended(process) and time.monotonic() < until:
        time.sleep(_BLINK)
    _signal_session(process, signal.SIGKILL)


def _signal_session(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)


def _parent_watch() -> Callable[[], bool]:
    """Tells whether the process that supervises this task is gone; nobody would hear of the task's end.

    Only where there is one: ``dag.test()`` runs tasks in the process of whoever called it.
    """
    from airflow.sdk.execution_time import task_runner

    supervised = hasattr(getattr(task_runner, "SUPERVISOR_COMMS", None), "socket")
    parent = os.getppid()
    return lambda: supervised and os.getppid() != parent


def _signal_error(launch: Launch, code: int) -> InfrastructureError | None:
    if code >= 0:
        return None
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    why = ": killed, often for want of memory" if name == "SIGKILL" else ""
    return InfrastructureError(
        f"the {launch.verb} step {launch.step_key} was ended by {name}{why}",
        kept="whatever it published before it was ended; a publication is whole or not there",
        todo="look at the memory of the worker, or give the step a compute with more" if why else "",
    )
