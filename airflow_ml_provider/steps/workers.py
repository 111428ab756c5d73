"""Processes that work for a step on its own machine, and what is said to them and by them over pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from airflow_ml_provider.contract.scratch import VARIABLE as SCRATCH
from airflow_ml_provider.steps.threads import processors

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext

# Each of them would otherwise use all processors.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


def environment_of(workers: int, scratch: Path) -> dict[str, str]:
    """The environment of one of so many workers: their share of the threads, and no index of a Job.

    :param scratch: the step's; what they lay down is removed with it, since they may be killed.
    """
    threads = str(max(1, processors() // workers))
    environment = {**dict.fromkeys(_THREADS, threads), "PYTHONUNBUFFERED": "1", **os.environ}
    environment.pop("JOB_COMPLETION_INDEX", None)
    environment[SCRATCH] = str(scratch)
    return environment


def spec_for_workers(step: StepContext) -> Path:
    """The step's spec as its workers read it: the code has been laid down already, where it came packed."""
    path = step.scratch / "workers-spec.json"
    code = msgspec.structs.replace(step.spec.code, archive="")
    path.write_bytes(msgspec.structs.replace(step.spec, code=code).encode())
    return path


def how_it_ended(code: int) -> str:
    """The end of a process, for people."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"ended by {name}" + (" (killed, often for want of memory)" if name == "SIGKILL" else "")


@dataclass
class Worker:
    """A worker process as its parent sees it.

    :param ready: whether it has said that it can work.
    """

    process: subprocess.Popen[bytes]
    commands: int
    answers: int
    ready: bool = False
    rest: bytes = b""

    @classmethod
    def start(
        cls, verb: str, spec: Path, environment: Mapping[str, str], options: Sequence[str] = ()
    ) -> Self:
        """Start one. It shares our session, so that it ends with the step, and our output."""
        theirs_in, commands = os.pipe()
        answers, theirs_out = os.pipe()
        command = [
            sys.executable, "-P", "-m", "airflow_ml_provider.steps", verb, "--spec", str(spec), *options,
            "--worker", f"{theirs_in},{theirs_out}",
        ]  # fmt: skip
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs_in, theirs_out), env=dict(environment)
            )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        os.set_blocking(answers, False)
        return cls(process, commands, answers)

    def write(self, line: bytes) -> None:
        """Tell it something; all of it, since it may be longer than a pipe is wide."""
        # It may be dead; that is seen when its process is looked at.
        with suppress(BrokenPipeError):
            content = line + b"\n"
            while content:
                content = content[os.write(self.commands, content) :]

    def lines(self) -> list[bytes]:
        """What it has said since."""
        heard = []
        with suppress(BlockingIOError):
            while chunk := os.read(self.answers, 1 << 20):
                heard.append(chunk)
        *lines, self.rest = (self.rest + b"".join(heard)).split(b"\n")
        return lines

    def kill(self) -> None:
        """End it at once: what it has finished is known."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Close its pipes."""
        os.close(self.commands)
        os.close(self.answers)
