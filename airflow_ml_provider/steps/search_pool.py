"""The trials of a search over processes of this machine, each of which runs many, round after round."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.search_ledger import Bars, TrialRecord
from airflow_ml_provider.steps.search_work import lost
from airflow_ml_provider.steps.search_worker import Answer, Task

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext

_LOOK_EVERY = 0.5
_STARTS_IN_VAIN = 3
# Each of them would otherwise use all processors.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")

# Number, parameters, and which try it is.
Pending = tuple[int, dict[str, Any], int]


class Pool:
    """Worker processes that stay for the whole search.

    :param step: the search's step.
    :param size: how many at most; no more than there are processors.
    :param tries: how often a trial is run whose process dies.
    """

    def __init__(self, step: StepContext, size: int, tries: int) -> None:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._size = max(1, min(size, usable))
        self._tries = tries
        self._threads = str(max(1, usable // self._size))
        self._log = step.log
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._in_vain = 0
        self._spec = step.scratch / "search-spec.json"
        # The code has been laid down already, where it came packed.
        code = msgspec.structs.replace(step.spec.code, archive="")
        self._spec.write_bytes(msgspec.structs.replace(step.spec, code=code).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()
        self._selector.close()

    def run(
        self,
        trials: Iterable[Pending],
        bars: Bars | None,
        tell: Callable[[TrialRecord], None],
        go_on: Callable[[], bool],
    ) -> None:
        """Run trials to their end.

        :param tell: called with what came of each, as it ends.
        :param go_on: no further one is begun when it says no.
        :raises InfrastructureError: workers end before they are ready to work.
        """
        waiting = deque(trials)
        for worker in self._workers:
            worker.send(Task(bars=bars))
        while (more := bool(waiting) and go_on()) or any(worker.busy for worker in self._workers):
            for worker in self._workers if more else ():
                if not worker.busy and waiting and go_on():
                    number, params, tries = waiting.popleft()
                    worker.begin(Task(number, params, tries))
            if waiting and more and len(self._workers) < self._size:
                self._start(bars)
                continue
            for key, _ in self._selector.select(_LOOK_EVERY):
                self._listen(key.data, tell)
            for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
                # What it said before its end.
                self._listen(worker, tell)
                task = self._gone(worker)
                if task is None:
                    continue
                how = _how(worker.process.returncode)
                self._log.error(
                    "a worker %s with trial %s, try %s of %s", how, task.number, task.tries, self._tries
                )
                if task.tries < self._tries:
                    # Among the first, so that one that fails each time is known early.
                    waiting.appendleft((task.number, task.params, task.tries + 1))
                else:
                    tell(lost(task.number, task.tries, f"a worker {how}"))

    def _start(self, bars: Bars | None) -> None:
        worker = _Worker.start(self._spec, self._threads)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        worker.send(Task(bars=bars))

    def _listen(self, worker: _Worker, tell: Callable[[TrialRecord], None]) -> None:
        for answer in worker.listen():
            if answer.record is None:
                worker.ready, self._in_vain = True, 0
            else:
                worker.task = None
                tell(answer.record)

    def _gone(self, worker: _Worker) -> Task | None:
        """Forget a worker that has ended; gives the trial that it ended with."""
        self._selector.unregister(worker.answers)
        self._workers.remove(worker)
        worker.close()
        if worker.ready:
            return worker.task
        self._in_vain += 1
        if self._in_vain >= _STARTS_IN_VAIN:
            raise InfrastructureError(
                f"the workers of the search end before they begin: {_how(worker.process.returncode)}",
                kept="the results of all finished trials",
                retry="a retry runs only what is missing",
                todo="see what they said above",
            )
        # It did not come to its trial, which loses no try by it.
        if worker.task is not None:
            return Task(worker.task.number, worker.task.params, worker.task.tries - 1)
        return None


@dataclass
class _Worker:
    """A worker process as its parent sees it.

    :param task: the trial that it runs; None if it waits.
    """

    process: subprocess.Popen[bytes]
    commands: int
    answers: int
    ready: bool = False
    task: Task | None = None
    rest: bytes = b""

    @classmethod
    def start(cls, spec: Path, threads: str) -> _Worker:
        """Start one. It shares our session, so that it ends with the step, and our output."""
        theirs_in, commands = os.pipe()
        answers, theirs_out = os.pipe()
        environment = {**dict.fromkeys(_THREADS, threads), "PYTHONUNBUFFERED": "1", **os.environ}
        environment.pop("JOB_COMPLETION_INDEX", None)
        command = [
            sys.executable, "-P", "-m", "airflow_ml_provider.steps", "search", "--spec", str(spec),
            "--worker", f"{theirs_in},{theirs_out}",
        ]  # fmt: skip
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs_in, theirs_out), env=environment
            )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        os.set_blocking(answers, False)
        return cls(process, commands, answers)

    @property
    def busy(self) -> bool:
        """Whether it has a trial. One that is not ready yet may have one, too: the pipe holds it."""
        return self.task is not None

    def begin(self, task: Task) -> None:
        """Give it a trial."""
        self.task = task
        self.send(task)

    def send(self, task: Task) -> None:
        """Tell it something; all of it, since bars may be longer than a pipe is wide."""
        # It may be dead; that is seen when its process is looked at.
        with suppress(BrokenPipeError):
            content = msgspec.json.encode(task) + b"\n"
            while content:
                content = content[os.write(self.commands, content) :]

    def listen(self) -> list[Answer]:
        """What it has said since."""
        heard = []
        with suppress(BlockingIOError):
            while chunk := os.read(self.answers, 1 << 20):
                heard.append(chunk)
        *lines, self.rest = (self.rest + b"".join(heard)).split(b"\n")
        return [msgspec.json.decode(line, type=Answer) for line in lines]

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


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"ended by {name}" + (" (killed, often for want of memory)" if name == "SIGKILL" else "")
