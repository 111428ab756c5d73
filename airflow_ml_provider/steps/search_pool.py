"""The trials of a search over processes of this machine, each of which runs many, round after round."""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.search_ledger import Bars, TrialRecord
from airflow_ml_provider.steps.search_work import lost
from airflow_ml_provider.steps.search_worker import Answer, Task
from airflow_ml_provider.steps.threads import processors
from airflow_ml_provider.steps.workers import (
    Worker,
    environment_of,
    how_it_ended,
    spec_for_workers,
)

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext

_LOOK_EVERY = 0.5
_STARTS_IN_VAIN = 3

# Number, parameters, and which try it is.
Pending = tuple[int, dict[str, Any], int]


class Pool:
    """Worker processes that stay for the whole search.

    :param step: the search's step.
    :param size: how many at most; no more than there are processors.
    :param tries: how often a trial is run whose process dies.
    """

    def __init__(self, step: StepContext, size: int, tries: int) -> None:
        self._size = max(1, min(size, processors()))
        self._tries = tries
        self._log = step.log
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._in_vain = 0
        self._spec = spec_for_workers(step)
        self._environment = environment_of(self._size, step.scratch)

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
                how = how_it_ended(worker.process.returncode)
                self._log.error(
                    "a worker %s with trial %s, try %s of %s", how, task.number, task.tries, self._tries
                )
                if task.tries < self._tries:
                    # Among the first, so that one that fails each time is known early.
                    waiting.appendleft((task.number, task.params, task.tries + 1))
                else:
                    tell(lost(task.number, task.tries, f"a worker {how}"))

    def _start(self, bars: Bars | None) -> None:
        worker = _Worker.start("search", self._spec, self._environment)
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
                f"the workers of the search end before they begin: {how_it_ended(worker.process.returncode)}",
                kept="the results of all finished trials",
                retry="a retry runs only what is missing",
                todo="see what they said above",
            )
        # It did not come to its trial, which loses no try by it.
        if worker.task is not None:
            return Task(worker.task.number, worker.task.params, worker.task.tries - 1)
        return None


@dataclass
class _Worker(Worker):
    """A worker of a search.

    :param task: the trial that it runs; None if it waits.
    """

    task: Task | None = None

    @property
    def busy(self) -> bool:
        """Whether it has a trial. One that is not ready yet may have one, too: the pipe holds it."""
        return self.task is not None

    def begin(self, task: Task) -> None:
        """Give it a trial."""
        self.task = task
        self.send(task)

    def send(self, task: Task) -> None:
        """Tell it a trial, or what the bars are."""
        self.write(msgspec.json.encode(task))

    def listen(self) -> list[Answer]:
        """What it has said since."""
        return [msgspec.json.decode(line, type=Answer) for line in self.lines()]
