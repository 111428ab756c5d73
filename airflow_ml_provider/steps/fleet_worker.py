"""A worker of a fleet: a process that runs one index after the other, as it is told over a pipe.

It is told positions, one a line. It tells of each item when it starts and when it ends, and of each index
when it ends. When the pipe closes, whoever would tell it more is gone, and it ends too.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import IO, TYPE_CHECKING, Literal

import msgspec

from airflow_ml_provider.contract.errors import ErrorKind, InfrastructureError
from airflow_ml_provider.contract.fleets import ItemRecord, PlanDocument
from airflow_ml_provider.steps.fleet_index import error_of, run_index

if TYPE_CHECKING:
    from airflow_ml_provider.contract.fleets import Item
    from airflow_ml_provider.steps.fleet_work import Work


class Told(msgspec.Struct, omit_defaults=True):
    """What a worker says.

    :param of: it is ready; an item of its index started or ended; its index ended.
    :param number: the item's place in the index.
    :param done: how many items of the index are done, when it ended.
    :param failed: how many failed.
    :param kind: of the failure that decides how the index ended.
    """

    of: Literal["ready", "item", "index"]
    position: int = -1
    number: int = -1
    record: ItemRecord | None = None
    done: int = 0
    failed: int = 0
    kind: ErrorKind | None = None


def work_as_told(work: Work, plan: PlanDocument, items: list[Item], commands: int, answers: int) -> None:
    """Run indexes until the pipe of commands closes.

    :param commands: file descriptor to read positions from.
    :param answers: file descriptor to write to.
    """
    # Not for the user's own subprocesses, which could outlive this process.
    os.set_inheritable(commands, False)
    os.set_inheritable(answers, False)
    positions: queue.SimpleQueue[int] = queue.SimpleQueue()
    threading.Thread(
        target=_listen, args=(os.fdopen(commands, "rb"), positions), daemon=True, name="parent-watch"
    ).start()
    with os.fdopen(answers, "wb", buffering=0) as out:

        def tell(told: Told) -> None:
            out.write(msgspec.json.encode(told) + b"\n")

        tell(Told("ready"))
        while True:
            position = positions.get()
            size = plan.items_per_index
            document = run_index(
                work, position, plan.indexes[position], items[position * size : (position + 1) * size],
                lambda number, record, at=position: tell(Told("item", at, number, record)),  # type: ignore[misc]
            )  # fmt: skip
            error = error_of(document)
            done = sum(record.state == "done" for record in document.items)
            failed = len(document.items) - done
            tell(Told("index", position, done=done, failed=failed, kind=error.kind if error else None))


def _listen(commands: IO[bytes], positions: queue.SimpleQueue[int]) -> None:
    for line in commands:
        positions.put(int(line))
    os._exit(InfrastructureError.exit_code)
