"""A worker of a search: a process that runs one trial after the other, as it is told over a pipe.

It is told trials and tells what came of them, a line each. When the pipe closes, whoever would tell it more is
gone, and it ends too.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import IO, TYPE_CHECKING, Any

import msgspec

from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.search_ledger import Bars, TrialRecord

if TYPE_CHECKING:
    from airflow_ml_provider.steps.search_work import Work


class Task(msgspec.Struct, omit_defaults=True):
    """What a worker is told: bars that hold from now on, or a trial to run."""

    number: int = -1
    params: dict[str, Any] = {}
    tries: int = 1
    bars: Bars | None = None


class Answer(msgspec.Struct, omit_defaults=True):
    """What a worker says: what came of a trial, or without one that it is ready."""

    record: TrialRecord | None = None


def work_as_told(work: Work, commands: int, answers: int) -> None:
    """Run trials until the pipe of commands closes.

    :param commands: file descriptor to read tasks from.
    :param answers: file descriptor to write to.
    """
    # Not for the user's own subprocesses, which could outlive this process.
    os.set_inheritable(commands, False)
    os.set_inheritable(answers, False)
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(
        target=_listen, args=(os.fdopen(commands, "rb"), tasks), daemon=True, name="parent-watch"
    ).start()
    with os.fdopen(answers, "wb", buffering=0) as out, work.ready():

        def tell(answer: Answer) -> None:
            out.write(msgspec.json.encode(answer) + b"\n")

        tell(Answer())
        bars = None
        while True:
            task = tasks.get()
            if task.number < 0:
                bars = task.bars
            else:
                tell(Answer(work.do(task.number, task.params, bars, task.tries)))


def _listen(commands: IO[bytes], tasks: queue.SimpleQueue[Task]) -> None:
    decoder = msgspec.json.Decoder(Task)
    for line in commands:
        tasks.put(decoder.decode(line))
    os._exit(InfrastructureError.exit_code)
