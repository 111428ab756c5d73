"""The indexes of a fleet over processes of this machine, each of which runs many.

A worker that dies, by kill -9 or for want of memory, is replaced; its index is tried again, without the items
that it had finished.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from airflow_ml_provider.contract.errors import ERRORS_BY_KIND, InfrastructureError
from airflow_ml_provider.contract.fleets import ItemRecord, PlanDocument, failures_before_stopping
from airflow_ml_provider.steps import fleet_progress
from airflow_ml_provider.steps.fleet_modes import TOGETHER
from airflow_ml_provider.steps.fleet_worker import Told

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.contract.fleet_ledger import Ledger
    from airflow_ml_provider.steps.context import StepContext

_LOOK_EVERY = 0.5
_STARTS_IN_VAIN = 3
# Each of them would otherwise use all processors.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Runs the pending indexes of a plan.

    :param step: the fleet's step.
    :param together: where the rows of all items have been laid down for the workers.
    """

    def __init__(
        self,
        step: StepContext,
        arguments: FleetArguments,
        ledger: Ledger,
        plan: PlanDocument,
        together: Path | None = None,
    ) -> None:
        self._environment = {} if together is None else {TOGETHER: str(together)}
        self._plan = plan
        self._ledger = ledger
        self._tries = arguments.tries
        self._size = max(1, min(arguments.parallelism, processors(), len(plan.pending)))
        self._most_failed = failures_before_stopping(arguments.max_failed, plan.items)
        self._waiting = deque(plan.pending)
        self._attempts: dict[int, int] = {}
        self._in_vain = 0
        self._progress = fleet_progress.Progress(step, plan)
        self._spec = step.scratch / "fleet-spec.json"
        # The code has been laid down already, where it came packed.
        code = msgspec.structs.replace(step.spec.code, archive="")
        self._spec.write_bytes(msgspec.structs.replace(step.spec, code=code).encode())
        self._log = step.log

    def run(self) -> None:
        """Run them to their end, or until too many items have failed.

        :raises InfrastructureError: workers end before they are ready to work.
        """
        workers: list[_Worker] = []
        with selectors.DefaultSelector() as selector:
            try:
                while self._has_work() or any(worker.position >= 0 for worker in workers):
                    while self._has_work() and len(workers) < self._size and not any(w.idle for w in workers):
                        worker = _Worker.start(self._spec, self._plan.name, self._size, self._environment)
                        selector.register(worker.answers, selectors.EVENT_READ, worker)
                        workers.append(worker)
                    for worker in workers:
                        if worker.idle and self._has_work():
                            self._give(worker)
                    ready = selector.select(_LOOK_EVERY)
                    for key, _ in ready:
                        self._listen(key.data)
                    for worker in [worker for worker in workers if worker.process.poll() is not None]:
                        # What it said before its end.
                        self._listen(worker)
                        selector.unregister(worker.answers)
                        workers.remove(worker)
                        worker.close()
                        self._died(worker)
                    self._progress.show(sum(worker.position >= 0 for worker in workers))
            finally:
                for worker in workers:
                    worker.kill()

    def _has_work(self) -> bool:
        return bool(self._waiting) and self._progress.failed <= self._most_failed

    def _give(self, worker: _Worker) -> None:
        position = self._waiting.popleft()
        self._attempts[position] = self._attempts.get(position, 0) + 1
        worker.begin(position)

    def _listen(self, worker: _Worker) -> None:
        for told in worker.listen():
            if told.of == "ready":
                worker.ready, self._in_vain = True, 0
            elif told.of == "item" and told.record is not None:
                worker.records[told.number] = told.record
                self._progress.item(told.position, told.number, told.record.state)
            elif told.of == "index":
                worker.position, worker.records = -1, {}
                self._progress.index(told.position, told.done, told.failed)
                helps = told.kind is not None and ERRORS_BY_KIND[told.kind].retryable
                if helps and self._attempts[told.position] < self._tries:
                    self._progress.again(told.position)
                    self._waiting.append(told.position)

    def _died(self, worker: _Worker) -> None:
        how = _how(worker.process.returncode)
        if worker.position < 0:
            self._in_vain += not worker.ready
            if self._in_vain >= _STARTS_IN_VAIN:
                raise InfrastructureError(
                    f"the workers of the fleet end before they begin: {how}",
                    kept="the results of all finished items",
                    retry="a retry runs only what is missing",
                    todo="see what they said above",
                )
            return
        position = worker.position
        self._keep(position, worker.records)
        again = self._attempts[position] < self._tries
        attempt = self._attempts[position]
        said = "; it is tried again" if again else ""
        self._log.error(
            "a worker %s with index %s, try %s of %s%s", how, position, attempt, self._tries, said
        )
        self._progress.died(position, again=again)
        if again:
            # Among the first, so that one that fails each time is known early.
            self._waiting.appendleft(position)

    def _keep(self, position: int, records: dict[int, ItemRecord]) -> None:
        """Bring an index's document up to what its worker said; its own last second may be missing."""
        found = self._ledger.at(position, self._plan.indexes[position])
        if found is None or found[1].state != "running" or not records:
            return
        items = list(found[1].items)
        for number, record in records.items():
            items[number] = record
        self._ledger.write(msgspec.structs.replace(found[1], items=tuple(items)))


@dataclass
class _Worker:
    """A worker process as its parent sees it.

    :param position: of the index it runs, -1 for none.
    :param records: what it said of that index's items.
    """

    process: subprocess.Popen[bytes]
    commands: int
    answers: int
    ready: bool = False
    position: int = -1
    records: dict[int, ItemRecord] = field(default_factory=dict)
    rest: bytes = b""

    @classmethod
    def start(cls, spec: Path, plan: str, workers: int, further: Mapping[str, str]) -> _Worker:
        """Start one. It shares our session, so that it ends with the step, and our output."""
        theirs_in, commands = os.pipe()
        answers, theirs_out = os.pipe()
        threads = str(max(1, processors() // workers))
        environment = {**dict.fromkeys(_THREADS, threads), "PYTHONUNBUFFERED": "1", **os.environ, **further}
        environment.pop("JOB_COMPLETION_INDEX", None)
        command = [
            sys.executable, "-P", "-m", "airflow_ml_provider.steps", "fleet", "--spec", str(spec),
            "--fleet-plan", plan, "--worker", f"{theirs_in},{theirs_out}",
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
    def idle(self) -> bool:
        """Whether it waits for an index. One that is not ready yet waits, too: the pipe holds it."""
        return self.position < 0

    def begin(self, position: int) -> None:
        """Give it an index."""
        self.position, self.records = position, {}
        # It may be dead; that is seen when its process is looked at.
        with suppress(BrokenPipeError):
            os.write(self.commands, f"{position}\n".encode())

    def listen(self) -> list[Told]:
        """What it has said since."""
        heard = []
        with suppress(BlockingIOError):
            while chunk := os.read(self.answers, 1 << 20):
                heard.append(chunk)
        *lines, self.rest = (self.rest + b"".join(heard)).split(b"\n")
        return [msgspec.json.decode(line, type=Told) for line in lines]

    def kill(self) -> None:
        """End it at once: what it has finished stands in the ledger."""
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
