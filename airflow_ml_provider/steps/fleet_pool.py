"""The indexes of a fleet over processes of this machine, each of which runs many.

A worker that dies, by kill -9 or for want of memory, is replaced; its index is tried again, without the items
that it had finished.
"""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from airflow_ml_provider.contract.errors import ERRORS_BY_KIND, InfrastructureError
from airflow_ml_provider.contract.fleets import ItemRecord, PlanDocument, failures_before_stopping
from airflow_ml_provider.steps import fleet_progress, functions
from airflow_ml_provider.steps.fleet_modes import TOGETHER
from airflow_ml_provider.steps.fleet_worker import Told
from airflow_ml_provider.steps.threads import processors
from airflow_ml_provider.steps.workers import (
    Worker,
    environment_of,
    how_it_ended,
    spec_for_workers,
)

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.contract.fleet_ledger import Ledger
    from airflow_ml_provider.steps.context import StepContext

_LOOK_EVERY = 0.5
_STARTS_IN_VAIN = 3


class Pool:
    """Runs the pending indexes of a plan.

    :param step: the fleet's step.
    :param together: lays down the rows of all items in a folder for the workers, while these start.
    """

    def __init__(
        self,
        step: StepContext,
        arguments: FleetArguments,
        ledger: Ledger,
        plan: PlanDocument,
        together: Callable[[Path], object] | None = None,
    ) -> None:
        self._step = step
        self._function = arguments.function
        self._plan = plan
        self._ledger = ledger
        self._tries = arguments.tries
        self._size = max(1, min(arguments.parallelism, processors(), len(plan.pending)))
        self._together = together
        self._folder = step.scratch / "together"
        laid_down = {} if together is None else {TOGETHER: str(self._folder)}
        self._environment = {**environment_of(self._size, step.scratch), **laid_down}
        self._most_failed = failures_before_stopping(arguments.max_failed, plan.items)
        self._waiting = deque(plan.pending)
        self._attempts: dict[int, int] = {}
        self._in_vain = 0
        self._progress = fleet_progress.Progress(step, plan)
        self._spec = spec_for_workers(step)
        self._log = step.log

    def run(self) -> None:
        """Run them to their end, or until too many items have failed.

        :raises MLError: the user's code cannot be loaded: one error, and not one of each item.
        :raises InfrastructureError: workers end before they are ready to work.
        """
        workers: list[_Worker] = []
        with selectors.DefaultSelector() as selector:
            try:
                workers.extend(self._start(selector) for _ in range(self._size))
                if self._together is not None:
                    # Beside their imports, which take them seconds. None has been told of an item.
                    self._together(self._folder)
                while self._has_work() or any(worker.position >= 0 for worker in workers):
                    while self._has_work() and len(workers) < self._size and not any(w.idle for w in workers):
                        workers.append(self._start(selector))
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

    def _start(self, selector: selectors.BaseSelector) -> _Worker:
        worker = _Worker.start("fleet", self._spec, self._environment, ("--fleet-plan", self._plan.name))
        selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

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
        how = how_it_ended(worker.process.returncode)
        if not worker.ready:
            if worker.position >= 0:
                # It never began with it.
                self._attempts[worker.position] -= 1
                self._waiting.appendleft(worker.position)
            # If it is the user's code that cannot be loaded, this says so.
            functions.user_code(self._step, self._function)
            self._in_vain += 1
            if self._in_vain >= _STARTS_IN_VAIN:
                raise InfrastructureError(
                    f"the workers of the fleet end before they begin: {how}",
                    kept="the results of all finished items",
                    retry="a retry runs only what is missing",
                    todo="see what they said above",
                )
        if not worker.ready or worker.position < 0:
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
class _Worker(Worker):
    """A worker of a fleet.

    :param position: of the index it runs, -1 for none.
    :param records: what it said of that index's items.
    """

    position: int = -1
    records: dict[int, ItemRecord] = field(default_factory=dict)

    @property
    def idle(self) -> bool:
        """Whether it waits for an index. One that is not ready yet waits, too: the pipe holds it."""
        return self.position < 0

    def begin(self, position: int) -> None:
        """Give it an index."""
        self.position, self.records = position, {}
        self.write(str(position).encode())

    def listen(self) -> list[Told]:
        """What it has said since."""
        return [msgspec.json.decode(line, type=Told) for line in self.lines()]
